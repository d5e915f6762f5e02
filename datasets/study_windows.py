"""Windows of phantom films, and of a study's knees with the landmarks of its files.

`manual_dir` is the folder of a prepared set that has landmarks, such as `data/oai_xray/default/...`
or one of `prepare folder`. Landmarks that a localiser has found (`landmark_error` above 0) are not
learnt from.
"""

import dataclasses
import functools
import pathlib
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import tensorflow_datasets as tfds

from knee_jax.datasets import phantom_windows
from knee_jax.datasets.builders import IngestPlan, Job
from knee_jax.datasets.phantom_windows import WindowJob, WindowsConfig, example_of
from knee_jax.errors import UserError
from knee_jax.ingest.report import LANDMARK_ERROR, Example, Exclusion, Note
from knee_jax.phantom import windows
from knee_jax.targets.grades import GRADES

PER_KNEE = 4
"""Upright windows of a knee, of which a quarter is mirrored; one more is turned."""


@functools.lru_cache(maxsize=2)
def _source(folder: pathlib.Path, split: str) -> Any:
    """Return the records of a split of a prepared set."""
    return tfds.builder_from_directory(folder).as_data_source(split)


@dataclasses.dataclass(frozen=True)
class KneeWindowsJob:
    """Job that draws windows on a knee of a prepared set.

    Attributes:
        folder: Folder of the set.
        split, record: Place of the knee in it.
        subject, side, cohort, source: Identity of the knee.
        first: Number of its first window, which stands in `visit`; windows of all visits of a knee
            have numbers of their own.
        pixels: Side of the windows.
    """

    folder: pathlib.Path
    split: str
    record: int
    subject: str
    side: str
    cohort: str
    source: str
    first: int
    pixels: int

    def __call__(self) -> list[Example | Exclusion | Note]:
        """Draw the windows."""
        knee = _source(self.folder, self.split)[self.record]
        key = int.from_bytes(f"{self.subject} {self.side}".encode(), "big")
        rng = np.random.default_rng([key, self.first])
        spacing, kl = float(knee["spacing_mm"]), int(knee["grades"][GRADES.index("kl")])
        points = np.asarray(knee["keypoints"], np.float64)
        drawn = windows.of_crop(rng, knee["image"], points, self.pixels, PER_KNEE, spacing)
        identity = {"subject": self.subject, "side": self.side, "source": self.source}
        return [
            example_of(
                window._replace(kl=kl), visit=self.first + place, cohort=self.cohort, **identity
            )
            for place, window in enumerate(drawn)
        ]

    def exclude(self, reason: str, detail: str) -> list[Example | Exclusion | Note]:
        """Return the knee as excluded."""
        return [Exclusion(self.subject, self.side, self.first, self.source, reason, detail)]

    def paths(self) -> list[pathlib.Path]:
        """Return the set's index."""
        return [self.folder / "index.csv"]


@dataclasses.dataclass(kw_only=True)
class StudyConfig(WindowsConfig):
    """Films of the phantom, and knees of the study.

    Attributes:
        visits: Number of visits of a knee that are taken, the first ones.
    """

    visits: int = 1


class Builder(phantom_windows.Builder):
    """Windows as one split `study`, those of films as in `phantom_windows`.

    Films bring what a study's regions of interest do not show: knees from afar, and no knee at all.
    """

    name = "study_windows"
    VERSION = tfds.core.Version("1.0.0")
    unit = "film or knee"
    DEFAULT_BUILDER_CONFIG_NAME = "full"
    BUILDER_CONFIGS: ClassVar = [
        StudyConfig(
            name="full",
            description="About 8,000 windows of films, and five of each knee at its first visit.",
            num_films=700,
            seed=2,
        ),
        StudyConfig(
            name="tiny", description="Of six films, and of each knee, for tests.", num_films=6
        ),
    ]

    def plan(self, work_dir: pathlib.Path) -> IngestPlan:
        """Plan one job per film, and one per knee."""
        config = self.builder_config
        jobs: list[Job] = [
            WindowJob(config.seed, n, config.pixels) for n in range(config.num_films)
        ]
        folder = self.manual_folder()
        knees = marked(folder)
        chosen = knees[knees.groupby(["subject", "side"]).cumcount() < config.visits]
        place = chosen.groupby(["subject", "side"]).cumcount()
        jobs += [
            KneeWindowsJob(
                folder,
                first=(PER_KNEE + 1) * first,
                pixels=config.pixels,
                **row,
            )
            for row, first in zip(chosen[_OF_JOB].to_dict("records"), place, strict=True)
        ]
        notes = {"knees_with_landmarks_of_files": len(knees), "knees_taken": len(chosen)}
        return IngestPlan({"study": jobs}, notes=notes)


_OF_JOB = ["split", "record", "subject", "side", "cohort", "source"]


def marked(folder: pathlib.Path) -> pd.DataFrame:
    """Return the rows of a prepared set's index whose knees have landmarks of files, by visit.

    Raises:
        UserError: The folder holds no prepared set, or no knee of it has such landmarks.
    """
    path = folder / "index.csv"
    if not path.is_file():
        raise UserError(
            f"{folder} holds no prepared set: name the folder of one, such as "
            "data/oai_xray/default/1.1.0, as manual_dir"
        )
    index = pd.read_csv(path, dtype={"subject": str}, keep_default_na=False)
    of_files = index.get(LANDMARK_ERROR, pd.Series(0, index.index)).astype(str).isin(["0", "0.0"])
    known = index[(index["keypoints_valid"].astype(str) == "True") & of_files]
    if known.empty:
        raise UserError(
            f"{folder}: no knee has landmarks of files; choose a study with landmark files"
        )
    return known.sort_values(["subject", "side", "visit"], kind="stable")
