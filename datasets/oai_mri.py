"""Baseline DESS volumes of OAI, from the study's own tree, with progression within 96 months.

Under `manual_dir`: 00m/{release}/{subject}/{date}/{barcode}/ for the series, each a folder of
slices, and tables/ for the readings of all visits (`kxr_sq_bu00` ... `kxr_sq_bu10`), the enrollees
and, for the configs that ask for it, `outcomes99`.
"""

import dataclasses
import pathlib
from typing import ClassVar

import tensorflow_datasets as tfds

from knee_jax.datasets.builders import Plan
from knee_jax.datasets.volumes import VolumeBuilder
from knee_jax.ingest import enrolment
from knee_jax.ingest.mri import plan_study
from knee_jax.ingest.volume import Preparation


@dataclasses.dataclass(kw_only=True)
class MriConfig(tfds.core.BuilderConfig):
    """Which images the volumes are made for, and what counts as progression.

    Attributes:
        view: of `ingest.volume.FACTORS`.
        rule: of `ingest.progression.label_progression`.
        outcomes: whether `outcomes99` tells of replaced joints, beside the readings.
        with_bmi: of `ingest.mri.plan_study`.
        check_subject: of `ingest.inventory.Rules`.
    """

    view: str = "sagittal"
    rule: str = "coded"
    outcomes: bool = False
    with_bmi: bool = False
    check_subject: bool = True


class Builder(VolumeBuilder):
    """OAI's knees at baseline, as one split `study`; sites are known (`data.splits`)."""

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
            description="Replaced joints as outcomes99 tells of them, too.",
            outcomes=True,
        ),
    ]

    @property
    def preparation(self) -> Preparation:
        """That of OAI's DESS series, for the config's view."""
        return Preparation(view=self.builder_config.view)

    def plan(self, work_dir: pathlib.Path) -> Plan:
        """Reads one series a job."""
        config = self.builder_config
        root = self.manual_folder()
        jobs, dropped, notes = plan_study(
            root,
            "OAI",
            self.preparation,
            rule=config.rule,
            outcomes=config.outcomes,
            with_bmi=config.with_bmi,
            check_subject=config.check_subject,
            reader=self.reader(),
        )
        return Plan({"study": jobs}, dropped, notes, enrolment.read_oai(root / "tables"))
