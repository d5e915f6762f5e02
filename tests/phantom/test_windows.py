"""Windows for the localiser: landmarks move with the picture, and every kind is drawn."""

import cv2
import numpy as np
import pytest

from knee_jax.landmarks import CONDYLES, PLATEAU
from knee_jax.phantom import film, windows
from knee_jax.targets.knee_shown import LEFT, NAMES, NONE, REPLACED, RIGHT, TURNED

PIXELS = 96


@pytest.fixture(scope="module")
def drawn():
    return [window for number in range(6) for window in windows.draw(3, number, PIXELS)]


def test_a_film_is_the_same_again_and_another_is_not(drawn):
    again = windows.draw(3, 0, PIXELS)
    for first, second in zip(drawn, again):
        np.testing.assert_array_equal(first.image, second.image)
        np.testing.assert_array_equal(first.points, second.points)
    other = windows.draw(3, 1, PIXELS)
    assert not np.array_equal(other[0].image, again[0].image)


def test_every_kind_is_drawn_and_only_right_looking_knees_have_landmarks(drawn):
    shown = np.array([window.shown for window in drawn])
    assert {NONE, RIGHT, LEFT, TURNED} <= set(shown)
    assert (shown == RIGHT).sum() > (shown == LEFT).sum()
    assert len(NAMES) == 1 + max(NONE, RIGHT, LEFT, REPLACED, TURNED)
    for window in drawn:
        assert window.image.shape == (PIXELS, PIXELS)
        assert window.image.dtype == np.uint8
        assert np.isfinite(window.points).all() == (window.shown == RIGHT)


def test_landmarks_are_of_an_upright_right_knee(drawn):
    for window in drawn:
        if window.shown != RIGHT:
            continue
        points = window.points
        assert (np.diff(points[list(PLATEAU), 0]) > 0).mean() > 0.8
        assert points[list(CONDYLES), 1].mean() < points[list(PLATEAU), 1].mean()
        width_mm = np.linalg.norm(points[63] - points[47]) * window.spacing_mm
        assert 45 < width_mm < 130


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("bent", [False, True])
def test_points_follow_what_is_bent_turned_and_mirrored(mirrored, bent):
    """Bright spots planted on a film are where the window says that they are."""
    spacing = 0.25
    points = np.array([[40.0, 35.0], [60.0, 52.0], [47.0, 66.0]])
    geometry = film.Geometry(400, 400, spacing, np.zeros((2, 2)), np.zeros(2))
    for number, point in enumerate(points):
        picture = np.zeros((400, 400), np.float32)
        cv2.circle(picture, tuple(np.round(point / spacing - 0.5).astype(int)), 5, 1.0, -1)
        taken, found = windows._cut(
            np.random.default_rng(number), picture, geometry, np.array([50.0, 50.0]), 70.0,
            0.3, mirrored, points, 140, bent,
        )  # fmt: skip
        weights = taken / taken.sum()
        y, x = np.indices(taken.shape) + 0.5
        centroid = [(weights * x).sum(), (weights * y).sum()]
        np.testing.assert_allclose(centroid, found[number], atol=0.7)
