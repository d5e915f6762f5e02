"""Films in DICOM files: whether they can be used, their spacing, and what is strange about them."""

import dataclasses
import pathlib
import re
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import pydicom

from knee_jax.errors import UnusableKnee
from knee_jax.ingest.dicom_header import integer, read_header, transfer_syntax, value
from knee_jax.ingest.dicom_pixels import decode, grey_values

MODALITIES = ("CR", "DX", "RG")
"""Modalities of films: computed, digital and digitised radiography."""

SPACING_RANGE_MM = (0.02, 1.0)
"""Pixel sizes that a film may have, mm."""

_POLARITIES = ("MONOCHROME1", "MONOCHROME2")
_COLOURS = ("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_GREY_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
"""Colours whose three channels are compared, since grey films are also stored so."""

_MOST_PIXELS = 2**26
"""Maximum number of pixels: four times those of the largest film, of 43 cm at 0.1 mm."""

NOTES = {
    "header_mirrored": "its rows run to the patient's right",
    "header_upside_down": "its columns run to the head",
    "header_one_sided": "its header names one side, though the film should show both knees",
    "header_lies_on_its_side": "its rows run to the head or feet",
    "header_not_frontal": "its rows or columns run to the front or the back",
    "no_preamble": "the file has no DICOM preamble; it is read as its first elements look",
    "no_transfer_syntax": "the header has no transfer syntax; it is read as the file looks",
    "imager_spacing_unusable": "ImagerPixelSpacing is no plausible size; another one was taken",
    "spacings_differ": "ImagerPixelSpacing was taken; PixelSpacing says otherwise",
    "spacing_of_the_scanner": "NominalScannedPixelSpacing was taken, for want of another",
    "spacing_given": "the user's spacing was taken, for the film has none",
    "voi_table_left_out": "its VOI LUT, a table for display, is broken or leaves no picture",
    "sigmoid_left_out": "its sigmoid window, meant for display, is broken or leaves no picture",
    "high_bits_masked": "bits above BitsStored hold something else, and were masked",
    "bits_stored_too_few": "its values have more bits than BitsStored says; all were kept",
    "sign_contradicts": "its header says that values have a sign, the values say not",
    "high_bit_contradicts": "HighBit says that values are shifted, the values say not",
    "stream_of_fewer_bits": "its compressed stream has fewer bits than BitsStored says",
    "grey_in_three_channels": "a grey film stored in three equal channels",
    "polarity_contradicts": "its header contradicts itself on whether bone is bright",
    "polarity_by_the_picture": "its header contradicts itself; inverted, as the picture says",
    "inverted_by_the_picture": "the picture is a negative, with dark bones: it was inverted",
    "bones_look_dark": "bone looks dark, and is said or taken to be bright: is it a negative?",
    "padding_left_out": "PixelPaddingValue round the film was taken out of the grey levels",
}
"""Remarks on a film, by name: what was strange, and what was done."""

CONTRADICTS = "its header names another subject than its path"

_SUBJECT_ID = re.compile(r"(?P<most>M[A-Z]?)\d{2,}|\d{7}")


@dataclasses.dataclass(frozen=True)
class Film:
    """One radiograph.

    Attributes:
        pixels: Grey values, integer or float [H, W]; bone is brighter than air.
        spacing_mm: Pixel width and height (x, y), mm.
        notes: Remarks, keys of `NOTES`.
        padding: Pixels that are none of the film, bool [H, W]; None: there are none. They are as
            dark as the darkest of the film.
    """

    pixels: np.ndarray
    spacing_mm: tuple[float, float]
    notes: tuple[str, ...] = ()
    padding: np.ndarray | None = None


def read_film(
    path: pathlib.Path, subject: str | None = None, spacing_mm: float | None = None
) -> Film:
    """Read one film.

    The grey values pass the modality LUT or rescale, then a VOI LUT table or sigmoid if the file
    has one that leaves a picture. A *linear* VOI window is not applied: it would only stretch and
    clip, and the percentiles of `film.intensity_window` set that window in the same way for every
    film, as in the published pipeline (Tiulpin's, which reads the stored values). MONOCHROME1 is
    inverted (max - value).

    The spacing is ImagerPixelSpacing, otherwise PixelSpacing, otherwise NominalScannedPixelSpacing;
    that of rows and columns may differ.

    Args:
        path: Path of the file.
        subject: Id of the film's subject; None: not checked.
        spacing_mm: Pixel size of a film that tells none, mm; None: such a film is unusable.

    Raises:
        UnusableKnee: unreadable, empty_file, truncated_file, not_dicom, wrong_modality,
            colour_image, multi_frame, unknown_polarity, empty_image, corrupt_header, no_spacing,
            bad_spacing, too_large, no_decoder, stream_contradicts, truncated_pixels, corrupt_pixels
            or subject_contradicts. The detail quotes no text of the file, which may name the
            patient.
    """
    # pydicom warns of every flaw that it tolerates, and raises the others.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = read_header(path)
        check_image(header, MODALITIES, colours=_GREY_COLOURS)
        check_subject(header, subject)
        found_mm, notes = _spacing(header, spacing_mm)
        notes += _form_notes(header)
        notes += _contradictions(header)
        stored, more = decode(header)
        grey, padding, of_values = grey_values(header, stored)
        return Film(grey, found_mm, (*notes, *more, *of_values), padding)


def _form_notes(header: pydicom.Dataset) -> list[str]:
    if not header.file_meta:
        return ["no_preamble"]
    return ["no_transfer_syntax"] if transfer_syntax(header) is None else []


def _contradictions(header: pydicom.Dataset) -> Iterator[str]:
    """Yield the names of the header's contradictions to the expected orientation."""
    try:
        directions = [str(each)[:1].upper() for each in value(header, "PatientOrientation") or ()]
        side = value(header, "ImageLaterality") or value(header, "Laterality", "")
    except UnusableKnee:
        return  # These elements are not needed; broken ones are ignored.
    # Directions in the patient along a row and down a column; expected: left and foot.
    along, down = [*directions, "", ""][:2]
    if along == "R":
        yield "header_mirrored"
    if down == "H":
        yield "header_upside_down"
    if along in ("H", "F") or down in ("L", "R"):
        yield "header_lies_on_its_side"
    if {along, down} & {"A", "P"}:
        yield "header_not_frontal"
    if side in ("L", "R"):
        yield "header_one_sided"


def check_image(
    header: pydicom.Dataset,
    modalities: Sequence[str],
    colours: Sequence[str] = (),
    *,
    frames: bool = False,
) -> None:
    """Check that a file holds one grey image of one of the modalities.

    Args:
        header: Whole file.
        modalities: Modalities.
        colours: Colours whose three channels may be equal, so that the image is grey.
        frames: Whether it may hold several.

    Raises:
        UnusableKnee: wrong_modality, colour_image, multi_frame, empty_image, too_large,
            unknown_polarity or corrupt_header.
    """
    modality = value(header, "Modality") or "none"
    if modality not in modalities:
        # Another value is reported only if it looks like a modality: two letters.
        found = modality if re.fullmatch("[A-Z]{2}|none", str(modality)) else "another"
        named = f" ({_OTHER_MODALITIES[found]})" if found in _OTHER_MODALITIES else ""
        raise UnusableKnee("wrong_modality", f"{found}{named}, not {'/'.join(modalities)}")
    samples = integer(header, "SamplesPerPixel", 1)
    polarity = value(header, "PhotometricInterpretation") or "none"
    in_channels = samples == 3 and polarity in colours
    if samples != 1 and not in_channels:
        raise UnusableKnee("colour_image", f"{samples} channels instead of 1")
    number = integer(header, "NumberOfFrames", 1)
    if number != 1 and not (frames and number > 1):
        detail = f"{number} frames instead of 1; export every picture as a file of its own"
        raise UnusableKnee("multi_frame", detail)
    rows, columns = integer(header, "Rows", 0), integer(header, "Columns", 0)
    length = len(value(header, "PixelData") or b"")
    if rows < 1 or columns < 1 or not length:
        raise UnusableKnee("empty_image", f"{rows} rows, {columns} columns, {length} bytes")
    if rows * columns * number > _MOST_PIXELS:
        raise UnusableKnee("too_large", f"{columns}x{rows} pixels, more than {_MOST_PIXELS:,}")
    if polarity not in _POLARITIES and not in_channels:
        found = polarity if polarity in ("none", *_COLOURS) else "another"
        raise UnusableKnee("unknown_polarity", f"{found}, not {' or '.join(_POLARITIES)}")


_OTHER_MODALITIES = {
    "XC": "a photograph",
    "OT": "of another kind, as scans and screenshots are",
    "SC": "a secondary capture, as screenshots are",
    "MR": "magnetic resonance",
    "CT": "computed tomography",
    "US": "ultrasound",
    "PR": "a presentation state, without pixels",
    "KO": "a list of objects, without pixels",
    "SR": "a report, without pixels",
}


def check_subject(header: pydicom.Dataset, subject: str | None) -> None:
    """Check that a file does not have another subject's id; None: not checked.

    Raises:
        UnusableKnee: subject_contradicts.
    """
    if not subject:
        return
    named = ids_like(subject, str(value(header, "PatientID") or ""))
    if named and subject.upper() not in named:
        raise UnusableKnee("subject_contradicts", CONTRADICTS)


def ids_like(subject: str, text: str) -> list[str]:
    """Return the ids in a text, in upper case, with the subject's study prefix and length."""
    form = _SUBJECT_ID.fullmatch(subject.upper())
    if not form:
        return []
    letters = "M[A-Z]?" if form["most"] else ""
    digits = len(subject) - len(form["most"] or "")
    pattern = rf"(?<![A-Z0-9]){letters}\d{{{digits}}}(?![A-Z0-9])"
    return re.findall(pattern, text.upper())


def _spacing(
    header: pydicom.Dataset, given_mm: float | None
) -> tuple[tuple[float, float], list[str]]:
    """Return the spacing (x, y), mm, and remarks on it."""
    low, high = SPACING_RANGE_MM
    found, wrong = {}, {}
    for keyword in ("ImagerPixelSpacing", "PixelSpacing", "NominalScannedPixelSpacing"):
        told = value(header, keyword)
        try:
            values = [float(each) for each in np.atleast_1d(told)] if told else []
        except (TypeError, ValueError):
            wrong[keyword] = "it is no number"
            continue
        if values and len(values) <= 2 and all(low <= each <= high for each in values):
            # DICOM gives the distance of rows (y) first.
            found[keyword] = (values[-1], values[0])
        elif values:
            # A number far from any pixel's size may be a misplaced id.
            told = "/".join(f"{each:g}" if 0 <= each < 1000 else "?" for each in values[:2])
            wrong[keyword] = f"{told} mm, not {low} to {high}"
    if not found:
        if wrong:
            raise UnusableKnee("bad_spacing", next(iter(wrong.values())))
        if given_mm is not None:
            return (given_mm, given_mm), ["spacing_given"]
        detail = "none of ImagerPixelSpacing, PixelSpacing and NominalScannedPixelSpacing; if it "
        raise UnusableKnee("no_spacing", f"{detail}is known, give it as --spacing")
    keyword = next(iter(found))
    notes = ["imager_spacing_unusable"] if "ImagerPixelSpacing" in wrong else []
    if keyword == "NominalScannedPixelSpacing":
        notes.append("spacing_of_the_scanner")
    others = [each for name, each in found.items() if name == "PixelSpacing"]
    if keyword == "ImagerPixelSpacing" and not np.allclose(
        [found[keyword]], others or found[keyword], rtol=1e-3
    ):
        notes.append("spacings_differ")
    return found[keyword], notes
