"""What the objects made of a film take from its header: patient, study, and its own identity."""

import copy
import warnings
from pathlib import Path

from pydicom.dataset import Dataset

from knee_jax.errors import UnusableKnee
from knee_jax.ingest import dicom_header

NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
"""Elements without which nothing can refer to a film."""

FILED_BY = (
    "SpecificCharacterSet",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
    "ReferringPhysicianName",
)
"""Elements by which an archive files an object; they are passed on as they are, valid or not."""


def read(path: Path) -> Dataset:
    """Read `NEEDED`, and `FILED_BY` as far as it is there.

    Args:
        path: Path of the film, possibly within an archive.

    Raises:
        UnusableKnee: no_reference where one of `NEEDED` is missing; also as
            `dicom_header.read_header`.
    """
    with warnings.catch_warnings():
        # pydicom tells invalid values, such as names, which are nobody's business here.
        warnings.simplefilter("ignore")
        header = dicom_header.read_header(path, (*NEEDED, *FILED_BY))
        missing = [keyword for keyword in NEEDED if not dicom_header.value(header, keyword)]
        if missing:
            raise UnusableKnee("no_reference", f"the film carries no {', '.join(missing)}")
        for keyword in FILED_BY:
            dicom_header.value(header, keyword)  # Parsed here, so that a broken one raises here.
    return header


def evidence(film: Dataset) -> Dataset:
    """Return the film without `FILED_BY`, as a library may check it."""
    bare = Dataset()
    for keyword in FILED_BY[1:]:
        setattr(bare, keyword, None)
    for keyword in NEEDED:
        setattr(bare, keyword, film[keyword].value)
    return bare


def file_with(made: Dataset, film: Dataset) -> Dataset:
    """Give an object the patient and study of a film, and return it."""
    for keyword in FILED_BY:
        if keyword in film:
            made[keyword] = copy.deepcopy(film[keyword])
    return made
