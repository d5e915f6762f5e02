"""Results of films as DICOM objects: a report of each film, and a picture of each graded knee."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
from pydicom.dataset import Dataset

from knee_jax.errors import UnusableKnee, UserError
from knee_jax.files import atomic_write
from knee_jax.inference.grade import PICTURES, Read, Row, name_of
from knee_jax.pacs import film
from knee_jax.targets.kinds import Target

FOLDER = "dicom"
"""Folder of the objects within a folder of results."""


def require() -> None:
    """Raise where the libraries that make DICOM objects are not installed.

    Raises:
        UserError: The extra `pacs` is missing.
    """
    try:
        import highdicom  # noqa: F401
        import pynetdicom  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(
            f"{error.name} is not installed: pip install 'knee_jax[pacs]', which brings what makes "
            "and sends DICOM objects"
        ) from error


def objects(
    read: Read, rows: Sequence[Row], targets: Sequence[Target], out: Path
) -> dict[str, Dataset]:
    """Return the objects of a film, by the names of their files: its report, then its pictures.

    Args:
        read: The film.
        rows: Rows of its knees, at least one of which is graded.
        targets: Targets of the model.
        out: Folder of results, which holds the knees' pictures.

    Raises:
        UnusableKnee: As `film.read`, such as not_dicom of a picture.
    """
    from knee_jax.pacs import capture, structured_report

    source = read.source
    header = film.read(source.path)
    made = {f"{name_of(source.name, '')}_sr.dcm": structured_report.report(header, rows, targets)}
    series = structured_report.new_uid()
    sides = [row["side"] for row in rows if row["status"] == "graded"]
    for number, side in enumerate(sides, start=1):
        name = name_of(source.name, side)
        picture = cv2.imread(str(out / PICTURES / f"{name}.png"))
        assert picture is not None
        made[f"{name}_sc.dcm"] = capture.capture(header, picture[..., ::-1], side, series, number)
    return made


def write(path: Path, made: Dataset) -> None:
    """Write an object to a file, all or nothing."""
    with atomic_write(path) as unfinished:
        made.save_as(unfinished, enforce_file_format=True)


def written(
    graded: Iterable[tuple[Read, list[Row]]], targets: Sequence[Target], out: Path
) -> Iterator[tuple[Read, list[Row]]]:
    """Write the objects of each film as it comes, and pass it on.

    The rows of a film for which there can be none say why in their notes.
    """
    folder = out / FOLDER
    folder.mkdir(exist_ok=True)
    for read, rows in graded:
        if any(row["status"] == "graded" for row in rows):
            try:
                for name, made in objects(read, rows, targets, out).items():
                    write(folder / name, made)
            except UnusableKnee as error:
                for row in rows:
                    notes = (row["notes"], f"no structured report: {error.detail}")
                    row["notes"] = "; ".join(filter(None, notes))
        yield read, rows
