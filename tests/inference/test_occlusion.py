"""Metal, black without exposure and patches are told where they hide the joint, and there alone."""

import dataclasses

import cv2
import numpy as np
import pytest

from knee_jax.inference.found import MOST_ON_PATCHES
from knee_jax.inference.occlusion import on_patches
from knee_jax.landmarks import FEMUR, TIBIA
from tests.inference.drawn_knees import knee_at, picture


def grained(grey):
    """A picture of one grey value [300, 300], with the grain that films have."""
    grain = np.random.default_rng(0).normal(0, 4, (300, 300))
    return np.clip(grey + grain, 1, 254).astype(np.uint8)


def bones_of(points):
    """A grainy picture of two bones."""
    shown = grained(90).astype(np.int16)
    for bone in (FEMUR, TIBIA):
        mask = np.zeros((300, 300), np.uint8)
        cv2.fillPoly(mask, [np.round(points[list(bone)]).astype(np.int32)], 1)
        shown += 60 * mask
    return shown.astype(np.uint8)


def test_metal_on_the_joint_is_no_bone_and_metal_beside_it_is_none_of_its():
    _, (points,) = picture(300, 300, [(60, 150, 160, "R")])
    assert not any(on_patches(grained(90), knee_at(points)).values())
    for top, bottom, replaced in ((140, 160, True), (20, 50, False)):
        metal = grained(90)
        metal[top:bottom, 130:230] = 255
        on = on_patches(metal, knee_at(points))
        assert (on["metal"] > MOST_ON_PATCHES) == replaced
        assert on["black"] == on["covered"] == 0
    assert not any(on_patches(grained(250), knee_at(points)).values())


def test_a_joint_that_was_not_exposed_is_no_joint():
    _, (points,) = picture(300, 300, [(60, 150, 160, "R")])
    half = bones_of(points)
    half[100:, 140:] = 0
    knee = dataclasses.replace(knee_at(points), **on_patches(half, knee_at(points)))
    assert 0.4 < knee.black < 0.7
    assert knee.problem.reason == "joint_cut_off"
    gap = bones_of(points)
    gap[143:150, 20:280] = 0
    assert not any(on_patches(gap, knee_at(points)).values()), "a joint space may be black"
    negative = grained(150)
    for bone in (FEMUR, TIBIA):
        cv2.fillPoly(negative, [np.round(points[list(bone)]).astype(np.int32)], 0)
    assert not any(on_patches(negative, knee_at(points)).values()), "bones may be black"


COVERS = {
    "left": np.s_[:, :140],
    "right": np.s_[:, 140:],
    "upper half": np.s_[:150],
    "lower half": np.s_[145:],
    "middle": np.s_[100:200, 100:200],
    "corner": np.s_[100:, 130:],
}


@pytest.mark.parametrize("grey", [0, 30, 128, 220, 250, 255])
@pytest.mark.parametrize("cover", COVERS)
def test_a_joint_that_something_covers_is_refused(cover, grey):
    _, (points,) = picture(300, 300, [(60, 150, 160, "R")])
    shown = bones_of(points)
    shown[COVERS[cover]] = grey
    knee = dataclasses.replace(knee_at(points), **on_patches(shown, knee_at(points)))
    assert knee.problem is not None
    assert knee.problem.reason in ("joint_covered", "joint_cut_off", "replaced_joint")
    beside = bones_of(points)
    beside[250:] = grey
    knee = dataclasses.replace(knee_at(points), **on_patches(beside, knee_at(points)))
    assert knee.problem is None
