"""Pictures of knees: what lies where, in colours that grey and the colour-blind can tell."""

import base64

import cv2
import numpy as np
import pytest

from knee_jax import pictures
from knee_jax.pictures import LATERAL, MEDIAL

BLACK = np.zeros((64, 64), np.uint8)


def coloured(picture, colour):
    """Places of exactly that colour, [n, 2] as x and y of pixel centres."""
    rows, columns = np.nonzero((picture == np.array(colour)).all(-1))
    return np.stack([columns, rows], axis=1) + 0.5


@pytest.mark.parametrize(("index", "colour"), [(3, LATERAL), (73, MEDIAL)])
def test_landmarks_lie_where_the_pixels_are(index, colour):
    keypoints = np.full((74, 2), np.nan)
    keypoints[index] = (40.5, 12.5)
    picture = pictures.knee(BLACK, 256, keypoints=keypoints)
    np.testing.assert_allclose(coloured(picture, colour).mean(0), (162, 50), atol=1)
    other = MEDIAL if colour == LATERAL else LATERAL
    assert not len(coloured(picture, other))


def test_sides_of_landmarks_differ_in_shape():
    """A dot is full, and a cross has gaps, whatever the colours look like."""
    shapes = []
    for index in (3, 73):
        keypoints = np.full((74, 2), np.nan)
        keypoints[index] = (32, 32)
        marked = pictures.knee(BLACK, 64, keypoints=keypoints)[27:37, 27:37].any(-1)
        shapes.append(marked)
    assert (shapes[0] != shapes[1]).sum() > 5


def test_the_picture_is_upright_and_named_at_its_sides():
    image = BLACK.copy()
    image[:32, :32] = 255
    picture = pictures.knee(image, 64)
    assert (picture[:30, :30] == 255).all()
    assert not picture[:30, 34:].any()
    plain = pictures.knee(image, 64, sides=("", ""))
    changed = (picture != plain).any(-1)
    assert changed[40:, :20].any()
    assert changed[40:, 44:].any()
    assert not changed[:32].any()


@pytest.mark.parametrize(("mm_per_pixel", "length"), [(0.4, 20), (0.05, 5), (1.0, 50)])
def test_the_scale_is_as_long_as_it_says(mm_per_pixel, length):
    image = np.zeros((300, 300), np.uint8)
    picture = pictures.knee(image, 300, sides=("", ""), mm_per_pixel=mm_per_pixel)
    line = (picture[-9:-5] == 255).all(-1)
    assert not pictures.knee(image, 300, sides=("", "")).any()
    assert line.sum(1).max() == pytest.approx(length / mm_per_pixel, abs=3)


def test_brighter_heat_is_more_heat_in_grey_too():
    heat = np.repeat(np.linspace(0, 1, 64, dtype=np.float32)[None], 64, 0)
    picture = pictures.evidence(np.full((64, 64), 120, np.uint8), heat, 64, sides=("", ""))
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[32].astype(int)
    assert (np.diff(grey[8:]) >= -1).all()
    assert grey[-1] > grey[8] + 60


def test_no_heat_is_grey_and_resampling_does_not_spread_it():
    heat = np.zeros((8, 8), np.float32)
    heat[2, 3] = 1
    picture = pictures.evidence(np.full((64, 64), 128, np.uint8), heat, 64, sides=("", ""))
    warm = np.ptp(picture.astype(int), axis=2) > 8
    assert warm[16:24, 24:32].all()
    warm[16:24, 24:32] = False
    assert not warm.any()


def test_patches_are_framed():
    heat = np.zeros((48, 48), np.float32)
    black = np.zeros((48, 48), np.uint8)
    framed = pictures.evidence(black, heat, 48, sides=("", ""), patch=(20, 16))
    white = (framed > 200).all(-1)
    assert white[16, :20].all()
    assert white[16, 28:].all()
    assert white[16:36, 0].all()
    assert not white[:16].any()


def test_a_row_has_titles_and_a_bar_of_the_colours():
    panel = np.full((60, 60, 3), 77, np.uint8)
    plain, barred = (pictures.row([("a", panel), ("b", panel)], bar=b) for b in (False, True))
    assert plain.shape[1] == 124
    assert barred.shape[1] > plain.shape[1]
    assert (plain[-60:, :60] == 77).all()
    assert plain[:-60].any()
    long = pictures.row([("words without an end " * 9, panel)])
    assert long.shape == (80, 60, 3)
    strip = barred[38:-22, 124 + 10].astype(int).sum(1)
    assert (np.diff(strip) <= 3).all()  # The most is at the top.
    assert strip[0] > strip[-1] + 200


def test_a_page_holds_the_picture_itself():
    picture = np.dstack([np.full((32, 32), value, np.uint8) for value in (200, 100, 50)])
    kind, _, data = pictures.data_uri(picture).partition(",")
    assert kind == "data:image/jpeg;base64"
    back = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_allclose(back[..., ::-1].reshape(-1, 3).mean(0), (200, 100, 50), atol=3)
