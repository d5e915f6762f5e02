"""Kinds of strange films that people have met: each is read rightly, or refused in plain words."""

import re
import struct

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from knee_jax.errors import UnusableKnee
from knee_jax.ingest import codestream, dicom
from knee_jax.ingest.dicom import read_film
from knee_jax.ingest.film import intensity_window
from tests.conftest import CASES
from tests.ingest.test_dicom_fuzz import PYTHON_WORDS


def knees(rows=160, columns=200):
    """Two legs with bones brighter than flesh, flesh brighter than air; 12 bits, with noise."""
    rng = np.random.default_rng(5)
    x = (np.arange(columns) + 0.5) / columns
    from_middle = np.minimum(abs(x - 0.27), abs(x - 0.73))
    profile = np.select([from_middle < 0.08, from_middle < 0.18], [3000, 1700], 300)
    slope = np.linspace(0, 700, rows)[:, None]
    return (profile + slope + rng.integers(0, 40, (rows, columns))).astype(np.uint16)


FILM = knees()


@pytest.fixture
def film(make, tmp_path):
    """Write a film of 12 bits with other tags, pixels or a compressed stream, and read it."""

    def read(pixels=FILM, stream=None, syntax=None, change=lambda data: data, spacing=None, **tags):
        tags = {"BitsStored": 12, "HighBit": 11} | tags
        dataset = make.dataset(pixels, (0.15, 0.15), **tags)
        if stream is not None:
            dataset.PixelData = encapsulate([stream])
            dataset["PixelData"].VR = "OB"
        if syntax:
            dataset.file_meta.TransferSyntaxUID = syntax
        make.write(tmp_path / "001", dataset)
        (tmp_path / "001").write_bytes(change((tmp_path / "001").read_bytes()))
        return read_film(tmp_path / "001", spacing_mm=spacing)

    return read


def refusal(read, *args, **tags):
    with pytest.raises(UnusableKnee) as caught:
        read(*args, **tags)
    assert not PYTHON_WORDS.search(caught.value.detail)
    return caught.value.reason, caught.value.detail


class TestCompressed:
    @pytest.mark.parametrize(
        ("syntax", "encode"),
        [
            (JPEG2000Lossless, lambda x: imagecodecs.jpeg2k_encode(x, codecformat="j2k", level=0)),
            (JPEG2000Lossless, lambda x: imagecodecs.jpeg2k_encode(x, codecformat="jp2", level=0)),
            (HTJ2KLossless, lambda x: imagecodecs.htj2k_encode(x, reversible=True)),
            (JPEGLSLossless, imagecodecs.jpegls_encode),
            (JPEGLosslessSV1, lambda x: imagecodecs.ljpeg_encode(x, bitspersample=12)),
            (JPEGLosslessSV1, lambda x: imagecodecs.jpeg8_encode(x, lossless=True)),
        ],
    )
    def test_lossless(self, film, syntax, encode):
        found = film(stream=encode(FILM), syntax=syntax)
        np.testing.assert_array_equal(found.pixels, FILM)
        assert found.notes == ()

    def test_jpeg_of_12_bits(self, film):
        stream = imagecodecs.jpeg8_encode(FILM, level=100, bitspersample=12)
        found = film(stream=stream, syntax=JPEGExtended12Bit).pixels.astype(int)
        assert np.abs(found - FILM).max() < 5

    @pytest.mark.parametrize(
        ("syntax", "encode"),
        [
            (JPEG2000Lossless, lambda x: imagecodecs.jpeg2k_encode(x, codecformat="j2k", level=0)),
            (HTJ2KLossless, lambda x: imagecodecs.htj2k_encode(x, reversible=True)),
            (JPEGLSLossless, imagecodecs.jpegls_encode),
            (JPEGLosslessSV1, lambda x: imagecodecs.jpeg8_encode(x, lossless=True)),
            (JPEGExtended12Bit, lambda x: imagecodecs.jpeg8_encode(x, bitspersample=12)),
        ],
        ids=lambda each: getattr(each, "keyword", ""),
    )
    def test_a_stream_that_ends_early(self, film, syntax, encode):
        stream = bytes(encode(FILM))
        for part in (0.02, 0.3, 0.9, 0.99):
            for end in (b"", b"\xff\xd9"):
                cut = stream[: int(len(stream) * part)] + end
                reason, _ = refusal(film, stream=cut, syntax=syntax)
                assert reason in ("truncated_pixels", "corrupt_pixels")

    @pytest.mark.parametrize(
        ("syntax", "encode"),
        [
            (JPEG2000Lossless, lambda x: imagecodecs.jpeg2k_encode(x, codecformat="j2k", level=0)),
            (JPEGLSLossless, imagecodecs.jpegls_encode),
            (JPEGLosslessSV1, lambda x: imagecodecs.jpeg8_encode(x, lossless=True)),
            (JPEGBaseline8Bit, lambda x: imagecodecs.jpeg8_encode((x >> 4).astype(np.uint8))),
        ],
    )
    def test_a_stream_of_another_size(self, film, syntax, encode):
        reason, detail = refusal(film, stream=encode(FILM.T.copy()), syntax=syntax)
        assert reason == "stream_contradicts"
        assert "160x200" in detail
        assert "200x160" in detail

    def test_a_stream_deeper_than_its_header(self, film):
        tags = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
        stream = imagecodecs.jpegls_encode(FILM)
        reason, detail = refusal(film, stream=stream, syntax=JPEGLSLossless, **tags)
        assert (reason, "16 bits" in detail) == ("stream_contradicts", True)

    def test_a_stream_less_deep_is_noted(self, film):
        low = (FILM >> 4).astype(np.uint8)
        found = film(stream=imagecodecs.jpegls_encode(low), syntax=JPEGLSLossless)
        np.testing.assert_array_equal(found.pixels, low)
        assert found.notes == ("stream_of_fewer_bits",)

    def test_rle_of_another_size(self, film):
        planes = [bytes(imagecodecs.packbits_encode(p)) for p in (b"\0" * 99, b"\1" * 99)]
        stream = struct.pack("<16I", 2, 64, 64 + len(planes[0]), *[0] * 13) + b"".join(planes)
        assert refusal(film, stream=stream, syntax=RLELossless)[0] == "truncated_pixels"
        three = struct.pack("<16I", 3, *[64] * 15)
        assert refusal(film, stream=three, syntax=RLELossless)[0] == "stream_contradicts"

    @pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGLSLossless, JPEG2000Lossless])
    def test_no_stream_of_the_kind(self, film, syntax):
        first = refusal(film, stream=bytes(5000), syntax=syntax)
        assert first[0] == "corrupt_pixels"
        assert codestream.compression_of(syntax) in first[1]
        assert refusal(film, stream=bytes(5000), syntax=syntax) == first

    def test_another_compression_than_the_header_says(self, film):
        reason, detail = refusal(
            film, stream=imagecodecs.jpegls_encode(FILM), syntax=JPEG2000Lossless
        )
        assert reason == "stream_contradicts"
        assert "JPEG 2000" in detail
        assert "JPEG-LS" in detail

    def test_compressed_though_the_header_says_not(self, film):
        stream = imagecodecs.jpegls_encode(FILM)
        assert refusal(film, stream=stream) == (
            "stream_contradicts",
            "the header says that the pixels are not compressed, but they are",
        )
        bare = bytes(stream) + bytes(len(stream) % 2)
        assert refusal(film, PixelData=bare)[0] == "stream_contradicts"

    def test_plain_though_the_header_says_compressed(self, film):
        plain, rle = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0"
        reason, detail = refusal(film, change=lambda data: data.replace(plain, rle))
        assert (reason, "not wrapped" in detail) == ("stream_contradicts", True)


class TestBits:
    def test_an_overlay_in_high_bits_is_masked(self, film):
        overlay = FILM.copy()
        overlay[100:130, 90:110] |= 0x1000
        found = film(overlay)
        np.testing.assert_array_equal(found.pixels, FILM)
        assert found.notes == ("high_bits_masked",)
        stream = imagecodecs.jpeg2k_encode(overlay, codecformat="j2k", level=0)
        np.testing.assert_array_equal(film(stream=stream, syntax=JPEG2000Lossless).pixels, FILM)

    @pytest.mark.parametrize("bits", [8, 10, 11])
    def test_too_few_bits_stored_are_not_wrapped(self, film, bits):
        found = film(BitsStored=bits, HighBit=bits - 1)
        np.testing.assert_array_equal(found.pixels, FILM)
        assert found.notes == ("bits_stored_too_few",)

    def test_shifted_to_the_top(self, film):
        np.testing.assert_array_equal(film(FILM << 4, HighBit=15).pixels, FILM)

    def test_said_to_be_shifted_but_is_not(self, film):
        found = film(HighBit=15)
        np.testing.assert_array_equal(found.pixels, FILM)
        assert found.notes == ("high_bit_contradicts",)

    def test_signed_of_12_bits(self, film):
        signed = FILM.astype(np.int16) - 2000
        for pixels in (signed, (signed & 0xFFF).astype(np.uint16)):
            found = film(pixels, PixelRepresentation=1)
            np.testing.assert_array_equal(found.pixels, signed)

    def test_bits_that_cannot_be(self, film):
        for tags in ({"BitsStored": 17}, {"HighBit": 3}, {"PixelRepresentation": 7}):
            assert refusal(film, **tags)[0] == "corrupt_header"
        assert refusal(film, BitsAllocated=12)[0] == "no_decoder"


class TestPolarity:
    def test_inverse_though_monochrome2(self, film):
        dark = FILM.max() - FILM
        found = film(dark, PresentationLUTShape="INVERSE")
        np.testing.assert_array_equal(found.pixels, dark.max() - dark)
        assert found.notes == ("polarity_by_the_picture",)

    def test_a_picture_that_agrees_with_the_photometric_interpretation(self, film):
        dark = FILM.max() - FILM
        tags = {"PhotometricInterpretation": "MONOCHROME1", "PixelIntensityRelationshipSign": -1}
        found = film(dark, **tags)
        np.testing.assert_array_equal(found.pixels, dark.max() - dark)
        assert found.notes == ("polarity_contradicts",)

    def test_dark_bones_without_a_word_of_the_header(self, film):
        dark = FILM.max() - FILM
        assert film(dark).notes == ("bones_look_dark",)
        assert film(FILM).notes == ()

    def test_one_knee(self, film):
        one = FILM[:, :108]
        assert film(one).notes == ()
        assert film(one.max() - one).notes == ("bones_look_dark",)

    @pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (9, 9)])
    def test_pictures_of_any_size(self, shape):
        from knee_jax.ingest import polarity

        for values in (np.zeros(shape), np.arange(np.prod(shape)).reshape(shape)):
            assert abs(polarity.brightness_of_bone(values)) <= 1


class TestPadding:
    @pytest.mark.parametrize("value", [4095, 0])
    def test_round_the_film(self, film, value):
        padded = np.full((200, 260), value, np.uint16)
        padded[20:180, 30:230] = FILM
        found = film(padded, PixelPaddingValue=value)
        assert found.notes == ("padding_left_out",)
        assert intensity_window(found.pixels, found.padding) == intensity_window(FILM)
        np.testing.assert_array_equal(found.pixels[20:180, 30:230], FILM)
        assert (found.pixels[found.padding] == FILM.min()).all()

    def test_within_the_film_is_of_the_film(self, film):
        marked = FILM.copy()
        marked[10:20, 10:30] = 4095
        found = film(marked, PixelPaddingValue=4095)
        np.testing.assert_array_equal(found.pixels, marked)
        assert found.notes == ()

    def test_of_an_inverted_film(self, film):
        padded = np.full((200, 260), 0, np.uint16)
        padded[20:180, 30:230] = 4000 - FILM
        tags = {"PhotometricInterpretation": "MONOCHROME1", "PixelPaddingValue": 0}
        found = film(padded, **tags)
        assert found.pixels[found.padding].max() == found.pixels[~found.padding].min()

    def test_a_range(self, film):
        padded = np.full((200, 260), 4000, np.uint16)
        padded[:, :10] = 4095
        padded[20:180, 30:230] = FILM
        found = film(padded, PixelPaddingValue=4000, PixelPaddingRangeLimit=4095)
        assert intensity_window(found.pixels, found.padding) == intensity_window(FILM)


def table(descriptor, data):
    lut = pydicom.Dataset()
    lut.LUTDescriptor = descriptor
    lut.LUTData = np.asarray(data, np.uint16).tobytes()
    lut["LUTDescriptor"].VR, lut["LUTData"].VR = "US", "OW"
    return {"VOILUTSequence": [lut]}


class TestDisplay:
    @pytest.mark.parametrize(
        "tags",
        [
            table([4096, 0, 16], np.full(4096, 65_535)),
            table([4096, 0, 16], np.repeat([0, 65_535], 2048)),
            table([4096, 0, 16], np.zeros(500)),
        ],
    )
    def test_a_table_never_costs_a_film(self, film, tags):
        found = film(**tags)
        np.testing.assert_array_equal(found.pixels, FILM)
        assert found.notes == ("voi_table_left_out",)

    def test_a_good_table_is_applied(self, film):
        curve = (np.arange(4096) / 4095) ** 0.5 * 65_535
        found = film(**table([4096, 0, 16], curve))
        np.testing.assert_array_equal(found.pixels, curve.astype(np.uint16)[FILM])
        assert found.notes == ()

    @pytest.mark.parametrize(("centre", "width"), [(128, 2), (1900, 2), (2000, 0), (9e9, 1)])
    def test_a_sigmoid_too_narrow(self, film, centre, width):
        tags = {"WindowCenter": centre, "WindowWidth": width, "VOILUTFunction": "SIGMOID"}
        found = film(**tags)
        np.testing.assert_array_equal(found.pixels, FILM)
        assert found.notes == ("sigmoid_left_out",)


class TestRescale:
    def test_empty_is_none(self, film):
        found = film(RescaleSlope="", RescaleIntercept="")
        np.testing.assert_array_equal(found.pixels, FILM)

    def test_a_slope_of_zero(self, film):
        reason, detail = refusal(film, RescaleSlope=0, RescaleIntercept=0)
        assert (reason, "RescaleSlope is 0" in detail) == ("corrupt_header", True)


class TestSpacing:
    def test_zero_at_the_imager(self, film):
        found = film(ImagerPixelSpacing=[0, 0], PixelSpacing=[0.2, 0.1])
        assert (found.spacing_mm, found.notes) == ((0.1, 0.2), ("imager_spacing_unusable",))

    def test_of_the_scanner(self, film):
        found = film(ImagerPixelSpacing=None, NominalScannedPixelSpacing=[0.15, 0.15])
        assert (found.spacing_mm, found.notes) == ((0.15, 0.15), ("spacing_of_the_scanner",))

    def test_two_that_differ(self, film):
        found = film(PixelSpacing=[0.13, 0.13])
        assert (found.spacing_mm, found.notes) == ((0.15, 0.15), ("spacings_differ",))
        assert film(PixelSpacing=[0.15, 0.15]).notes == ()

    def test_given_for_want_of_one(self, film):
        found = film(ImagerPixelSpacing=None, spacing=0.2)
        assert (found.spacing_mm, found.notes) == ((0.2, 0.2), ("spacing_given",))
        assert film(spacing=0.2).spacing_mm == (0.15, 0.15)
        assert "--spacing" in refusal(film, ImagerPixelSpacing=None)[1]


class TestChannels:
    def test_three_equal_ones(self, film):
        grey = (FILM >> 4).astype(np.uint8)
        tags = {"BitsStored": 8, "HighBit": 7}
        for planar, pixels in ((0, np.stack([grey] * 3, -1)), (1, np.stack([grey] * 3))):
            channels = np.zeros((*grey.shape, 3), np.uint8)
            found = film(channels, PixelData=pixels.tobytes(), PlanarConfiguration=planar, **tags)
            np.testing.assert_array_equal(found.pixels, grey)
            assert found.notes == ("grey_in_three_channels",)

    def test_brightness_and_two_colours_without_colour(self, film):
        grey = (FILM >> 4).astype(np.uint8)
        pixels = np.stack([grey, np.full_like(grey, 128), np.full_like(grey, 128)], -1)
        tags = {"BitsStored": 8, "HighBit": 7, "PhotometricInterpretation": "YBR_FULL"}
        np.testing.assert_array_equal(film(pixels, **tags).pixels, grey)

    def test_jpeg(self, film):
        grey = (FILM >> 4).astype(np.uint8)
        pixels = np.stack([grey] * 3, -1)
        tags = {"BitsStored": 8, "HighBit": 7, "PhotometricInterpretation": "YBR_FULL_422"}
        stream = imagecodecs.jpeg8_encode(pixels, level=100)
        found = film(pixels, stream=stream, syntax=JPEGBaseline8Bit, **tags)
        assert np.abs(found.pixels.astype(int) - grey).max() < 5

    def test_a_photograph(self, film):
        pixels = np.stack([FILM >> 4, FILM >> 4, FILM >> 5], -1).astype(np.uint8)
        reason, detail = refusal(film, pixels, BitsStored=8, HighBit=7)
        assert (reason, "photograph" in detail) == ("colour_image", True)
        reason, detail = refusal(film, Modality="XC")
        assert (reason, "photograph" in detail) == ("wrong_modality", True)

    def test_more_pixels_than_rows_and_columns(self, film):
        assert refusal(film, Rows=80, Columns=100)[0] == "corrupt_pixels"


class TestForm:
    def test_without_preamble_and_meta(self, film):
        found = film(change=lambda data: data[data.index(b"\x08\0\x16\0") :])
        np.testing.assert_array_equal(found.pixels, FILM)
        assert found.notes == ("no_preamble",)

    def test_without_transfer_syntax(self, film):
        def drop(data):
            at = data.index(b"\x02\0\x10\0UI")
            (length,) = struct.unpack_from("<H", data, at + 6)
            (group,) = struct.unpack_from("<I", data, 140)
            start = struct.pack("<I", group - 8 - length)
            return data[:140] + start + data[144:at] + data[at + 8 + length :]

        found = film(change=drop)
        np.testing.assert_array_equal(found.pixels, FILM)
        assert found.notes == ("no_transfer_syntax",)

    @pytest.mark.parametrize(
        ("content", "word"),
        [
            (b"\xff\xd8\xff\xe0" + bytes(200), "JPEG"),
            (b"\x89PNG\r\n\x1a\n" + bytes(200), "PNG"),
            (b"II*\0" + bytes(200), "TIFF"),
            (b"%PDF-1.7" + bytes(200), "PDF"),
            (b"PK\x03\x04" + bytes(200), "archive"),
            (b"\x08\0", "no DICOM"),
        ],
    )
    def test_other_files_are_named(self, tmp_path, content, word):
        (tmp_path / "001").write_bytes(content)
        reason, detail = refusal(read_film, tmp_path / "001")
        assert (reason, word in detail) == ("not_dicom", True)

    def test_a_video(self, film):
        reason, detail = refusal(film, stream=bytes(100), syntax="1.2.840.10008.1.2.4.102")
        assert (reason, "MPEG-4" in detail) == ("no_decoder", True)

    def test_a_private_transfer_syntax_is_not_quoted(self, film):
        plain, private = b"1.2.840.10008.1.2.1\0", b"1.2.840.99999.1.2.1\0"
        reason, detail = refusal(film, change=lambda data: data.replace(plain, private))
        assert (reason, re.search(r"\d\.\d", detail)) == ("no_decoder", None)


@pytest.mark.parametrize(
    ("directions", "notes"),
    [
        (["L", "F"], ()),
        (["H", "L"], ("header_lies_on_its_side",)),
        (["F", "R"], ("header_lies_on_its_side",)),
        (["R", "F"], ("header_mirrored",)),
        (["L", "H"], ("header_upside_down",)),
        (["A", "F"], ("header_not_frontal",)),
    ],
)
def test_orientation(film, directions, notes):
    assert film(PatientOrientation=directions).notes == notes


READ = {
    "jpeg_extended_12_bits": (),
    "monochrome2_and_inverse": ("polarity_by_the_picture",),
    "rescale_present_but_empty": (),
    "no_preamble_no_meta": ("no_preamble",),
    "meta_without_transfer_syntax": ("no_transfer_syntax",),
    "imager_spacing_zero_pixel_spacing_good": ("imager_spacing_unusable",),
    "nominal_scanned_spacing_only": ("spacing_of_the_scanner",),
    "voi_table_all_white": ("voi_table_left_out",),
    "sigmoid_much_too_narrow": ("sigmoid_left_out",),
    "voi_table_shorter_than_told": ("voi_table_left_out",),
    "overlay_in_high_bits_jpeg2000": ("high_bits_masked",),
    "high_bit_at_the_top": (),
    "bits_stored_too_few": ("bits_stored_too_few",),
    "rows_run_to_the_head": ("header_lies_on_its_side",),
    "white_padding_round_the_film": ("padding_left_out",),
    "calibrated_spacing_differs": ("spacings_differ",),
}
REFUSED = {
    "stream_is_of_other_size_jpeg2000": "stream_contradicts",
    "stream_is_of_other_size_jpeg_baseline": "stream_contradicts",
    "meta_says_raw_pixels_are_jpeg": "stream_contradicts",
    "stream_is_no_jpeg": "corrupt_pixels",
    "lossless_jpeg_stream_cut": "truncated_pixels",
    "rescale_slope_zero": "corrupt_header",
    # Its Rows and Columns, 200 and 3, are not those of its 160 x 200 pixels.
    "grey_film_in_three_channels": "corrupt_pixels",
}
FILMS = CASES / "dicom"


@pytest.mark.skipif(not FILMS.exists(), reason=f"{FILMS} is not here")
class TestSharedCases:
    @pytest.mark.parametrize("name", READ)
    def test_read(self, name):
        found = read_film(FILMS / f"{name}.dcm")
        assert found.notes == READ[name]
        assert found.spacing_mm == (0.15, 0.15)
        # All of them show the same two legs.
        pixels = found.pixels if found.padding is None else found.pixels[~found.padding]
        low, high = np.percentile(pixels, (5, 99))
        assert 90 < low < 500
        assert 3300 < high < 3600

    @pytest.mark.parametrize("name", REFUSED)
    def test_refused(self, name):
        reason, detail = refusal(read_film, FILMS / f"{name}.dcm")
        assert reason == REFUSED[name]
        assert (reason, detail) == refusal(read_film, FILMS / f"{name}.dcm")

    def test_none_is_left_out(self):
        films = {path.stem for path in FILMS.glob("*.dcm")}
        assert films == READ.keys() | REFUSED.keys()


def test_every_note_has_words():
    assert all(words and "\n" not in words for words in dicom.NOTES.values())


@pytest.mark.parametrize("bits", [12, 16])
def test_values_called_signed_by_mistake_do_not_wrap(bits):
    """Smooth values over the whole range, unsigned; and truly signed ones about zero."""
    from knee_jax.ingest import dicom_pixels

    rows, columns = np.mgrid[:120, :100]
    noise = np.random.default_rng(0).normal(size=rows.shape)
    smooth = (np.sin(rows / 30) * np.cos(columns / 25) + 1.05) / 2.1
    full = np.rint((smooth + 0.002 * noise).clip(0, 1) * (2**bits - 1)).astype(np.uint16)
    values, notes = dicom_pixels._stored_values(full, 16, bits, bits - 1, True)
    np.testing.assert_array_equal(values, full)
    assert notes == ["sign_contradicts"]
    signed = full.astype(np.int32) - 2 ** (bits - 1)
    raw = (signed & (2**bits - 1)).astype(np.uint16)
    values, notes = dicom_pixels._stored_values(raw, 16, bits, bits - 1, True)
    np.testing.assert_array_equal(values, signed)
    assert "sign_contradicts" not in notes
