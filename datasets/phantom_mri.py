"""Digital knees as MR series, which need no data: the phantom's study tree, ingested."""

import dataclasses
import functools
import pathlib
from typing import ClassVar

import tensorflow_datasets as tfds

from knee_jax.datasets.builders import IngestPlan, write_once
from knee_jax.datasets.volumes import VolumeBuilder
from knee_jax.ingest import enrolment
from knee_jax.ingest.mri import plan_study
from knee_jax.ingest.volume import PHANTOMS, Preparation
from knee_jax.phantom.mri import write_mri_study


@dataclasses.dataclass(kw_only=True)
class PhantomConfig(tfds.core.BuilderConfig):
    """Number and size of the series.

    Attributes:
        num_subjects: Number of subjects, each with two knees at baseline.
        preparation: Conversion to examples; its shape is that of the series.
        seed: Random seed of the phantom.
    """

    num_subjects: int
    preparation: Preparation
    seed: int = 0


class Builder(VolumeBuilder):
    """Phantom knees with progression, KL grade and sites, in one split `study`.

    Subject-wise splits are drawn by the run (`knee_jax.cohort.splits`).
    """

    name = "phantom_mri"
    VERSION = tfds.core.Version("1.0.0")
    DEFAULT_BUILDER_CONFIG_NAME = "demo"
    BUILDER_CONFIGS: ClassVar = [
        PhantomConfig(
            name="tiny",
            description="24 subjects, 24x24x20 voxels; seconds, for tests.",
            num_subjects=24,
            # With this seed, the sites and folds of so few knees have every class.
            seed=9,
            preparation=PHANTOMS["phantom_mri/tiny"],
        ),
        PhantomConfig(
            name="demo",
            description="400 subjects, 88x88x40 voxels of 1.5 x 1.5 x 2.8 mm; 5 GB of series while "
            "it is made.",
            num_subjects=400,
            preparation=PHANTOMS["phantom_mri/demo"],
        ),
        PhantomConfig(
            name="full",
            description="240 subjects at OAI's size, 176x176x80 voxels; 23 GB of series while it "
            "is made, 1 GB after.",
            num_subjects=240,
            preparation=PHANTOMS["phantom_mri/full"],
        ),
    ]

    @property
    def preparation(self) -> Preparation:
        """Conversion of volumes, that of the config."""
        return self.builder_config.preparation

    def plan(self, work_dir: pathlib.Path) -> IngestPlan:
        """Write the phantom's study tree, and plan to read it like that of a real study."""
        config = self.builder_config
        write = functools.partial(
            write_mri_study,
            num_subjects=config.num_subjects,
            seed=config.seed,
            shape=config.preparation.shape,
            workers=self.workers,
        )
        write_once(work_dir, write)
        jobs, exclusions, notes = plan_study(work_dir, "phantom", config.preparation)
        return IngestPlan(
            {"study": jobs}, exclusions, notes, enrolment.read_oai(work_dir / "tables")
        )
