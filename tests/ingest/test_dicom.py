import gdcm
import numpy as np
import pydicom
import pytest
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from knee_jax.errors import UnusableKnee
from knee_jax.ingest.dicom import read_film
from tests.ingest.conftest import reason_of

PIXELS = np.random.default_rng(0).integers(0, 4096, (37, 53), np.uint16)
SMOOTH = np.add.outer(np.arange(64), 2 * np.arange(80)).astype(np.uint16) * 16


def transcode(source, target, syntax):
    reader = gdcm.ImageReader()
    reader.SetFileName(str(source))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(target))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


class TestPixels:
    @pytest.mark.parametrize(
        "syntax",
        [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
        ids=lambda uid: uid.name,
    )
    def test_native(self, make, tmp_path, syntax):
        data = PIXELS.byteswap() if syntax == ExplicitVRBigEndian else PIXELS
        film = make.dataset(PIXELS, PixelData=data.tobytes())
        film.file_meta.TransferSyntaxUID = syntax
        make.write(tmp_path / "001", film)
        np.testing.assert_array_equal(read_film(tmp_path / "001").pixels, PIXELS)

    def test_compressed_by_pydicom(self, make, tmp_path):
        film = make.dataset(PIXELS)
        film.compress(RLELossless)
        make.write(tmp_path / "001", film)
        np.testing.assert_array_equal(read_film(tmp_path / "001").pixels, PIXELS)

    @pytest.mark.parametrize(
        "syntax", ["JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless"]
    )
    def test_compressed_by_gdcm(self, make, tmp_path, syntax):
        make.write(tmp_path / "plain", make.dataset(PIXELS))
        transcode(tmp_path / "plain", tmp_path / "001", syntax)
        np.testing.assert_array_equal(read_film(tmp_path / "001").pixels, PIXELS)

    def test_jpeg_baseline(self, make, tmp_path):
        pixels = (SMOOTH >> 4).astype(np.uint8)
        make.write(tmp_path / "plain", make.dataset(pixels))
        transcode(tmp_path / "plain", tmp_path / "001", "JPEGBaselineProcess1")
        assert np.abs(read_film(tmp_path / "001").pixels.astype(int) - pixels).max() <= 4

    def test_jpeg_of_bits_that_jpeg_has_not(self, make, tmp_path):
        # So gdcm writes JPEG Extended; without the right level its pixels are wrong.
        make.write(tmp_path / "plain", make.dataset(SMOOTH, BitsStored=12, HighBit=11))
        transcode(tmp_path / "plain", tmp_path / "001", "JPEGExtendedProcess2_4")
        with pytest.raises(UnusableKnee, match="claims 16 bits a sample, not 8 or 12") as caught:
            read_film(tmp_path / "001")
        assert caught.value.reason == "no_decoder"

    def test_monochrome1_is_inverted(self, make, tmp_path):
        film = make.dataset(PIXELS, PhotometricInterpretation="MONOCHROME1")
        make.write(tmp_path / "001", film)
        expected = PIXELS.max() - PIXELS
        np.testing.assert_array_equal(read_film(tmp_path / "001").pixels, expected)

    def test_monochrome1_of_a_range_beyond_its_signed_integers(self, make, tmp_path):
        pixels = np.array([[-32_768, -1], [0, 32_767]], np.int16)
        tags = {"PhotometricInterpretation": "MONOCHROME1", "PixelRepresentation": 1}
        make.write(tmp_path / "001", make.dataset(pixels, **tags))
        found = read_film(tmp_path / "001").pixels
        np.testing.assert_array_equal(found, [[65_535, 32_768], [32_767, 0]])

    def test_rescale(self, make, tmp_path):
        make.write(tmp_path / "001", make.dataset(PIXELS, RescaleSlope=-2, RescaleIntercept=5))
        np.testing.assert_array_equal(read_film(tmp_path / "001").pixels, 5 - 2.0 * PIXELS)

    def test_linear_window_does_not_clip(self, make, tmp_path):
        make.write(tmp_path / "001", make.dataset(PIXELS, WindowCenter=1000, WindowWidth=10))
        np.testing.assert_array_equal(read_film(tmp_path / "001").pixels, PIXELS)

    def test_sigmoid(self, make, tmp_path):
        tags = {"WindowCenter": 2000, "WindowWidth": 1000, "VOILUTFunction": "SIGMOID"}
        make.write(tmp_path / "001", make.dataset(PIXELS, **tags))
        # DICOM PS3.3 C.11.2.1.3.1, with the output range of 16 bits.
        expected = 65535 / (1 + np.exp(-4 * (PIXELS - 2000.0) / 1000))
        np.testing.assert_allclose(read_film(tmp_path / "001").pixels, expected, atol=1e-6)

    def test_voi_table(self, make, tmp_path):
        lut = pydicom.Dataset()
        lut.LUTDescriptor = [4096, 0, 16]
        lut.LUTData = np.square(np.arange(4096) / 16).astype(int).tolist()
        lut["LUTDescriptor"].VR = lut["LUTData"].VR = "US"
        film = make.dataset(PIXELS, VOILUTSequence=[lut], RescaleSlope=1, RescaleIntercept=0)
        make.write(tmp_path / "001", film)
        expected = apply_voi_lut(PIXELS, film)
        assert expected.max() > 60000
        found = read_film(tmp_path / "001").pixels
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(found, np.array(lut.LUTData)[PIXELS])

    def test_modality_table(self, make, tmp_path):
        lut = pydicom.Dataset()
        lut.LUTDescriptor = [4096, 0, 16]
        lut.LUTData = list(range(4095, -1, -1))
        lut["LUTDescriptor"].VR = lut["LUTData"].VR = "US"
        film = make.dataset(PIXELS, ModalityLUTSequence=[lut])
        make.write(tmp_path / "001", film)
        found = read_film(tmp_path / "001").pixels
        np.testing.assert_array_equal(found, 4095 - PIXELS)
        np.testing.assert_array_equal(found, apply_modality_lut(PIXELS, film))


class TestSpacing:
    def test_rows_first_in_the_file_x_first_here(self, make, tmp_path):
        make.write(tmp_path / "001", make.dataset(PIXELS, ImagerPixelSpacing=[0.2, 0.1]))
        assert read_film(tmp_path / "001").spacing_mm == (0.1, 0.2)

    def test_of_the_imager_comes_first(self, make, tmp_path):
        make.write(tmp_path / "001", make.dataset(PIXELS, (0.1, 0.1), PixelSpacing=[0.3, 0.3]))
        assert read_film(tmp_path / "001").spacing_mm == (0.1, 0.1)

    def test_else_of_the_pixels(self, make, tmp_path):
        film = make.dataset(PIXELS, ImagerPixelSpacing=None, PixelSpacing=[0.3, 0.3])
        make.write(tmp_path / "001", film)
        assert read_film(tmp_path / "001").spacing_mm == (0.3, 0.3)

    @pytest.mark.parametrize("value", [[0.0, 0.0], [-0.1, 0.1], [143, 143], [1e-4, 1e-4]])
    def test_implausible(self, make, tmp_path, value):
        make.write(tmp_path / "001", make.dataset(PIXELS, ImagerPixelSpacing=value))
        assert reason_of(read_film, tmp_path / "001") == "bad_spacing"


def colour():
    return np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)


BAD = {
    "no_spacing": {"ImagerPixelSpacing": None},
    "truncated_pixels": {"PixelData": PIXELS.tobytes()[:1000]},
    "empty_image": {"Rows": 0, "Columns": 0, "PixelData": None},
    "wrong_modality": {"Modality": "MR"},
    "multi_frame": {"NumberOfFrames": 2, "PixelData": PIXELS.tobytes() * 2},
    "unknown_polarity": {"PhotometricInterpretation": "PALETTE COLOR"},
}


class TestUnusable:
    @pytest.mark.parametrize("reason", BAD)
    def test_by_tags(self, make, tmp_path, reason):
        make.write(tmp_path / "001", make.dataset(PIXELS, **BAD[reason]))
        assert reason_of(read_film, tmp_path / "001") == reason

    def test_colour(self, make, tmp_path):
        make.write(tmp_path / "001", make.dataset(colour()))
        with pytest.raises(UnusableKnee, match="3 channels") as caught:
            read_film(tmp_path / "001")
        assert caught.value.reason == "colour_image"

    @pytest.mark.parametrize(
        ("tags", "text"),
        [({"RescaleSlope": 2, "RescaleIntercept": "1234.5"}, b"1234.5"), ({}, b"MONOCHROME2")],
    )
    def test_a_value_that_is_none(self, make, tmp_path, tags, text):
        make.write(tmp_path / "001", make.dataset(PIXELS, **tags))
        data = (tmp_path / "001").read_bytes()
        (tmp_path / "001").write_bytes(data.replace(text, b"?" * len(text)))
        assert reason_of(read_film, tmp_path / "001") in ("corrupt_header", "unknown_polarity")

    @pytest.mark.parametrize(
        ("content", "reason"),
        [(b"", "empty_file"), (b"a text file, not a film\n" * 99, "not_dicom")],
    )
    def test_other_files(self, tmp_path, content, reason):
        (tmp_path / "001").write_bytes(content)
        assert reason_of(read_film, tmp_path / "001") == reason

    @pytest.mark.parametrize(
        "syntax",
        ["", "RLELossless", "JPEGLSLossless", "JPEGLosslessProcess14_1", "JPEG2000Lossless"],
    )
    def test_cut_anywhere(self, make, tmp_path, syntax):
        make.write(tmp_path / "whole", make.dataset(PIXELS))
        if syntax:
            transcode(tmp_path / "whole", tmp_path / "whole", syntax)
        data = (tmp_path / "whole").read_bytes()
        start = data.index(b"\xe0\x7f\x10\x00") + 12  # Where the pixels begin.
        within = range(1, start, 9)
        for length in [*within, *np.linspace(start, len(data) - 12, 30).astype(int)]:
            (tmp_path / "001").write_bytes(data[:length])
            reason = reason_of(read_film, tmp_path / "001")
            if length > start:
                assert reason in ("truncated_file", "truncated_pixels")
