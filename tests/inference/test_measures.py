"""Joint space widths and angles from landmarks, against known geometry and the phantom's own."""

import numpy as np
import pytest

from knee_jax.inference import measures
from knee_jax.inference.measures import joint_space_widths, width_error
from knee_jax.phantom.anatomy import joint_angle, make_knee, medial_joint_space, shaft_angle


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


def two_shafts(degrees):
    """Straight walls of both bones over a flat joint, the femur turned about the origin."""
    points = flat_joint(5.0, 5.0)
    for first, last, away in ((0, 36, -1), (37, 73, 1)):
        for i in range(12 if first == 0 else 10):
            y = away * (60 - 4 * i)
            points[first + i], points[last - i] = (-30, y), (30, y)
    turn = np.radians(degrees)
    cos, sin = np.cos(turn), np.sin(turn)
    points[:37] = points[:37] @ np.array([[cos, sin], [-sin, cos]])
    return points


@pytest.mark.parametrize("degrees", [-6.0, 0.0, 4.0])
def test_angles_are_those_by_which_the_femur_is_turned(degrees):
    """Clockwise on a right knee: the joint opens laterally, as in varus."""
    points = two_shafts(degrees)
    assert measures.joint_angle(points) == pytest.approx(degrees, abs=0.05)
    assert measures.axis_angle(points) == pytest.approx(degrees, abs=1e-6)


def test_angles_change_with_no_turn_shift_or_scale_of_the_whole_knee():
    points = two_shafts(3.0)
    cos, sin = np.cos(0.4), np.sin(0.4)
    moved = 1.7 * points @ np.array([[cos, sin], [-sin, cos]]) + (100, 50)
    for angle in (measures.joint_angle, measures.axis_angle):
        assert angle(moved) == pytest.approx(angle(points), abs=0.02)


def test_angles_agree_with_the_phantoms_outlines():
    rng = np.random.default_rng(0)
    joint, axes, lost = [], [], []
    for _ in range(60):
        lost.append(rng.uniform(0, 0.9, 2))
        knee = make_knee(rng, rng.uniform(0, 3, 4), lost[-1], rng.normal(78, 6), 0.0)
        joint.append((measures.joint_angle(knee.landmarks), joint_angle(knee)))
        axes.append((measures.axis_angle(knee.landmarks), shaft_angle(knee)))
    off = np.diff(joint)[:, 0]
    assert abs(off.mean()) < 0.1
    assert off.std() < 0.25
    assert np.corrcoef(np.diff(lost)[:, 0], np.array(joint)[:, 0])[0, 1] > 0.8, "varus is positive"
    # The flared ends lie at an angle to the shafts, which is nearly the same for all.
    assert np.diff(axes).std() == pytest.approx(measures.SHAPE_DEG, abs=0.25)
    assert np.corrcoef(np.array(axes).T)[0, 1] > 0.75


def test_errors_of_angles_are_those_of_scattered_landmarks():
    rng = np.random.default_rng(0)
    points = two_shafts(2.0)
    sd = 0.8
    expected = sd * 0.63
    scattered = points + rng.normal(0, sd, (400, 74, 2))
    axes = np.std([measures.axis_angle(each) for each in scattered])
    whole = measures.axis_angle_error(points, expected)
    assert np.hypot(axes, measures.SHAPE_DEG) == pytest.approx(whole, rel=0.1)
    # Its places are means over landmarks or the lowest of several: at most the error of one.
    joint = np.std([measures.joint_angle(each) for each in scattered])
    assert 0.4 < joint / measures.joint_angle_error(points, expected) < 1.1


def test_what_the_picture_does_not_show_has_no_angle():
    points = two_shafts(2.0)
    points[3] = np.nan
    assert np.isnan(measures.axis_angle(points))
    assert np.isnan(measures.axis_angle_error(points, 0.5))
    assert np.isfinite(measures.joint_angle(points))
    points[50] = np.nan
    assert np.isnan(measures.joint_angle(points))
    assert np.isnan(measures.joint_angle_error(points, 0.5))
