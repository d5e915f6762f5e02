"""Knees are found where they were drawn: on films, crops, either side, any size; or refused."""

import dataclasses

import cv2
import numpy as np
import pytest

from knee_jax.errors import UnusableKnee, UserError
from knee_jax.inference import locate, occlusion, placing
from knee_jax.inference.found import Square
from knee_jax.ingest import dicom
from knee_jax.ingest.film import intensity_window
from knee_jax.ingest.knee_files import (
    UNKNOWN_SIDE_NOTE,
    Knee,
    KneeFileJob,
    Reading,
    Refusal,
    Unplaced,
    picture_of,
)
from knee_jax.ingest.sources import Source
from knee_jax.phantom import windows
from knee_jax.phantom.study import read_points, write_study
from knee_jax.targets.knee_shown import RIGHT
from tests.inference import odd_films
from tests.inference.drawn_knees import knee_at, localiser, picture

ENDS = {"R": "_f.pts", "L": ".pts"}


@pytest.mark.parametrize("mirrored", [False, True])
def test_points_of_a_window_lie_where_its_pixels_do(mirrored):
    grey = np.zeros((90, 120), np.uint8)
    grey[40:43, 70:73] = 255
    square = Square((65.0, 45.0), 60.0, mirrored)
    window = square.cut(grey, 96)
    y, x = np.nonzero(window > 60)
    weights = window[y, x].astype(float)
    centre = np.array([(weights * (x + 0.5)).sum(), (weights * (y + 0.5)).sum()]) / weights.sum()
    np.testing.assert_allclose(square.to_picture(centre / 96), [71.5, 41.5], atol=0.1)


def test_a_shrunken_window_keeps_places():
    grey = np.zeros((900, 900), np.uint8)
    grey[600:630, 300:330] = 255
    square = Square((450.0, 450.0), 900.0, False)
    window = square.cut(grey, 64).astype(float)
    y, x = np.indices(window.shape) + 0.5
    centre = np.array([(window * x).sum(), (window * y).sum()]) / window.sum()
    np.testing.assert_allclose(square.to_picture(centre / 64), [315, 615], atol=4)


@pytest.mark.parametrize("side", ["R", "L"])
@pytest.mark.parametrize("size", [60, 170])
def test_a_knee_is_found_on_a_crop_of_either_side(side, size):
    x = 110 - size / 2 if side == "R" else 110 + size / 2
    grey, (points,) = picture(224, 224, [(x, 115, size, side)])
    (found,) = localiser().find(grey, most=1)
    assert found.looks == side
    np.testing.assert_allclose(found.points, points, atol=0.05 * size)
    assert found.error < locate.LARGEST_ERROR


def test_both_knees_of_a_film_are_found_from_left_to_right():
    grey, planted = picture(700, 900, [(160, 330, 160, "R"), (760, 350, 170, "L")])
    right, left = localiser().find(grey)
    assert (right.looks, left.looks) == ("R", "L")
    for found, points in zip((right, left), planted):
        np.testing.assert_allclose(found.points, points, atol=8)


def test_what_is_no_knee_is_refused_and_a_turned_one_by_name():
    with pytest.raises(UnusableKnee) as nothing:
        localiser().find(np.zeros((300, 400), np.uint8))
    assert nothing.value.reason == "no_knee"
    assert "give a frontal film of the knees" in str(nothing.value)
    grey, _ = picture(224, 224, [(60, 115, 100, "R")])
    with pytest.raises(UnusableKnee) as turned:
        localiser().find(np.ascontiguousarray(np.rot90(grey)), most=1)
    assert turned.value.reason == "turned"


def test_landmarks_out_of_order_are_not_believed():
    _, (points,) = picture(224, 224, [(60, 115, 100, "R")])
    assert locate.is_plausible(knee_at(points))
    assert not locate.is_plausible(knee_at(points, "L"))
    assert not locate.is_plausible(knee_at(points * [1, -1]))
    assert not locate.is_plausible(knee_at(points, probability=0.4))
    assert not locate.is_plausible(knee_at(points, error=9.0))


def knee(image, side, notes=()):
    return Knee("a.png", side, image, np.full((74, 2), np.nan, np.float32), "crop", notes)


def placed(*read):
    return placing.place(Source(None, "a.png"), read, Reading(pixels=224), localiser())


def test_a_crop_of_unknown_side_is_read_as_it_looks():
    grey, (points,) = picture(224, 224, [(175, 115, 126, "L")])
    (read,) = placed(knee(grey, "", (UNKNOWN_SIDE_NOTE,)))
    assert (read.side, read.notes) == ("L", (placing.SIDE_SEEN,))
    np.testing.assert_array_equal(read.image, grey[:, ::-1])
    np.testing.assert_allclose(read.landmarks, points * [-1, 1] + [224, 0], atol=5)


def test_a_crop_that_looks_like_the_other_side_is_told():
    grey, _ = picture(224, 224, [(175, 115, 126, "L")])
    (read,) = placed(knee(grey, "R"))
    assert read.side == "R"
    assert "looks like a left knee" in read.notes[0]
    assert np.isnan(read.landmarks).all()


def test_a_crop_without_a_knee_is_refused():
    (read,) = placed(knee(np.zeros((224, 224), np.uint8), "R"))
    assert isinstance(read, Refusal)
    assert read.reason == "no_knee"


@pytest.fixture(scope="module")
def phantom_film(tmp_path_factory):
    """Picture of a phantom film of both knees, and its spacing, mm."""
    folder = tmp_path_factory.mktemp("film")
    write_study(folder, num_subjects=1, visits=(0,), rows=900, progress=False)
    (path,) = folder.rglob("001")
    film = dicom.read_film(path)
    grey, (spacing, _) = picture_of(film, intensity_window(film.pixels))
    return grey, spacing


def placed_file(path, grey, **reading):
    """The knees of a picture in a file."""
    cv2.imwrite(str(path), grey)
    source, how = Source(path, path.name), Reading(pixels=224, localise=True, **reading)
    return placing.place(source, KneeFileJob(source, how)(), how, locate.shipped())


def plateau(knee):
    """Width of a knee's plateau, a share of its image."""
    return np.linalg.norm(knee.landmarks[63] - knee.landmarks[47]) / 224


@pytest.mark.parametrize("like_crops", [False, True])
def test_a_film_that_is_a_picture_is_cut_by_its_plateaus(like_crops, phantom_film, tmp_path):
    """As one whose pixel size is known, but that both plateaus are 79 mm wide on average."""
    grey, spacing = phantom_film
    known = placed_file(tmp_path / "a.png", grey, spacing_mm=spacing, like_crops=like_crops)
    unknown = placed_file(tmp_path / "b.png", grey, like_crops=like_crops)
    negative = placed_file(tmp_path / "c.png", 255 - grey, like_crops=like_crops)
    for knees in (known, unknown, negative):
        assert [(knee.side, knee.located) for knee in knees] == [
            ("R", "localiser"),
            ("L", "localiser"),
        ]
    for one, other, inverted in zip(known, unknown, negative, strict=True):
        assert not one.notes
        assert one.spacing_mm > 0
        assert other.notes == (placing.NO_SCALE,)
        assert np.isnan(other.spacing_mm)
        assert inverted.notes == (placing.INVERTED, placing.NO_SCALE)
        # The localiser's view of it has the percentiles of the negative.
        assert np.abs(inverted.image.astype(int) - other.image).mean() < 1
        assert plateau(other) == pytest.approx(1 / 1.273 if like_crops else 79 / 140, rel=0.05)
    if like_crops:
        # These are cut by their own plateaus, whatever the pixel size.
        for one, other in zip(known, unknown, strict=True):
            np.testing.assert_allclose(one.landmarks, other.landmarks, atol=1)


def test_a_loose_crop_is_cut_again_and_a_close_one_left(phantom_film, tmp_path):
    """Half of a film, as a picture; and both knees in one that is nearly square."""
    grey, _ = phantom_film
    height, width = grey.shape
    half = grey[(height - width // 2) // 2 :][: width // 2, : width // 2]
    (loose,) = placed_file(tmp_path / "a.png", half, like_crops=True)
    assert (loose.side, loose.located) == ("R", "localiser")
    assert loose.notes == (placing.NO_SCALE, placing.SIDE_SEEN)
    (close,) = placed_file(tmp_path / "b.png", loose.image, like_crops=True)
    assert (close.side, close.located) == ("R", "crop")
    np.testing.assert_array_equal(close.image, loose.image)
    square = grey[:, (width - height * 5 // 4) // 2 :][:, : height * 5 // 4]
    both = placed_file(tmp_path / "c.png", square, like_crops=True)
    assert [(knee.side, knee.located) for knee in both] == [("R", "localiser"), ("L", "localiser")]
    swapped = np.roll(square, square.shape[1] // 2, axis=1)
    refused = placed_file(tmp_path / "d.png", swapped, like_crops=True)
    assert {each.reason for each in refused} == {"sides_swapped"}


def test_negatives_are_inverted_and_nothing_else_is():
    """Phantom knees of either brightness, by the shipped localiser."""
    near = [w for w in windows.draw(4_242, 12, 224) if w.shown == RIGHT and w.spacing_mm < 0.62]
    for window in near[:4]:
        doubt = (dicom.NOTES["bones_look_dark"],)
        shown = [knee(image, "R", doubt) for image in (window.image, 255 - window.image)]
        one, other = (placing._positive(each, locate.shipped())[0] for each in shown)
        inverted = [placing.INVERTED in each.notes for each in (one, other)]
        assert sorted(inverted) == [False, True]
        assert not any(set(doubt) & set(each.notes) for each in (one, other))
        np.testing.assert_array_equal(one.image, other.image)


@pytest.mark.real
def test_negatives_of_real_crops_are_told(real_data):
    """Of real crops that are none themselves."""
    files = sorted((real_data / "kneekl224/val/2").glob("*.png"))[:12]
    for file in files:
        crop = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        (found,) = locate.shipped().find(crop, most=1)
        assert occlusion.bone_contrast(crop, found) > placing.CERTAIN_CONTRAST
        assert found.covered == found.black == 0
        negative, _ = placing._positive(knee(255 - crop, ""), locate.shipped())
        assert placing.INVERTED in negative.notes
        np.testing.assert_array_equal(negative.image, crop)


def test_two_knees_of_one_side_are_refused():
    grey, _ = picture(700, 900, [(110, 330, 130, "R"), (740, 350, 130, "R")])
    (read,) = placed(Unplaced("a.dcm", "", grey, (0.4, 0.4)))
    assert (read.reason, read.side) == ("same_side", "")


def test_refusals_and_knees_with_landmarks_pass():
    refusal = Refusal("a.png", "", "not_an_image", "no picture")
    done = Knee("a.dcm", "R", np.zeros((9, 9), np.uint8), np.zeros((74, 2)), "landmarks")
    assert placed(refusal, done) == [refusal, done]


@pytest.mark.parametrize("side", ["R", "L"])
def test_the_shipped_localiser_finds_a_phantom_knee(side):
    """Within 2.5 mm on average, on a near window of a film that it was not trained on."""
    near = [w for w in windows.draw(4_242, 3, 256) if w.shown == RIGHT and w.spacing_mm < 0.62]
    window = near[0]
    picture = window.image if side == "R" else np.ascontiguousarray(window.image[:, ::-1])
    (knee,) = locate.shipped().find(picture, most=1, looks=side)
    points = knee.points if side == "R" else knee.points * [-1, 1] + [256, 0]
    inside = ((window.points > 0) & (window.points < 256)).all(1)
    distances = np.linalg.norm(points - window.points, axis=1)[inside] * window.spacing_mm
    assert distances.mean() < 2.5


def test_the_shipped_localiser_refuses_what_is_no_knee():
    for seed in range(3):
        noise = np.random.default_rng(seed).integers(0, 256, (200, 240), np.uint8)
        with pytest.raises(UnusableKnee, match="no knee"):
            locate.shipped().find(noise)


def test_a_knee_that_is_cut_off_by_the_film_is_refused_and_the_other_is_read(tmp_path):
    write_study(tmp_path, num_subjects=1, visits=(0,), rows=512, progress=False)
    (path,) = tmp_path.rglob("001")
    film = dicom.read_film(path)
    grey, spacing = picture_of(film, intensity_window(film.pixels))
    width_mm = grey.shape[1] * spacing[0]
    points = {side: read_points(path.with_name(f"001{end}")) for side, end in ENDS.items()}
    points["R"][:, 0] = width_mm - points["R"][:, 0]
    points["L"][:, 0] += width_mm - points["L"][60, 0]
    knees = [knee_at(points[side] / spacing, side) for side in ("R", "L")]

    class Knows:
        def find(self, picture, most=2, looks=""):
            return knees[:most]

        def again(self, picture, knee, looks):
            return None

    source = Source(path, "001")
    unplaced = Unplaced("001", "", grey, spacing)
    reading = Reading(pixels=100)
    right, left = placing.place(source, [unplaced], reading, Knows())
    assert (right.side, right.located, right.notes) == ("R", "localiser", ())
    np.testing.assert_allclose(right.landmarks[55], 50, atol=0.1)
    assert (left.side, left.reason) == ("L", "landmarks_outside")
    del knees[1]
    (alone,) = placing.place(source, [unplaced], reading, Knows())
    assert alone.notes == (placing.ONLY_ONE,)


def test_a_strip_that_is_thinner_than_a_step_is_cut():
    strip = np.full((10, 5000), 90, np.uint8)
    window = Square((2500.0, 5.0), 5000.0, False).cut(strip, 96)
    assert window.shape == (96, 96)


def test_a_model_that_finds_no_landmarks_is_no_localiser():
    with pytest.raises(UserError, match="kl-kneekl224: finds no landmarks; name a localiser"):
        locate.load("kl-kneekl224")


@pytest.mark.slow
@pytest.mark.parametrize("is_square", [False, True])
def test_a_mirrored_film_is_told_as_a_picture_too(is_square, tmp_path):
    """Its size in mm is unknown, and it might be a crop of one knee."""
    shown = odd_films.KINDS["mirrored"](np.random.default_rng([3, 405])).picture()
    if is_square:
        side = max(shown.shape)
        shown = np.pad(shown, [(0, side - n) for n in shown.shape])
    cv2.imwrite(str(tmp_path / "film.png"), shown)
    source, reading = Source(tmp_path / "film.png", "film.png"), Reading(350, localise=True)
    job = KneeFileJob(source, reading)
    (refusal,) = placing.place(source, job(), reading, locate.shipped())
    assert refusal.reason == "mirrored_film"


RIGHT_AGAIN = ("ordinary", "screws", "white border", "text across", "inverted", "crop, screws")
"""Kinds of odd films whose knees are marked all the same, or are missed."""

REFUSED = {
    "mirrored": {"mirrored_film"},
    "turned by 90": {"turned"},
    "turned by 180": {"turned"},
    "one knee, mirrored": {"side_mismatch"},
    "prostheses": {"replaced_joint", "not_marked"},
    "child": {"replaced_joint", "not_marked", "no_knee"},
    "lateral view": {"no_knee", "not_marked"},
    "hips": {"no_knee"},
    "half prosthesis": {"replaced_joint", "right"},
    "crop, half black": {"joint_cut_off", "not_marked", "no_knee", "turned"},
}
"""Kinds with knees that cannot be marked, and what may become of them and of others beside them."""


def outcomes_of(kind, seed):
    given = odd_films.KINDS[kind](np.random.default_rng([seed, 405]))
    return odd_films.outcomes(given, odd_films.placed(given, locate.shipped()))


@pytest.mark.slow
@pytest.mark.parametrize("kind", RIGHT_AGAIN)
def test_odd_films_are_marked_rightly(kind):
    found = outcomes_of(kind, 0)
    assert "right" in found
    assert set(found) == {"right"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", REFUSED)
def test_knees_that_cannot_be_marked_are_refused_by_name(kind):
    found = outcomes_of(kind, 0)
    assert found
    assert set(found) <= REFUSED[kind]


def test_a_knee_with_metal_is_refused_beside_one_that_is_read():
    grey, planted = picture(700, 900, [(160, 330, 160, "R"), (760, 350, 170, "L")])
    knees = [
        dataclasses.replace(knee_at(points, side), metal=metal)
        for points, side, metal in zip(planted, "RL", (0.5, 0.0))
    ]

    class Knows:
        def find(self, picture, most=2, looks=""):
            return knees

    def read(job):
        return [
            Refusal("a.dcm", side, each.reason, each.detail)
            if isinstance(each, UnusableKnee)
            else Knee("a.dcm", side, np.zeros((9, 9), np.uint8), each, "localiser")
            for side, each in job.found.items()
        ]

    unplaced = Unplaced("a.dcm", "", grey, (0.4, 0.4))
    source, reading = Source(None, "a.dcm"), Reading(pixels=100)
    right, left = placing.place(source, [unplaced], reading, Knows(), read)
    assert (right.side, right.reason) == ("R", "replaced_joint")
    assert (left.side, left.located) == ("L", "localiser")
