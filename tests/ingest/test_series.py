import copy
import itertools
import sys

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRBigEndian, RLELossless

from knee_jax.errors import UnusableKnee, UserError
from knee_jax.ingest.series import Volume, read_nifti, read_series, read_volume
from tests.ingest.conftest import reason_of

nibabel = pytest.importorskip("nibabel")

SHAPE = (6, 8, 7)
SPACING = (0.5, 0.25, 3.0)
VOXELS = np.random.default_rng(0).integers(0, 4096, SHAPE, np.uint16)
# A sagittal slice's normal, right x down, points to the patient's right.
TO_THE_RIGHT = -1


class TestFrame:
    """The array is [superior to inferior, anterior to posterior, lateral to medial]."""

    @pytest.mark.parametrize("side", "LR")
    def test_from_lateral_to_medial(self, make, tmp_path, side):
        description = {"L": "SAG_3D_DESS_LEFT", "R": "SAG_3D_DESS_RIGHT"}[side]
        slices = make.mr_slices(VOXELS, SPACING, SeriesDescription=description)
        x = [each.ImagePositionPatient[0] for each in slices]
        assert np.all(np.diff(x) < 0)  # DICOM's x grows to the patient's left.
        found = read_volume(make.write_series(tmp_path / "series", slices))
        # Lateral is to the right in a right knee, to the left in a left one.
        outermost = np.argmin(x) if side == "R" else np.argmax(x)
        np.testing.assert_array_equal(found.voxels[..., 0], VOXELS[..., outermost])
        expected = VOXELS[..., ::-1] if side == "R" else VOXELS
        np.testing.assert_array_equal(found.voxels, expected)
        assert found.side == side
        assert found.spacing_mm == pytest.approx(SPACING)

    @pytest.mark.parametrize(
        "axes",
        # Right and down of the image: (back, down), and the seven ways to turn that over.
        [
            (np.array(across) * a, np.array(along) * b)
            for across, along in (((0, 1, 0), (0, 0, -1)), ((0, 0, -1), (0, 1, 0)))
            for a, b in itertools.product((1, -1), repeat=2)
        ],
    )
    def test_images_lying_any_way(self, make, tmp_path, axes):
        """The same knee, read out along other axes, gives the same volume."""
        across, along = axes
        canonical = VOXELS[..., ::-1]  # Rows down, columns to the back, slices to the left.
        lying = canonical
        if abs(across[2]):
            lying = lying.swapaxes(0, 1)
        if across.sum() != (1 if across[1] else -1):
            lying = lying[:, ::-1]
        if along.sum() != (1 if along[1] else -1):
            lying = lying[::-1]
        if np.cross(across, along)[0] < 0:
            lying = lying[..., ::-1]
        spacing = SPACING if across[1] else (SPACING[1], SPACING[0], SPACING[2])
        slices = make.mr_slices(lying, spacing, axes)
        found = read_volume(make.write_series(tmp_path / "series", slices))
        np.testing.assert_array_equal(found.voxels, canonical)
        assert found.spacing_mm == pytest.approx(SPACING)

    def test_slightly_oblique(self, make, tmp_path):
        """As prescribed along a condyle: the slices' normal is turned by 12 degrees."""
        angle = np.deg2rad(12)
        axes = ((np.sin(angle), np.cos(angle), 0), (0, 0, -1))
        slices = make.mr_slices(VOXELS, SPACING, axes)
        found = read_volume(make.write_series(tmp_path / "series", slices))
        np.testing.assert_array_equal(found.voxels, VOXELS[..., ::-1])
        assert found.spacing_mm == pytest.approx(SPACING)

    @pytest.mark.parametrize(
        "axes",
        [((1, 0, 0), (0, 0, -1)), ((1, 0, 0), (0, 1, 0)), ((0.8, 0.6, 0), (0, 0, -1))],
        ids=["coronal", "axial", "turned by 53 degrees"],
    )
    def test_not_sagittal(self, make, tmp_path, axes):
        folder = make.write_series(tmp_path / "series", make.mr_slices(VOXELS, SPACING, axes))
        assert reason_of(read_volume, folder) == "not_sagittal"


class TestSide:
    @pytest.mark.parametrize(
        ("description", "laterality", "given", "side"),
        [
            ("SAG_3D_DESS_LEFT", None, None, "L"),
            ("sag 3d dess right", None, None, "R"),
            ("SAG_3D_DESS_LEFT", None, "L", "L"),
            ("SAG_3D_DESS_LEFT", "R", None, "L"),
            ("SAG_3D_DESS", "R", None, "R"),
            ("", "L", None, "L"),
            (None, None, "R", "R"),
            ("BRIGHT_BLOOD", None, "L", "L"),
        ],
    )
    def test_told_or_given(self, make, tmp_path, description, laterality, given, side):
        tags = {"SeriesDescription": description, "Laterality": laterality}
        folder = make.write_series(tmp_path / "series", make.mr_slices(VOXELS, **tags))
        assert read_volume(folder, given).side == side

    @pytest.mark.parametrize("description", [None, "SAG_3D_DESS", "LEFT_AND_RIGHT", "BRIGHT"])
    def test_neither_told_nor_given(self, make, tmp_path, description):
        slices = make.mr_slices(VOXELS, SeriesDescription=description)
        folder = make.write_series(tmp_path / "series", slices)
        assert reason_of(read_volume, folder) == "no_side"

    def test_another_than_given(self, make, tmp_path):
        folder = make.write_series(tmp_path / "series", make.mr_slices(VOXELS))
        assert reason_of(read_volume, folder, "L") == "side_mismatch"


class TestIntensity:
    def read(self, make, tmp_path, slices):
        return read_volume(make.write_series(tmp_path / "series", slices)).voxels[..., ::-1]

    @pytest.mark.parametrize("syntax", [ExplicitVRBigEndian, RLELossless], ids=lambda s: s.name)
    def test_syntaxes(self, make, tmp_path, syntax):
        slices = make.mr_slices(VOXELS)
        for each in slices:
            if syntax.is_compressed:
                each.compress(syntax)
            else:
                each.file_meta.TransferSyntaxUID = syntax
                each.PixelData = each.pixel_array.byteswap().tobytes()
        found = self.read(make, tmp_path, slices)
        np.testing.assert_array_equal(found, VOXELS)
        assert found.dtype == np.uint16
        assert found.dtype.isnative

    def test_monochrome1_is_inverted_as_one_volume(self, make, tmp_path):
        slices = make.mr_slices(VOXELS, PhotometricInterpretation="MONOCHROME1")
        np.testing.assert_array_equal(self.read(make, tmp_path, slices), VOXELS.max() - VOXELS)

    def test_monochrome1_of_a_range_beyond_its_signed_integers(self, make, tmp_path):
        voxels = (VOXELS * 16.0 - 32_768).astype(np.int16)
        tags = {"PhotometricInterpretation": "MONOCHROME1", "PixelRepresentation": 1}
        found = self.read(make, tmp_path, make.mr_slices(voxels, **tags))
        np.testing.assert_array_equal(found, voxels.max() - voxels.astype(int))

    def test_every_slice_has_its_own_rescale(self, make, tmp_path):
        slices = make.mr_slices(VOXELS)
        for number, each in enumerate(slices):
            each.RescaleSlope, each.RescaleIntercept = number + 1, -7 * number
        expected = VOXELS * np.arange(1, 8) - 7 * np.arange(7)
        np.testing.assert_array_equal(self.read(make, tmp_path, slices), expected)

    def test_windows_are_not_applied(self, make, tmp_path):
        slices = make.mr_slices(VOXELS, WindowCenter=1000, WindowWidth=10)
        np.testing.assert_array_equal(self.read(make, tmp_path, slices), VOXELS)


def without(*numbers):
    return lambda slices: [s for i, s in enumerate(slices) if i not in numbers]


def with_tags(number, **tags):
    def change(slices):
        for name, value in tags.items():
            if value is None:
                delattr(slices[number], name)
            else:
                setattr(slices[number], name, value)
        return slices

    return change


def shifted(number, *by):
    def change(slices):
        moved = np.add(slices[number].ImagePositionPatient, by)
        return with_tags(number, ImagePositionPatient=list(moved))(slices)

    return change


def smaller(slices):
    cut = VOXELS[:4, :, 2]
    return with_tags(2, Rows=4, PixelData=cut.tobytes())(slices)


BAD = {
    "a slice is missing": ("missing_slices", without(2)),
    "two slices are missing": ("missing_slices", without(2, 3)),
    "a slice is there twice": ("duplicate_slices", lambda s: [*s, s[1]]),
    "all slices are there twice": ("duplicate_slices", lambda s: [*s, *s]),
    "a slice lies too far": ("unequal_spacing", shifted(6, -1.0, 0, 0)),
    "a slice lies between": ("unequal_spacing", shifted(2, 1.0, 0, 0)),
    "a slice lies aside": ("misaligned_slices", shifted(2, 0, 0, 4.0)),
    "a slice lies a little aside": ("misaligned_slices", shifted(2, 0, 0, 0.5)),
    "only one slice": ("too_few_slices", without(*range(1, 7))),
    "no slice": ("too_few_slices", lambda s: []),
    "two series": ("mixed_series", with_tags(3, SeriesInstanceUID="2.25.2")),
    "sizes differ": ("mixed_sizes", smaller),
    "spacings differ": ("mixed_spacing", with_tags(3, PixelSpacing=[0.5, 0.5])),
    "polarities differ": (
        "mixed_polarity",
        with_tags(3, PhotometricInterpretation="MONOCHROME1"),
    ),
    "not parallel": (
        "mixed_orientation",
        with_tags(3, ImageOrientationPatient=[0.1, 0.99499, 0, 0, 0, -1]),
    ),
    "no position": ("no_position", with_tags(1, ImagePositionPatient=None)),
    "no orientation": ("no_position", with_tags(1, ImageOrientationPatient=None)),
    "half a position": ("no_position", with_tags(1, ImagePositionPatient=[1, 2])),
    "axes of no length": ("no_position", with_tags(1, ImageOrientationPatient=[0] * 6)),
    "axes not at right angles": (
        "no_position",
        with_tags(1, ImageOrientationPatient=[0, 1, 0, 0, 0.6, -0.8]),
    ),
    "no spacing": ("no_spacing", with_tags(1, PixelSpacing=None)),
    "spacing of zero": ("bad_spacing", with_tags(1, PixelSpacing=[0, 0.5])),
    "not MR": ("wrong_modality", with_tags(0, Modality="CR")),
    "many frames": ("multi_frame", with_tags(0, NumberOfFrames=3)),
    "no pixels": ("empty_image", with_tags(0, PixelData=None)),
    "pixels cut short": ("truncated_pixels", with_tags(0, PixelData=b"\0" * 20)),
}


class TestUnusable:
    @pytest.mark.parametrize("case", BAD)
    def test_named(self, make, tmp_path, case):
        reason, change = BAD[case]
        folder = tmp_path / "series"
        folder.mkdir()
        make.write_series(folder, change(make.mr_slices(VOXELS, SPACING)))
        assert reason_of(read_volume, folder) == reason

    def test_the_whole_series_is_good(self, make, tmp_path):
        """All of `BAD` are changes of this one."""
        folder = make.write_series(tmp_path / "series", make.mr_slices(VOXELS, SPACING))
        assert isinstance(read_volume(folder), Volume)

    def test_a_position_that_is_no_number(self, make, tmp_path):
        folder = make.write_series(tmp_path / "series", make.mr_slices(VOXELS, SPACING))
        file = folder / "002"
        data = file.read_bytes()
        assert data.count(b"-80.0") == 1
        file.write_bytes(data.replace(b"-80.0", b"abcde"))
        with pytest.raises(UnusableKnee, match="002: ImagePositionPatient") as caught:
            read_volume(folder)
        assert caught.value.reason == "corrupt_header"

    def test_a_file_cut_anywhere(self, make, tmp_path):
        folder = make.write_series(tmp_path / "series", make.mr_slices(VOXELS, SPACING))
        data = (folder / "003").read_bytes()
        for length in np.linspace(0, len(data) - 2, 60).astype(int):
            (folder / "003").write_bytes(data[:length])
            with pytest.raises(UnusableKnee, match="003"):
                read_volume(folder)

    def test_other_files(self, make, tmp_path):
        folder = make.write_series(tmp_path / "series", make.mr_slices(VOXELS, SPACING))
        (folder / ".DS_Store").write_text("hidden files are nobody's slices")
        assert read_volume(folder).voxels.shape == SHAPE
        (folder / "notes.txt").write_text("not a slice\n" * 99)
        assert read_volume(folder).voxels.shape == SHAPE
        (folder / "999.DCM").write_text("named as one\n" * 99)
        assert reason_of(read_volume, folder) == "not_dicom"

    def test_slices_of_other_names(self, make, tmp_path):
        folder = make.write_series(tmp_path / "series", make.mr_slices(VOXELS, SPACING))
        for path in folder.iterdir():
            path.rename(folder / f"slice_{path.name}")
        assert read_volume(folder).voxels.shape == SHAPE
        (folder / "notes.txt").write_text("not a slice\n" * 99)
        assert reason_of(read_volume, folder) == "not_dicom"

    def test_no_folder(self, tmp_path):
        assert reason_of(read_volume, tmp_path / "nowhere") == "unreadable"

    def test_positions_rounded_as_scanners_do(self, make, tmp_path):
        slices = make.mr_slices(VOXELS, (0.365, 0.365, 0.7), origin=(-40.123, -80.456, 60.789))
        for each in slices:
            each.ImagePositionPatient = np.round(each.ImagePositionPatient, 2).tolist()
        found = read_volume(make.write_series(tmp_path / "series", slices))
        assert found.spacing_mm[2] == pytest.approx(0.7, abs=0.011)


class TestNifti:
    # From [rows down, columns back, slices right] to NIfTI's right, front, up, in mm.
    AFFINE = np.array([[0, 0, 3.0, 40], [0, -0.25, 0, 80], [-0.5, 0, 0, 60], [0, 0, 0, 1]])

    def save(self, path, voxels=VOXELS, affine=AFFINE):
        nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
        return path

    @pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
    @pytest.mark.parametrize("side", "LR")
    def test_is_the_volume_of_the_slices(self, make, tmp_path, side, suffix):
        slices = make.mr_slices(VOXELS, SPACING, SeriesDescription="SAG_3D_DESS")
        expected = read_volume(make.write_series(tmp_path / "series", slices), side)
        found = read_volume(self.save(tmp_path / f"knee.{suffix}"), side)
        np.testing.assert_array_equal(found.voxels, expected.voxels)
        assert found.spacing_mm == pytest.approx(expected.spacing_mm)
        assert found.side == side

    @pytest.mark.parametrize("code", ["RAS", "LAS", "PIR", "ASL", "SLP"])
    def test_axes_in_any_order(self, tmp_path, code):
        """nibabel's own reorientation is the other implementation."""
        image = nibabel.Nifti1Image(VOXELS, self.AFFINE)
        target = nibabel.orientations.axcodes2ornt(code)
        turned = image.as_reoriented(
            nibabel.orientations.ornt_transform(nibabel.io_orientation(self.AFFINE), target)
        )
        nibabel.save(turned, tmp_path / "knee.nii.gz")
        found = read_nifti(tmp_path / "knee.nii.gz", "R")
        np.testing.assert_array_equal(found.voxels, VOXELS[..., ::-1])
        assert found.spacing_mm == pytest.approx(SPACING)

    def test_side_from_the_folder(self, tmp_path):
        folder = tmp_path / "000m" / "KNEE__LEFT__SAG_3D_DESS"
        folder.mkdir(parents=True)
        assert read_nifti(self.save(folder / "image.nii.gz")).side == "L"
        assert reason_of(read_nifti, folder / "image.nii.gz", "R") == "side_mismatch"

    def test_scaling_is_applied(self, tmp_path):
        image = nibabel.Nifti1Image(VOXELS.astype(np.int16), self.AFFINE)
        image.header.set_slope_inter(2.0, -3.0)
        image.to_filename(tmp_path / "knee.nii")
        stored = nibabel.load(tmp_path / "knee.nii").get_fdata()
        found = read_nifti(tmp_path / "knee.nii", "R").voxels
        np.testing.assert_allclose(found, stored[..., ::-1])

    @pytest.mark.parametrize(
        ("voxels", "affine", "reason"),
        [
            (VOXELS[..., None].repeat(2, axis=-1), AFFINE, "not_a_volume"),
            (VOXELS[..., :1], AFFINE, "not_a_volume"),
            (VOXELS.astype([("R", "u1"), ("G", "u1"), ("B", "u1")]), AFFINE, "not_grey"),
            (VOXELS.astype(np.complex64), AFFINE, "not_grey"),
            (VOXELS, np.diag([0.001, 1, 1, 1]), "bad_spacing"),
        ],
    )
    def test_unusable(self, tmp_path, voxels, affine, reason):
        assert reason_of(read_nifti, self.save(tmp_path / "a.nii", voxels, affine), "R") == reason

    @pytest.mark.parametrize("place", [40, 70])  # The numbers of axes, and of the voxels' type.
    def test_a_header_without_meaning(self, tmp_path, place):
        path = self.save(tmp_path / "a.nii")
        data = bytearray(path.read_bytes())
        data[place : place + 2] = (9999).to_bytes(2, "little")
        path.write_bytes(data)
        assert reason_of(read_nifti, path, "R") == "not_nifti"

    def test_without_orientation(self, tmp_path):
        nibabel.save(nibabel.Nifti1Image(VOXELS, None), tmp_path / "a.nii")
        assert reason_of(read_nifti, tmp_path / "a.nii", "R") == "no_position"

    def test_between_the_axes(self, tmp_path):
        # Two of its axes run most along the same patient axis.
        affine = np.eye(4)
        affine[:3, :3] = [[0.7, 0.5, 0.5], [0.7, -0.5, -0.5], [0.1, 0.7, -0.7]]
        assert reason_of(read_nifti, self.save(tmp_path / "a.nii", affine=affine), "R") == "oblique"

    @pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
    def test_cut_anywhere(self, tmp_path, suffix):
        path = self.save(tmp_path / f"a.{suffix}")
        data = path.read_bytes()
        for length in np.linspace(0, len(data) - 20, 40).astype(int):
            path.write_bytes(data[:length])
            assert reason_of(read_nifti, path, "R") in ("unreadable", "not_nifti")

    def test_no_file(self, tmp_path):
        assert reason_of(read_volume, tmp_path / "a.nii.gz", "R") == "unreadable"

    def test_without_nibabel(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "nibabel", None)
        with pytest.raises(UserError, match=r"pip install.*\[nifti\]"):
            read_nifti(self.save(tmp_path / "a.nii"), "R")


@pytest.fixture(scope="module")
def files(real_data):
    return sorted((real_data / "mri_series").glob("*.dcm"))


@pytest.fixture(scope="module")
def volume(files):
    return read_series(files, "R")


@pytest.mark.real
class TestRealSeries:
    """24 slices of a GE scanner, explicit VR big endian, a right knee."""

    def test_shape_and_spacing(self, volume):
        assert volume.voxels.shape == (256, 256, 24)
        assert volume.voxels.dtype == np.int16
        assert volume.voxels.dtype.isnative
        assert volume.spacing_mm == pytest.approx((0.625, 0.625, 4.0), abs=1e-4)

    def test_slices_lie_from_the_patients_right_to_the_left(self, files, volume):
        headers = [pydicom.dcmread(file) for file in files]
        by_position = sorted(headers, key=lambda header: header.ImagePositionPatient[0])
        assert [h.InstanceNumber for h in by_position] == list(range(185, 0, -8))
        for number, header in enumerate(by_position):
            np.testing.assert_array_equal(volume.voxels[..., number], header.pixel_array)

    def test_neighbours_resemble_each_other_most(self, volume):
        flat = volume.voxels.reshape(-1, 24).astype(np.float64)
        likeness = np.corrcoef(flat.T)
        apart = [np.diag(likeness, k).mean() for k in range(1, 9)]
        assert np.all(np.diff(apart) < 0)
        # So does each slice: of those of its half of the knee (the other condyle looks like this
        # one), one next to it is most like it.
        number = np.arange(24)
        distance = np.abs(number - number[:, None])
        likeness[(distance == 0) | (distance > 8)] = 0
        assert np.abs(likeness.argmax(axis=0) - number).max() == 1

    def test_the_order_of_files_plays_no_part(self, files, volume):
        shuffled = np.random.default_rng(0).permutation(np.array(files, dtype=object))
        np.testing.assert_array_equal(read_series(shuffled, "R").voxels, volume.voxels)

    def test_a_missing_slice_is_found(self, files):
        assert reason_of(read_series, [*files[:9], *files[10:]], "R") == "missing_slices"

    def test_the_files_tell_no_side(self, files):
        assert reason_of(read_series, files) == "no_side"


def test_an_enhanced_file_is_read_as_its_slices_are(make, tmp_path):
    """One file of many frames, in another order, with what all share and what each has."""
    voxels = np.random.default_rng(0).integers(0, 2000, (12, 16, 8), np.uint16)
    slices = make.mr_slices(voxels, (0.5, 0.25, 3.0))
    expected = read_volume(make.write_series(tmp_path / "slices", slices), "R")
    order = np.random.default_rng(1).permutation(len(slices))
    enhanced = copy.deepcopy(slices[0])
    frames = []
    for number in order:
        position, frame = pydicom.Dataset(), pydicom.Dataset()
        position.ImagePositionPatient = slices[number].ImagePositionPatient
        frame.PlanePositionSequence = [position]
        frames.append(frame)
    orientation, measures, shared = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    orientation.ImageOrientationPatient = enhanced.ImageOrientationPatient
    measures.PixelSpacing = enhanced.PixelSpacing
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    enhanced.SharedFunctionalGroupsSequence = [shared]
    enhanced.PerFrameFunctionalGroupsSequence = frames
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(enhanced, name)
    enhanced.NumberOfFrames = len(order)
    enhanced.PixelData = b"".join(slices[number].PixelData for number in order)
    make.write(tmp_path / "one" / "001", enhanced)
    found = read_volume(tmp_path / "one", "R")
    np.testing.assert_array_equal(found.voxels, expected.voxels)
    assert found.spacing_mm == pytest.approx(expected.spacing_mm)
    enhanced.PerFrameFunctionalGroupsSequence = frames[1:]
    make.write(tmp_path / "one" / "001", enhanced)
    with pytest.raises(UnusableKnee, match="export a file for each slice") as caught:
        read_volume(tmp_path / "one", "R")
    assert caught.value.reason == "multi_frame"


def test_remarks_on_slices(make, tmp_path):
    voxels = np.random.default_rng(0).integers(0, 200, (12, 16, 8), np.uint16)
    slices = make.mr_slices(voxels, (0.5, 0.25, 3.0))
    for each in slices[:3]:
        overlay = np.frombuffer(each.PixelData, np.uint16).copy()
        overlay[:5] |= 0x8000
        each.PixelData, each.BitsStored, each.HighBit = overlay.tobytes(), 12, 11
    found = read_volume(make.write_series(tmp_path, slices), "R")
    assert found.notes == ("high_bits_masked",)
    assert found.voxels.max() == voxels.max()
