"""MOST's bilateral films of the view PA10, from the study's own tree.

Under `manual_dir`: the films, landmarks beside them or in landmarks/, and tables/ with
`mostv01235xray`, the list of films `MOST_names.csv` and, if wanted, `mostv0enroll` and
`mostoutcomes` (`knee_jax.ingest.most`, `enrolment`). The configs `keypoints`, `boxes` and `crops`
are those of `oai_xray`; `crops` needs no list.
"""

import tensorflow_datasets as tfds

from knee_jax.datasets.radiographs import StudyBuilder


class Builder(StudyBuilder):
    """MOST's knees at all visits."""

    name = "most_xray"
    study = "most"
    cohort = "MOST"
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Unpack MOST's films, tables and list of films into this folder."
