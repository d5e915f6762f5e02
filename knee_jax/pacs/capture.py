"""Secondary capture of a knee: its picture, with region, landmarks and evidence, as DICOM."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset

import knee_jax
from knee_jax.pacs.film import evidence, file_with
from knee_jax.pacs.structured_report import SERIES_NUMBER, new_uid

WORDS = {
    "R": "Right knee, as on the film.",
    "L": "Left knee, as on the film.",
    "": "Knee of unknown side.",
}
"""What is written over a picture, by side."""

WARNING = "For research only, not a medical device."

_BAND, _FONT = 22, 14


def labelled(picture: np.ndarray, side: str) -> np.ndarray:
    """Return a picture under a band of words: people read pixels, not headers.

    Args:
        picture: uint8 [height, width, 3].
        side: 'L', 'R' or ''.
    """
    height, width = picture.shape[:2]
    sheet = Image.new("RGB", (width, height + 2 * _BAND))
    sheet.paste(Image.fromarray(np.ascontiguousarray(picture)), (0, 2 * _BAND))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT)
    for line, words in enumerate((WORDS[side], WARNING)):
        draw.text((5, line * _BAND + 3), words, "white", font)
    return np.asarray(sheet)


def capture(film: Dataset, picture: np.ndarray, side: str, series_uid: str, number: int) -> Dataset:
    """Return a picture of a knee as an object of the film's study.

    A knee is shown as it lies on the film, the body's left at the right.

    Args:
        film: What refers to the film (`film.read`).
        picture: uint8 [height, width, 3], red, green and blue.
        side: 'L', 'R' or ''.
        series_uid: UID of the series of the film's pictures.
        number: Number of the picture in the series, from 1.
    """
    from highdicom.sc import SCImage

    made = SCImage.from_ref_dataset(
        evidence(film),
        pixel_array=labelled(picture, side),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        series_instance_uid=series_uid,
        series_number=SERIES_NUMBER + 1,
        sop_instance_uid=new_uid(),
        instance_number=number,
        manufacturer="knee_jax",
        laterality=side or None,
        patient_orientation=("L", "F"),
        transfer_syntax_uid="1.2.840.10008.1.2.1",
    )
    made.SoftwareVersions = knee_jax.__version__
    made.SeriesDescription = "knee_jax: what was read, for research only"
    made.ImageComments = WARNING
    if not side:
        for keyword in ("Laterality", "PatientOrientation"):
            setattr(made, keyword, None)
    made.BurnedInAnnotation = "NO"
    made.BodyPartExamined = "KNEE"
    return file_with(made, film)
