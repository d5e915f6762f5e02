"""Secondary capture of a knee: its picture, with region, landmarks and evidence, as DICOM."""

import numpy as np
from pydicom.dataset import Dataset

import knee_jax
from knee_jax.pacs.film import evidence, file_with
from knee_jax.pacs.structured_report import SERIES_NUMBER, new_uid


def capture(film: Dataset, picture: np.ndarray, side: str, series_uid: str, number: int) -> Dataset:
    """Return a picture of a knee as an object of the film's study.

    A knee is shown with its lateral side at the left, so that a left one is mirrored.

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
        pixel_array=np.ascontiguousarray(picture),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        series_instance_uid=series_uid,
        series_number=SERIES_NUMBER + 1,
        sop_instance_uid=new_uid(),
        instance_number=number,
        manufacturer="knee_jax",
        laterality=side or None,
        patient_orientation=("R" if side == "L" else "L", "F"),
        transfer_syntax_uid="1.2.840.10008.1.2.1",
    )
    made.SoftwareVersions = knee_jax.__version__
    made.SeriesDescription = "knee_jax: what was read, for research only"
    made.ImageComments = "For research only, not a medical device."
    if not side:
        for keyword in ("Laterality", "PatientOrientation"):
            setattr(made, keyword, None)
    made.BurnedInAnnotation = "NO"
    made.BodyPartExamined = "KNEE"
    return file_with(made, film)
