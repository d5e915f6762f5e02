"""Joint space width from landmarks, against known geometry and the phantom's own."""

import numpy as np
import pytest

from knee_jax.inference.measures import joint_space_widths, width_error
from knee_jax.phantom.anatomy import make_knee, medial_joint_space


def flat_joint(lateral, medial):
    """Straight condyles over a straight plateau, apart by two widths."""
    points = np.zeros((74, 2))
    points[12:25, 0], points[47:64, 0] = np.linspace(-40, 40, 13), np.linspace(-40, 40, 17)
    points[12:25, 1] = -np.where(points[12:25, 0] < 0, lateral, medial)
    return points


def test_widths_are_the_distance_of_the_bones():
    lateral, medial = joint_space_widths(flat_joint(5.0, 3.0))
    assert lateral == pytest.approx(5.0, abs=0.05)
    assert medial == pytest.approx(3.0, abs=0.05)


def test_widths_scale_turn_and_move_with_the_knee():
    points = flat_joint(4.0, 6.0)
    turn = np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    moved = 2 * points @ turn.T + (100, 50)
    expected = 2 * np.array(joint_space_widths(points))
    np.testing.assert_allclose(joint_space_widths(moved), expected, rtol=1e-6)


def test_the_medial_width_agrees_with_the_phantoms_outlines():
    rng = np.random.default_rng(0)
    differences = []
    for _ in range(40):
        lost = rng.uniform(0, 0.9, 2)
        knee = make_knee(rng, rng.uniform(0, 3, 4), lost, rng.normal(78, 6), 0.0)
        differences.append(joint_space_widths(knee.landmarks)[1] - medial_joint_space(knee))
    assert abs(np.mean(differences)) < 0.1
    assert np.std(differences) < 0.2


def test_unknown_landmarks_give_no_width():
    points = flat_joint(4.0, 6.0)
    points[13] = np.nan
    assert np.isnan(joint_space_widths(points)).all()


def test_the_error_is_that_of_two_landmarks():
    rng = np.random.default_rng(0)
    offsets = rng.normal(0, 0.8, (20000, 2, 2))
    expected = np.linalg.norm(offsets, axis=-1).mean() / 2
    across = (offsets[:, 0, 1] - offsets[:, 1, 1]).std()
    assert width_error(expected) == pytest.approx(across, rel=0.02)
