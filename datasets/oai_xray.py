"""OAI's bilateral films, from the study's own tree.

Under `manual_dir`: {month}m/{release}/{subject}/{date}/{barcode}/001 for the films, landmarks
beside them or in landmarks/, and tables/ for the readings of every visit (`kxr_sq_bu00` ...
`kxr_sq_bu10`) and the enrollees (`knee_jax.ingest.oai`). The configs `keypoints` and `boxes` have a
table instead of landmark files (`knee_jax.ingest.landmark_tables`), and `crops` has crops/ instead
of films (`knee_jax.ingest.ready_crops`).
"""

import tensorflow_datasets as tfds

from knee_jax.datasets.radiographs import StudyBuilder


class Builder(StudyBuilder):
    """OAI's knees at all visits; sites are known (`data.splits`)."""

    name = "oai_xray"
    study = "oai"
    cohort = "OAI"
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Unpack OAI's images and tables into this folder."
