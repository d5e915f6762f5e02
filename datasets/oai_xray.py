"""OAI's bilateral films, from the study's own tree.

Under `manual_dir`:

- {month}m/{release}/{subject}/{date}/{barcode}/001 for the films, and landmarks beside them or in
  landmarks/
- tables/, or folders of it, for the readings of every visit (`kxr_sq_bu00` ... `kxr_sq_bu10`), the
  enrollees and, if wanted, age and body mass index (`allclinical00`) and joint space width
  (`kxr_qjsw_duryea00` ... `kxr_qjsw_duryea10`); or for the tables of the NIMH Data Archive
  (`oai_kxrsemiquant01`, `oai_enrollee01`, `oai_oarisk01`)

See `knee_jax.ingest.oai`, `readings`, `enrolment` and `joint_space`. The configs `keypoints` and
`boxes` have a table instead of landmark files (`knee_jax.ingest.landmark_tables`), and `crops` has
crops/ instead of films (`knee_jax.ingest.crops`).
"""

import types
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from knee_jax.datasets.radiographs import FilmConfig, StudyBuilder
from knee_jax.ingest import joint_space
from knee_jax.ingest.inventory import Rules


class Builder(StudyBuilder):
    """OAI's knees at all visits; sites are known (`cohort.splits`)."""

    name = "oai_xray"
    study = "oai"
    cohort = "OAI"
    VERSION = tfds.core.Version("1.1.0")
    label_columns = types.MappingProxyType({joint_space.COLUMN: np.float32})
    BUILDER_CONFIGS: ClassVar = [
        *StudyBuilder.BUILDER_CONFIGS,
        FilmConfig(
            name="project_15",
            description="Grades of reading project 15 alone: none of months 72 and 96.",
            rules=Rules(projects=(15,)),
        ),
        FilmConfig(
            name="file_order",
            description="Of several readings of a knee the first one in the file, as in the "
            "published code.",
            rules=Rules(order="file"),
        ),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Unpack OAI's images and tables into this folder."
