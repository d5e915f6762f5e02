"""Bases of the builders of radiographs."""

import dataclasses
import pathlib
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from knee_jax.datasets.builders import COMPARED, LOCATED, IngestPlan, KneeBuilder, tensor
from knee_jax.ingest import enrolment
from knee_jax.ingest.film import Roi
from knee_jax.ingest.headers import DEFAULT_LOADER, HeaderLoader
from knee_jax.ingest.inventory import Rules
from knee_jax.ingest.study import plan_study
from knee_jax.landmarks import NUM_LANDMARKS


@dataclasses.dataclass(kw_only=True)
class FilmConfig(tfds.core.BuilderConfig):
    """Region of interest of a study's films, and the rules by which the study is read.

    Attributes:
        roi: Region of interest of a knee.
        rules: Rules for tables and files.
    """

    roi: Roi = dataclasses.field(default_factory=Roi)
    rules: Rules = dataclasses.field(default_factory=Rules)


class RadiographBuilder(KneeBuilder, skip_registration=True):
    """Base of the builders of films; a subclass makes the plan."""

    @property
    def image_size(self) -> int:
        """Height and width of the images, pixels."""
        return self.builder_config.roi.pixels

    def own_features(self) -> dict[str, Any]:
        """Return the pixels, their spacing and the landmarks."""
        return {
            "image": tensor(shape=(self.image_size, self.image_size), dtype=np.uint8),
            "keypoints": tensor(shape=(NUM_LANDMARKS, 2), dtype=np.float32),
            "keypoints_valid": tfds.features.Scalar(np.bool_),
            "spacing_mm": tfds.features.Scalar(np.float32),
        }


class StudyBuilder(RadiographBuilder, skip_registration=True):
    """Base of the builders of a study's own tree, with one split `study`.

    Subject-wise splits are drawn by the run (`knee_jax.cohort.splits`).

    Attributes:
        study: Layout of the tree, a key of `knee_jax.ingest.study.LAYOUTS`.
        cohort: Name of the study in the examples.
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
            description="Only knees with every sign read, as in Tiulpin & Saarakkala 2020.",
            rules=Rules(fully_read=True),
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
            description="Landmarks from tables/keypoints.csv, such as the 16 of KNEEL.",
            rules=Rules(landmarks="keypoints"),
        ),
        FilmConfig(
            name="boxes",
            description="Knees from tables/boxes.csv: as they lie on the film, without landmarks.",
            rules=Rules(landmarks="boxes"),
        ),
        FilmConfig(
            name="crops",
            description="Ready crops, crops/{subject}_{month}_{L|R}.png of 0.2 mm: no films, no "
            "landmarks.",
            rules=Rules(landmarks="crops"),
        ),
        FilmConfig(
            name=LOCATED,
            description="Landmarks found by the project's localiser where a film has no landmark "
            "files; the column landmark_error tells them apart.",
        ),
        FilmConfig(
            name=COMPARED,
            description="As `located`, and the localiser looks at films with landmark files as "
            "well: landmark_quality.csv tells how the two differ.",
        ),
    ]

    def plan(self, work_dir: pathlib.Path) -> IngestPlan:
        """Plan one job per film of the user's folder."""
        return self.plan_tree(self.manual_folder(), self.header_loader())

    def plan_tree(self, root: pathlib.Path, loader: HeaderLoader = DEFAULT_LOADER) -> IngestPlan:
        """Plan one job per film of a study tree."""
        config = self.builder_config
        jobs, exclusions, notes = plan_study(
            root,
            self.cohort,
            config.roi,
            self.study,
            dataclasses.replace(config.rules, spacing_mm=self.spacing_mm),
            loader,
        )
        subjects = enrolment.LOADERS[self.study](root / "tables")
        return IngestPlan({"study": jobs}, exclusions, notes, subjects)
