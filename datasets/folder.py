"""Set of anybody's labelled images, made by `knee-jax prepare folder`.

It is no data set by its own name: each folder becomes a set of the name that its owner gives it,
which is found by that name in the folder of prepared sets from then on.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import tensorflow_datasets as tfds

from knee_jax.datasets.builders import IngestPlan
from knee_jax.datasets.radiographs import RadiographBuilder
from knee_jax.errors import UserError
from knee_jax.files import hash_of_file
from knee_jax.ingest import labelled_folder
from knee_jax.ingest.labelled_folder import LabelledFolder

VERSION = "1.0.0"


class FolderBuilder(RadiographBuilder):
    """Knees of one labelled folder, in its own splits or in one, under a name of its own."""

    VERSION = tfds.core.Version(VERSION)
    unit = "row"

    def __init__(self, name: str, folder: LabelledFolder, **kwargs):
        self.name = name
        self._plan = labelled_folder.plan(folder)
        self._pixels = folder.reading.pixels
        super().__init__(**kwargs)

    @property
    def image_size(self) -> int:
        """Height and width of the images, pixels."""
        return self._pixels

    @property
    def label_columns(self) -> Mapping[str, Any]:
        """Labels besides the grades that the table has."""
        return self._plan.label_columns

    def plan(self, work_dir: pathlib.Path) -> IngestPlan:
        """Plan one job per row of the table."""
        jobs, exclusions, notes, _ = self._plan
        return IngestPlan(jobs, exclusions, notes)


def check_name(name: str) -> None:
    """Raise UserError for a name that no set of a folder can have."""
    from knee_jax import datasets

    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name == "inventories":
        raise UserError(
            f"--name={name}: is no name of a set; choose small letters, digits and underscores, "
            "the first a letter"
        )
    if name in datasets.names():
        raise UserError(f"--name={name}: is the name of another data set; choose a name of its own")


def path_of(name: str, data_dir: str | pathlib.Path) -> pathlib.Path:
    """Return the place of a folder's set among the prepared sets."""
    return pathlib.Path(data_dir).expanduser() / name / VERSION


def origin(folder: LabelledFolder) -> str:
    """Return one line of all that a set is made of, which differs between sets."""
    columns = ", ".join(f"{field}={column}" for field, column in sorted(folder.columns.items()))
    reading = folder.reading
    parts = {
        "labels": f"{folder.labels.resolve()} ({hash_of_file(folder.labels)[:12]})",
        "columns": columns,
        "encoding": folder.encoding,
        "cohort": folder.cohort,
        "pixels": reading.pixels,
        "spacing": reading.spacing_mm,
        "landmarks": reading.landmarks,
        "middle": reading.middle,
    }
    told = "; ".join(f"{name} {value}" for name, value in parts.items() if value)
    return f"{folder.images.resolve()}; {told}"
