"""What the builders of radiographs share."""

import dataclasses
import pathlib
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from knee_jax.datasets.builders import KneeBuilder, Plan, tensor
from knee_jax.ingest import enrolment
from knee_jax.ingest.film import Roi
from knee_jax.ingest.headers import DEFAULT_READER, Reader
from knee_jax.ingest.inventory import Rules
from knee_jax.ingest.study import plan_study
from knee_jax.landmarks import NUM_LANDMARKS


@dataclasses.dataclass(kw_only=True)
class FilmConfig(tfds.core.BuilderConfig):
    """What is cut out of a study's films, and how its tables and files are read.

    Attributes:
        roi: region of interest of a knee.
        rules: how tables and files are read.
    """

    roi: Roi = dataclasses.field(default_factory=Roi)
    rules: Rules = dataclasses.field(default_factory=Rules)


class RadiographBuilder(KneeBuilder, skip_registration=True):
    """Base of the builders of films; a subclass makes the plan."""

    @property
    def image_size(self) -> int:
        """Height and width of the images in pixels."""
        return self.builder_config.roi.pixels

    def own_features(self) -> dict[str, Any]:
        """Pixels, their spacing and landmarks."""
        return {
            "image": tensor(shape=(self.image_size, self.image_size), dtype=np.uint8),
            "keypoints": tensor(shape=(NUM_LANDMARKS, 2), dtype=np.float32),
            "keypoints_valid": tfds.features.Scalar(np.bool_),
            "spacing_mm": tfds.features.Scalar(np.float32),
        }


class StudyBuilder(RadiographBuilder, skip_registration=True):
    """Base of the builders of a study's own tree, as one split `study`.

    Subject-wise splits are drawn where they are needed (`knee_jax.data.splits`).

    Attributes:
        study: whose layout the tree has, a key of `knee_jax.ingest.study.LAYOUTS`.
        cohort: name of the study in the examples.
    """

    study: str
    cohort: str
    DEFAULT_BUILDER_CONFIG_NAME = "default"
    BUILDER_CONFIGS: ClassVar = [
        FilmConfig(
            name="default", description="350 px of 0.4 mm, plateaus horizontal, decimals cut off."
        ),
        FilmConfig(
            name="oarsi",
            description="Knees of which every sign was read, as in Tiulpin & Saarakkala 2020.",
            rules=Rules(whole=True),
        ),
        FilmConfig(
            name="half_even",
            description="Grades with decimals rounded half to even, as the published code does.",
            rules=Rules(rounding="half_even"),
        ),
        FilmConfig(
            name="unlevelled",
            description="Knees as they lie on the film: no plateau made horizontal.",
            roi=Roi(level_plateau=False),
        ),
        FilmConfig(
            name="replaced_ids",
            description="Films whose headers have other subject ids than their paths.",
            rules=Rules(check_subject=False),
        ),
        FilmConfig(
            name="keypoints",
            description="Landmarks from tables/keypoints.csv, such as KNEEL's 16 a knee.",
            rules=Rules(landmarks="keypoints"),
        ),
        FilmConfig(
            name="boxes",
            description="Knees from tables/boxes.csv: as they lie on the film, no landmarks.",
            rules=Rules(landmarks="boxes"),
        ),
        FilmConfig(
            name="crops",
            description="Ready crops, crops/{subject}_{month}_{L|R}.png of 0.2 mm: no films, no "
            "landmarks.",
            rules=Rules(landmarks="crops"),
        ),
    ]

    def plan(self, work_dir: pathlib.Path) -> Plan:
        """Reads one film of the user's folder a job."""
        return self.plan_tree(self.manual_folder(), self.reader())

    def plan_tree(self, root: pathlib.Path, reader: Reader = DEFAULT_READER) -> Plan:
        """Reads one film of a study tree a job."""
        config = self.builder_config
        jobs, dropped, notes = plan_study(
            root, self.cohort, config.roi, self.study, config.rules, reader
        )
        subjects = enrolment.READERS[self.study](root / "tables")
        return Plan({"study": jobs}, dropped, notes, subjects)
