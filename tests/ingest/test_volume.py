import dataclasses

import numpy as np
import pytest

from knee_jax.errors import UnusableKnee, UserError
from knee_jax.ingest.report import Exclusion
from knee_jax.ingest.series import Volume, read_series
from knee_jax.ingest.volume import (
    FACTORS,
    Preparation,
    VolumeFile,
    VolumeJob,
    prepare,
    quantise,
    shrink,
)
from tests.ingest.conftest import reason_of

SMALL = Preparation(shape=(40, 48, 16), border=4)
VIEWS = tuple(FACTORS)


def rng():
    return np.random.default_rng(0)


class TestShrink:
    @pytest.mark.parametrize("view", VIEWS)
    def test_is_trilinear_resampling_in_pytorch(self, view):
        torch = pytest.importorskip("torch")
        voxels = rng().integers(0, 256, (24, 32, 12), np.uint8)
        factors = {"sagittal": (0.5, 0.5, 0.5), "coronal": (0.5, 0.25, 1), "axial": (0.25, 0.5, 1)}
        expected = torch.nn.functional.interpolate(
            torch.from_numpy(voxels.astype(np.float32))[None, None],
            scale_factor=factors[view],
            mode="trilinear",
            align_corners=False,
        )[0, 0].numpy()
        found = shrink(voxels, view)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-4)

    def test_by_two_it_is_the_mean_of_eight(self):
        voxels = rng().random((8, 6, 4), np.float32)
        expected = voxels.reshape(4, 2, 3, 2, 2, 2).mean(axis=(1, 3, 5))
        np.testing.assert_allclose(shrink(voxels, "sagittal"), expected, rtol=1e-6)

    def test_by_four_only_the_inner_two_count(self):
        voxels = np.zeros((2, 8, 1), np.float32)
        voxels[:, [0, 3, 4, 7]] = 99
        voxels[:, 1] = 4
        np.testing.assert_array_equal(shrink(voxels, "coronal"), [[[2.0], [0.0]]])

    @pytest.mark.parametrize("view", VIEWS)
    def test_commutes_with_a_crop_at_whole_factors(self, view):
        """So a crop of the shrunk volume is a shrunk crop, as published."""
        voxels = rng().integers(0, 256, (32, 32, 16), np.uint8)
        a, b, c = FACTORS[view]
        crop = shrink(voxels[2 * a : 6 * a, b : 5 * b, 2 * c :], view)
        np.testing.assert_array_equal(shrink(voxels, view)[2:6, 1:5, 2:], crop)

    def test_a_shape_that_does_not_divide(self):
        with pytest.raises(UserError, match=r"do not shrink by \(2, 4, 1\) for the coronal view"):
            shrink(np.zeros((8, 6, 4)), "coronal")


class TestQuantise:
    def test_published_rule(self):
        """Against the rule's own words, in plain NumPy."""
        voxels = rng().gamma(2.0, 200.0, (30, 30, 30)).astype(np.uint16)
        shifted = np.right_shift(voxels, 3)
        low, high = np.percentile(shifted, 0), np.percentile(shifted, 99.9)
        assert high < shifted.max()
        expected = np.clip(shifted, low, high).astype(np.uint8)
        found = quantise(voxels)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == np.uint8

    def test_published_rule_on_whole_floats_and_signed_values(self):
        voxels = rng().integers(0, 2000, (20, 20, 20))
        expected = quantise(voxels.astype(np.uint16))
        for kind in (np.float32, np.int16, np.int64):
            np.testing.assert_array_equal(quantise(voxels.astype(kind)), expected)

    def test_floats_beyond_any_integer_are_clipped(self):
        voxels = rng().integers(0, 2000, (20, 20, 20)).astype(np.float32)
        high = quantise(voxels).max()
        voxels[3, 4, 5] = 1e11
        assert quantise(voxels)[3, 4, 5] == high

    @pytest.mark.parametrize("factor", [0.01, 1.0, 30.0])
    @pytest.mark.parametrize("offset", [-500.0, 0.0])
    def test_scale_takes_any_range(self, factor, offset):
        voxels = rng().gamma(2.0, 100.0, (30, 30, 30))
        found = quantise(voxels * factor + offset, "scale")
        assert (found.min(), found.max()) == (0, 255)
        # Equal but for the rounding of numbers that fall midway.
        np.testing.assert_allclose(found, quantise(voxels, "scale"), rtol=0, atol=1)
        # One voxel in a thousand is clipped, the others keep their order.
        assert 0.001 <= np.mean(found == 255) <= 0.02
        order = np.argsort(voxels, axis=None)
        assert np.all(np.diff(found.ravel()[order].astype(int)) >= 0)

    def test_the_rules_agree_once_stretched(self):
        """Per volume, from its minimum to its maximum, as it is before a network."""
        voxels = rng().gamma(2.0, 150.0, (30, 30, 30)).astype(np.uint16)
        shift, scale = (quantise(voxels, rule).astype(float) for rule in ("shift", "scale"))
        shift, scale = ((q - q.min()) / (q.max() - q.min()) for q in (shift, scale))
        assert np.abs(shift - scale).max() < 1.5 * 8 / np.percentile(voxels, 99.9)

    @pytest.mark.parametrize(
        ("voxels", "rule", "reason"),
        [
            (np.full((4, 4, 4), 9), "scale", "flat_volume"),
            (np.arange(64).reshape(4, 4, 4) // 8, "shift", "flat_volume"),
            (np.arange(64).reshape(4, 4, 4) * 40, "shift", "beyond_8_bits"),
            (np.arange(64).reshape(4, 4, 4) - 5, "shift", "negative_values"),
            (np.full((4, 4, 4), np.nan), "shift", "not_finite"),
            (np.full((4, 4, 4), np.inf), "scale", "not_finite"),
        ],
    )
    def test_unusable(self, voxels, rule, reason):
        assert reason_of(quantise, voxels, rule) == reason

    def test_the_largest_that_the_published_rule_takes(self):
        voxels = np.full((10, 10, 10), 2047, np.uint16)
        voxels[0] = 0
        assert quantise(voxels).max() == 255
        assert reason_of(quantise, voxels + 1) == "beyond_8_bits"

    def test_unknown_rule(self):
        with pytest.raises(UserError, match="choose shift or scale"):
            quantise(np.arange(8), "window")


class TestPrepare:
    @pytest.mark.parametrize(
        ("view", "shape"),
        [("sagittal", (176, 176, 80)), ("coronal", (176, 88, 160)), ("axial", (88, 176, 160))],
    )
    def test_shapes_of_a_dess_series(self, view, shape):
        preparation = Preparation(view=view)
        assert preparation.result_shape == shape
        voxels = np.broadcast_to(np.arange(384, dtype=np.uint16)[:, None, None], (384, 384, 160))
        found = prepare(Volume(voxels, (0.365, 0.365, 0.7), "R"), preparation)
        assert found.shape == shape
        assert found.dtype == np.uint8
        rows = np.arange(16, 368) >> 3
        factor = FACTORS[view][0]
        middle = rows.reshape(-1, factor)[:, factor // 2 - 1 : factor // 2 + 1].mean(axis=1)
        np.testing.assert_array_equal(found[:, 0, 0], np.rint(middle))

    @pytest.mark.parametrize("view", VIEWS)
    def test_within_half_a_grey_value_of_the_published_order(self, view):
        """They shrink the float volume of a crop; the example is rounded once more."""
        preparation = dataclasses.replace(SMALL, view=view)
        voxels = rng().integers(0, 2000, SMALL.shape, np.uint16)
        published = shrink(quantise(voxels)[4:-4, 4:-4].astype(np.float32), view)
        found = prepare(Volume(voxels, (1, 1, 1), "R"), preparation)
        assert found.shape == preparation.result_shape == published.shape
        assert np.abs(found - published).max() <= 0.5

    @pytest.mark.parametrize(
        "shape", [(384, 384, 29), (352, 352, 29), (384, 384, 159), (320, 384, 160), (384, 160, 384)]
    )
    def test_wrong_shape(self, shape):
        """As of the six corrupted series of OAI, whose cropped volumes were 352x352x29 and such."""
        knee = Volume(np.broadcast_to(np.uint16(1), shape), (0.365, 0.365, 0.7), "R")
        with pytest.raises(UnusableKnee, match="x".join(map(str, shape))) as caught:
            prepare(knee, Preparation())
        assert caught.value.reason == "wrong_shape"


class TestReadKnee:
    FILE = VolumeFile("9000001", "L", 0, "OAI", "D", "00m/0.C.2/9000001/1/2", 2, 1)

    def write(self, make, root, change=lambda slices: slices, side="LEFT"):
        voxels = rng().integers(0, 2000, SMALL.shape, np.uint16)
        slices = make.mr_slices(voxels, (0.4, 0.4, 0.7), SeriesDescription=f"SAG_3D_DESS_{side}")
        make.write_series(root / self.FILE.source, change(slices))
        return voxels

    def test_example(self, make, tmp_path):
        voxels = self.write(make, tmp_path)
        (knee,) = VolumeJob(tmp_path, self.FILE, SMALL)()
        expected = np.rint(shrink(quantise(voxels)[4:-4, 4:-4], "sagittal"))
        np.testing.assert_array_equal(knee.pop("volume"), expected)
        np.testing.assert_allclose(knee.pop("spacing_mm"), [0.8, 0.8, 1.4], rtol=1e-5)
        assert knee.pop("grades").tolist() == [1, -1, -1, -1, -1, -1, -1]
        assert knee == {
            "progression": 2,
            "subject": "9000001",
            "side": "L",
            "visit": 0,
            "cohort": "OAI",
            "site": "D",
            "source": self.FILE.source,
        }

    @pytest.mark.parametrize(
        ("view", "spacing_mm"), [("coronal", (0.8, 1.6, 0.7)), ("axial", (1.6, 0.8, 0.7))]
    )
    def test_spacing_is_that_of_the_view(self, make, tmp_path, view, spacing_mm):
        self.write(make, tmp_path)
        (knee,) = VolumeJob(tmp_path, self.FILE, dataclasses.replace(SMALL, view=view))()
        np.testing.assert_allclose(knee["spacing_mm"], spacing_mm, rtol=1e-5)

    @pytest.mark.parametrize(
        ("reason", "change", "side"),
        [
            ("wrong_shape", lambda slices: slices[:9], "LEFT"),
            ("missing_slices", lambda slices: slices[:5] + slices[6:], "LEFT"),
            ("side_mismatch", lambda slices: slices, "RIGHT"),
        ],
    )
    def test_dropped(self, make, tmp_path, reason, change, side):
        self.write(make, tmp_path, change, side)
        (knee,) = VolumeJob(tmp_path, self.FILE, SMALL)()
        assert isinstance(knee, Exclusion)
        assert (knee.subject, knee.side, knee.visit) == ("9000001", "L", 0)
        assert (knee.source, knee.reason) == (self.FILE.source, reason)

    def test_not_there(self, tmp_path):
        (knee,) = VolumeJob(tmp_path, self.FILE, SMALL)()
        assert knee.reason == "unreadable"


@pytest.mark.real
def test_a_real_series_of_another_scanner(real_data):
    """Its range is beyond OAI's: the published rule refuses it, the other one takes it."""
    knee = read_series(sorted((real_data / "mri_series").glob("*.dcm")), "R")
    assert reason_of(quantise, knee.voxels) == "beyond_8_bits"
    preparation = Preparation(shape=(256, 256, 24), intensity="scale")
    found = prepare(knee, preparation)
    assert found.shape == (112, 112, 12)
    assert found.max() == 255
    assert 30 < np.median(found[30:80, 30:80, 3:9]) < 220
    assert reason_of(prepare, knee, Preparation()) == "wrong_shape"
