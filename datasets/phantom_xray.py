"""Digital knees on bilateral films, from no data at all: the phantom's tree through the ingest."""

import dataclasses
import functools
import pathlib
from typing import ClassVar

import tensorflow_datasets as tfds

from knee_jax.datasets.builders import Plan, made_once
from knee_jax.datasets.radiographs import FilmConfig, StudyBuilder
from knee_jax.ingest.film import Roi
from knee_jax.phantom.study import write_study


@dataclasses.dataclass(kw_only=True)
class PhantomConfig(FilmConfig):
    """How many films of what size, and what is cut out of them.

    Attributes:
        num_subjects: subjects, each with two knees.
        visits: months since baseline.
        rows: height of the films in pixels.
        seed: of the phantom.
    """

    num_subjects: int
    visits: tuple[int, ...]
    rows: int
    seed: int = 0


class Builder(StudyBuilder):
    """Phantom knees with seven grades, landmarks, sites and visits, as one split `study`."""

    name = "phantom_xray"
    study = "oai"
    cohort = "phantom"
    VERSION = tfds.core.Version("1.0.0")
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

    def plan(self, work_dir: pathlib.Path) -> Plan:
        """Writes the phantom's study tree and reads it as a real study's."""
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
        made_once(work_dir, write)
        return self.plan_tree(work_dir)
