"""Digital knees on bilateral films, which need no data: the phantom's study tree, ingested."""

import dataclasses
import functools
import pathlib
import types
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from knee_jax.datasets.builders import IngestPlan, write_once
from knee_jax.datasets.radiographs import FilmConfig, StudyBuilder
from knee_jax.ingest import joint_space
from knee_jax.ingest.film import Roi
from knee_jax.phantom.study import write_study


@dataclasses.dataclass(kw_only=True)
class PhantomConfig(FilmConfig):
    """Number and size of the films, and their region of interest.

    Attributes:
        num_subjects: Number of subjects, each with two knees.
        visits: Visits in months since baseline.
        rows: Height of the films, pixels.
        seed: Random seed of the phantom.
    """

    num_subjects: int
    visits: tuple[int, ...]
    rows: int
    seed: int = 0


class Builder(StudyBuilder):
    """Phantom knees as one split `study`.

    They have the seven grades, the width of the medial joint space, landmarks, sites and visits.
    """

    name = "phantom_xray"
    study = "oai"
    cohort = "phantom"
    VERSION = tfds.core.Version("1.1.0")
    label_columns = types.MappingProxyType({joint_space.COLUMN: np.float32})
    DEFAULT_BUILDER_CONFIG_NAME = "demo"
    BUILDER_CONFIGS: ClassVar = [
        PhantomConfig(
            name="tiny",
            description="24 subjects on small films; seconds, for tests.",
            num_subjects=24,
            visits=(0, 24),
            rows=512,
        ),
        PhantomConfig(
            name="demo",
            description="About 1,000 knees for a first run on a CPU.",
            num_subjects=250,
            visits=(0, 24),
            rows=1024,
        ),
        PhantomConfig(
            name="demo_unlevelled",
            description="The demo's knees as they lie on the film: no plateau made horizontal.",
            num_subjects=250,
            visits=(0, 24),
            rows=1024,
            roi=Roi(level_plateau=False),
        ),
        PhantomConfig(
            name="full",
            description="About 6,000 knees; 8 GB of films while it is made, under 1 GB after.",
            num_subjects=1000,
            visits=(0, 12, 24),
            rows=1024,
        ),
    ]

    def plan(self, work_dir: pathlib.Path) -> IngestPlan:
        """Write the phantom's study tree, and plan to read it like that of a real study."""
        config = self.builder_config
        write = functools.partial(
            write_study,
            num_subjects=config.num_subjects,
            visits=config.visits,
            seed=config.seed,
            rows=config.rows,
            workers=self.workers,
            study=self.study,
        )
        write_once(work_dir, write)
        return self.plan_tree(work_dir)
