import numpy as np
import pydicom
import pytest

from knee_jax.phantom.dicom import SHARES, SYNTAXES, Header, write_film


def header(**changes) -> Header:
    fields = {
        "subject": "9000099",
        "barcode": "01234501",
        "date": "20040221",
        "maker": "Phantom CR",
        "spacing": 0.1719,
        "bits": 12,
        "inverted": False,
        "syntax": SYNTAXES[0],
    }
    return Header(**(fields | changes))


@pytest.fixture(scope="module")
def film() -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 0.02, (61, 83))
    return (np.linspace(0, 1, 83) + noise).astype(np.float32)


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.keyword)
def test_every_syntax_decodes_to_the_same_counts(tmp_path, film, syntax, bits):
    write_film(tmp_path / "001", film, header(syntax=syntax, bits=bits))
    ds = pydicom.dcmread(tmp_path / "001")
    assert ds.file_meta.TransferSyntaxUID == syntax
    assert ds.pixel_array.dtype == np.uint16
    assert (ds.BitsAllocated, ds.BitsStored, ds.HighBit) == (16, bits, bits - 1)
    expected = np.clip(film, 0, 1.1) * 0.9 * (2**bits - 1)
    np.testing.assert_allclose(ds.pixel_array, np.floor(expected), atol=1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["001"]


def test_header_says_what_oai_says(tmp_path, film):
    write_film(tmp_path / "001", film, header())
    ds = pydicom.dcmread(tmp_path / "001")
    assert ds.SeriesDescription == "Bilateral PA Fixed Flexion Knee"
    assert (ds.PatientID, ds.AccessionNumber, ds.StudyDate) == ("9000099", "01234501", "20040221")
    assert list(ds.ImagerPixelSpacing) == [0.1719, 0.1719]
    assert (ds.Rows, ds.Columns) == film.shape
    assert ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID
    assert ds.PhotometricInterpretation == "MONOCHROME2"


def test_monochrome1_is_the_negative(tmp_path, film):
    write_film(tmp_path / "plain", film, header())
    write_film(tmp_path / "negative", film, header(inverted=True))
    plain, negative = (pydicom.dcmread(tmp_path / name) for name in ("plain", "negative"))
    assert negative.PhotometricInterpretation == "MONOCHROME1"
    np.testing.assert_array_equal(plain.pixel_array + negative.pixel_array, 4095)


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.keyword)
def test_the_same_film_is_the_same_file(tmp_path, film, syntax):
    for name in ("a", "b"):
        write_film(tmp_path / name, film, header(syntax=syntax))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_shares_of_the_syntaxes_add_up():
    assert len(SHARES) == len(SYNTAXES)
    assert sum(SHARES) == pytest.approx(1)
