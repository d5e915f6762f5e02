"""Baseline DESS volumes of OAI, from the study's own tree, with progression within 96 months.

Under `manual_dir`: 00m/{release}/{subject}/{date}/{barcode}/ with the series, each a folder of
slices, and tables/ with the readings of all visits (`kxr_sq_bu00` ... `kxr_sq_bu10`), the enrollees
and, for the configs that need it, `outcomes99`.
"""

import dataclasses
import pathlib
from typing import ClassVar

import tensorflow_datasets as tfds

from knee_jax.datasets.builders import IngestPlan
from knee_jax.datasets.volumes import VolumeBuilder
from knee_jax.ingest import enrolment
from knee_jax.ingest.mri import plan_study
from knee_jax.ingest.volume import Preparation


@dataclasses.dataclass(kw_only=True)
class MriConfig(tfds.core.BuilderConfig):
    """View that the volumes are made for, and the definition of progression.

    Attributes:
        view: Key of `ingest.volume.FACTORS`.
        rule: Rule of `ingest.progression.label_progression`.
        outcomes: Whether replaced joints are also read from `outcomes99`.
        with_bmi: Whether the body mass index must be known; see `ingest.mri.plan_study`.
        check_subject: Whether to compare subject ids; see `ingest.inventory.Rules`.
    """

    view: str = "sagittal"
    rule: str = "coded"
    outcomes: bool = False
    with_bmi: bool = False
    check_subject: bool = True


class Builder(VolumeBuilder):
    """OAI's knees at baseline, in one split `study`; sites are known (`cohort.splits`)."""

    name = "oai_mri"
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Unpack OAI's baseline images and tables into this folder."
    BUILDER_CONFIGS: ClassVar = [
        MriConfig(name="sagittal", description="176x176x80 voxels: halved along all axes."),
        MriConfig(
            name="coronal",
            description="176x88x160 voxels, for coronal images with square pixels.",
            view="coronal",
        ),
        MriConfig(
            name="axial",
            description="88x176x160 voxels, for axial images with square pixels.",
            view="axial",
        ),
        MriConfig(
            name="sagittal_published",
            description="Knees and labels of Panfilov et al. 2022: every missing reading after "
            "baseline is a replaced joint, and the body mass index is known.",
            rule="published",
            with_bmi=True,
        ),
        MriConfig(
            name="sagittal_replaced_ids",
            description="Series whose headers have other subject ids than their folders.",
            check_subject=False,
        ),
        MriConfig(
            name="sagittal_outcomes",
            description="With the replaced joints of outcomes99, too.",
            outcomes=True,
        ),
    ]

    @property
    def preparation(self) -> Preparation:
        """Conversion of OAI's DESS series for the config's view."""
        return Preparation(view=self.builder_config.view)

    def plan(self, work_dir: pathlib.Path) -> IngestPlan:
        """Plan one job per series."""
        config = self.builder_config
        root = self.manual_folder()
        jobs, exclusions, notes = plan_study(
            root,
            "OAI",
            self.preparation,
            rule=config.rule,
            outcomes=config.outcomes,
            with_bmi=config.with_bmi,
            check_subject=config.check_subject,
            loader=self.header_loader(),
        )
        return IngestPlan({"study": jobs}, exclusions, notes, enrolment.read_oai(root / "tables"))
