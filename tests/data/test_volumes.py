import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from knee_jax.config import fields, load
from knee_jax.config.schema import Input
from knee_jax.configs import mri_progression
from knee_jax.data import augment
from knee_jax.data.volumes import VIEWS, VolumeCrop, rotate
from knee_jax.errors import UserError
from knee_jax.ingest.volume import FACTORS

STILL = VolumeCrop(rotation_probability=0, gamma_probability=0)
SHAPE, SIZE = (12, 11, 10), (8, 7, 6)


def random_volumes(number, shape=SHAPE):
    return np.random.default_rng(0).integers(3, 250, (number, *shape), np.uint8)


def make_inputs(crop, volumes, size=SIZE, seed=0, **options):
    """Return inputs of a batch as NumPy; by default those of training, not normalised."""
    make = jax.jit(
        functools.partial(
            augment.make_inputs,
            size=size,
            augmentation=crop,
            **{"statistics": (0.0, 1.0), "train": True, "channels": 1} | options,
        )
    )
    found, keypoints = make({"volume": jnp.asarray(volumes)}, jax.random.key(seed))
    assert keypoints is None
    return np.asarray(found)


def stretched(voxels):
    voxels = voxels.astype(np.float64)
    return (voxels - voxels.min()) / (voxels.max() - voxels.min())


# ---- Evaluation ----


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("shape", [SHAPE, (13, 12, 9)])
def test_evaluation_input_equals_numpy(view, shape):
    volumes = random_volumes(3, shape)
    found = make_inputs(
        VolumeCrop(view=view),
        volumes,
        train=False,
        statistics=VolumeCrop.intensities,
    )
    for volume, ours in zip(volumes, found):
        start = [(whole - part) // 2 for whole, part in zip(shape, SIZE)]
        crop = volume[tuple(slice(s, s + part) for s, part in zip(start, SIZE))]
        expected = (stretched(crop) - 0.257) / 0.235
        # Slices, rows and columns of what a human reader of that view looks at.
        for index in np.ndindex(ours.shape[:3]):
            n, row, column = index
            at = {
                "sagittal": (row, column, n),
                "coronal": (row, n, column),
                "axial": (n, row, column),
            }[view]
            assert ours[(*index, 0)] == pytest.approx(expected[at], abs=1e-5)


def test_input_shape_is_that_of_the_inputs():
    for view in VIEWS:
        crop = VolumeCrop(view=view)
        for train in (False, True):
            found = make_inputs(crop, random_volumes(2), train=train, channels=3)
            assert found.shape[1:] == augment.input_shape(crop, SIZE, 3)
    assert augment.input_shape(VolumeCrop(), (160, 160, 64), 1) == (64, 160, 160, 1)
    assert augment.input_shape(VolumeCrop(view="coronal"), (160, 80, 128), 1) == (80, 160, 128, 1)
    assert augment.input_shape(VolumeCrop(view="axial"), (80, 160, 128), 1) == (80, 160, 128, 1)
    assert augment.input_shape(augment.Affine(), 32, 3) == (32, 32, 3)


def test_a_volume_without_contrast_is_black():
    found = make_inputs(STILL, np.full((1, *SHAPE), 7, np.uint8))
    np.testing.assert_array_equal(found, 0)


# ---- Crops ----


def test_crops_lie_everywhere_alike():
    shape, size = (6, 5, 4), (3, 4, 3)
    volume = random_volumes(1, shape)[0]
    places = list(np.ndindex(4, 2, 2))
    known = np.stack(
        [
            stretched(volume[r : r + 3, c : c + 4, s : s + 3]).transpose(2, 0, 1)
            for r, c, s in places
        ]
    )
    found = make_inputs(STILL, np.stack([volume] * 3200), size)[..., 0]
    off = np.abs(known[:, None] - found).max(axis=(2, 3, 4))
    np.testing.assert_allclose(off.min(axis=0), 0, atol=1e-6)
    counts = np.bincount(off.argmin(axis=0), minlength=len(places))
    assert stats.chisquare(counts).pvalue > 1e-3


def test_a_crop_as_large_as_the_volume_is_the_volume():
    volumes = random_volumes(2)
    found = make_inputs(STILL, volumes, SHAPE)[..., 0]
    for volume, ours in zip(volumes, found):
        np.testing.assert_allclose(ours.transpose(1, 2, 0), stretched(volume), atol=1e-6)


# ---- Rotation ----


def test_rotation_by_nothing_changes_no_bit():
    volume = np.random.default_rng(1).random((9, 12, 3), np.float32)
    for aspect in (1.0, 2.0, 0.5):
        np.testing.assert_array_equal(rotate(volume, jnp.float32(0), aspect), volume)


def test_a_quarter_turn_is_that_of_numpy():
    volume = np.random.default_rng(1).random((10, 10, 3), np.float32)
    np.testing.assert_allclose(
        rotate(volume, jnp.float32(np.pi / 2)), np.rot90(volume, -1), atol=1e-5
    )


@pytest.mark.parametrize("aspect", [1.0, 2.0, 0.5])
@pytest.mark.parametrize("degrees", [-15.0, 7.3, 40.0])
def test_rotation_equals_scipy(aspect, degrees):
    """Every voxel looked up where it came from, in mm."""
    volume = np.random.default_rng(2).random((14, 9, 2)).astype(np.float32)
    angle = np.deg2rad(degrees)
    row, column = np.mgrid[:14, :9].astype(np.float64)
    down, right = row - 6.5, (column - 4) * aspect
    # The content turns from columns to rows: what is at (right, down) was an angle before it.
    was_right = np.cos(angle) * right + np.sin(angle) * down
    was_down = -np.sin(angle) * right + np.cos(angle) * down
    at = np.stack([was_down + 6.5, was_right / aspect + 4])
    found = np.asarray(rotate(volume, jnp.float32(angle), aspect))
    for n in range(2):
        expected = ndimage.map_coordinates(volume[..., n], at, order=1, mode="grid-constant")
        np.testing.assert_allclose(found[..., n], expected, atol=2e-5)


def test_one_angle_for_all_slices_and_another_for_each_knee():
    slice_ = random_volumes(1, (12, 12, 1))[0]
    volumes = np.repeat(np.repeat(slice_[None], 6, axis=3), 8, axis=0)
    crop = dataclasses.replace(STILL, rotation_probability=1)
    found = make_inputs(crop, volumes, (12, 12, 6))[..., 0]
    np.testing.assert_array_equal(found, np.repeat(found[:, :1], 6, axis=1))
    assert len(np.unique(found[:, 0].reshape(8, -1), axis=0)) == 8


def test_half_of_the_knees_are_rotated_by_angles_of_the_range():
    """A bright spot on a long arm shows the angle."""
    volume = np.zeros((41, 41, 1), np.uint8)
    rows, columns = np.mgrid[-20:21, -20:21]
    spot = np.exp(-((rows**2) + (columns - 13) ** 2) / 8)
    volume[..., 0] = np.rint(255 * spot)
    crop = dataclasses.replace(STILL, rotation_probability=0.5)
    found = make_inputs(crop, np.stack([volume] * 800), (41, 41, 1))[:, 0, :, :, 0]
    weight = found.sum(axis=(1, 2))
    down = (found * rows).sum(axis=(1, 2)) / weight
    right = (found * columns).sum(axis=(1, 2)) / weight
    angles = np.rad2deg(np.arctan2(down, right))
    turned = angles[np.abs(angles) > 1e-4]
    assert abs(len(turned) - 400) < 60
    assert stats.kstest(turned, stats.uniform(-15, 30).cdf).pvalue > 1e-3


# ---- Gamma ----


def test_half_of_the_knees_are_changed_by_gammas_of_the_range():
    volume = np.arange(60, dtype=np.uint8).reshape(5, 4, 3)
    crop = dataclasses.replace(STILL, gamma_probability=0.5)
    found = make_inputs(crop, np.stack([volume] * 800), volume.shape).astype(np.float64)[..., 0]
    before = stretched(volume).transpose(2, 0, 1)
    inner = (before > 0) & (before < 1)
    exponents = np.log(found[:, inner]) / np.log(before[inner])
    np.testing.assert_allclose(exponents, exponents[:, :1] * np.ones(inner.sum()), rtol=1e-3)
    gammas = 1 / exponents[:, 0]
    changed = gammas[np.abs(gammas - 1) > 1e-4]
    assert abs(len(changed) - 400) < 60
    assert stats.kstest(changed, stats.uniform(0.5, 1.5).cdf).pvalue > 1e-3


# ---- Keys ----


def test_inputs_depend_on_key_and_slot_alone():
    volumes = random_volumes(6)
    crop = VolumeCrop()
    found = make_inputs(crop, volumes)
    np.testing.assert_array_equal(found, make_inputs(crop, volumes))
    np.testing.assert_array_equal(found[:2], make_inputs(crop, volumes[:2]))
    assert not np.array_equal(found, make_inputs(crop, volumes, seed=1))
    alike = make_inputs(crop, np.repeat(volumes[:1], 6, axis=0))
    assert len(np.unique(alike.reshape(6, -1), axis=0)) == 6
    assert np.isfinite(found).all()
    assert found.min() >= 0
    assert found.max() <= 1


# ---- Configs ----


def test_a_config_names_it_and_its_fields():
    config = load.base()
    config.augmentation = load.augmentation("volume_crop", gamma=(0.7, 1.4))
    config.input.volume = (16, 15, 14)
    parsed = load.parse(config)
    assert parsed.augmentation == VolumeCrop(gamma=(0.7, 1.4))
    assert augment.size_of(parsed.input) == (16, 15, 14)


@pytest.mark.parametrize(
    ("changes", "inputs", "message"),
    [
        ({"view": "frontal"}, {}, "view = 'frontal': .*choose from sagittal, coronal, axial"),
        ({"rotation": -1}, {}, "rotation = -1: a number from 0 to 90"),
        ({"gamma": (0, 2)}, {}, r"gamma = \(0, 2\): a tuple of 2 numbers above 0"),
        ({"gamma_probability": 2}, {}, "gamma_probability = 2: a number from 0 to 1"),
        ({}, {"volume": (8, 8)}, r"input.volume = \(8, 8\): a tuple of 3 whole numbers"),
        ({}, {"volume": (8, 8, 0)}, r"input.volume = \(8, 8, 0\): a tuple of 3 whole numbers"),
        ({}, {"volume": ()}, "reads volumes, and config.input has no volume, but films"),
        ({}, {"channels": 3}, "input.channels = 3: volumes have 1"),
        ({"name": "affine"}, {}, "reads images, and config.input has a volume"),
    ],
)
def test_fields_without_meaning(changes, inputs, message):
    options = {"name": "volume_crop"} | changes
    with pytest.raises(UserError, match=message):
        augment.check_input(
            fields.build(augment.find(options.pop("name")), options, "config.augmentation"),
            fields.build(Input, {"volume": SIZE} | inputs, "config.input"),
        )


def test_sets_of_which_no_input_can_be_made():
    even = (0.7, 0.7, 1.4)
    augment.check_fit(VolumeCrop(), SIZE, "volume", SHAPE, even)
    with pytest.raises(UserError, match=r"no crop of \(8, 7, 5\)"):
        augment.check_fit(VolumeCrop(), SIZE, "volume", (8, 7, 5), even)
    with pytest.raises(UserError, match="inputs of volumes, and the set has images"):
        augment.check_fit(VolumeCrop(), SIZE, "image", (350, 350), (0.4,))
    with pytest.raises(UserError, match="inputs of images, and the set has volumes"):
        augment.check_fit(augment.Affine(), 32, "volume", SHAPE, even)


@pytest.mark.parametrize("view", VIEWS)
def test_a_rotation_knows_by_how_much_the_set_was_shrunk(view):
    of_rows, of_columns, of_slices = FACTORS[view]
    spacing_mm = (0.365 * of_rows, 0.365 * of_columns, 0.7 * of_slices)
    config = mri_progression.get_config("oai" if view == "sagittal" else f"{view},oai")
    crop = load.parse(config).augmentation
    augment.check_fit(crop, SIZE, "volume", SHAPE, spacing_mm)
    wrong = dataclasses.replace(crop, aspect=crop.aspect * 1.5)
    with pytest.raises(UserError, match=rf"aspect = .*set it to {crop.aspect:g}"):
        augment.check_fit(wrong, SIZE, "volume", SHAPE, spacing_mm)
