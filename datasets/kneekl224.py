"""6,604 to 9,786 real knee crops of the OAI baseline visit, freely downloadable.

Chen P. "Knee Osteoarthritis Severity Grading Dataset", doi:10.17632/56rmx5bjcr.1, CC BY 4.0.
Any subset of the published splits may be present under `manual_dir`. Left knees are mirrored.
"""

import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from knee_jax.datasets.builders import LOCATED, IngestPlan
from knee_jax.datasets.radiographs import RadiographBuilder
from knee_jax.ingest import crops, progression


class Builder(RadiographBuilder):
    """Published crops with their KL grade, without pixel spacing.

    The config `progression` adds the labels of Panfilov et al. 2022, from the table
    `progression_labels.csv` in `manual_dir` or beside it, if that names the knee.
    """

    name = "kneekl224"
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Unpack doi:10.17632/56rmx5bjcr.1 into this folder."
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(
            name="progression", description="With progression within 96 months, where known."
        ),
        tfds.core.BuilderConfig(
            name=LOCATED, description="With landmarks found by the project's localiser."
        ),
    ]
    image_size = crops.KNEEKL224.pixels

    def __init__(self, config=None, **kwargs):
        if config is None:
            # The crops and their KL grade; TFDS would take the first config.
            self.BUILDER_CONFIGS = []
        super().__init__(config=config, **kwargs)

    @property
    def label_columns(self) -> Mapping[str, Any]:
        """Progression, if the config requests it."""
        known = self.builder_config is not None and self.builder_config.name == "progression"
        return {progression.COLUMN: np.int8} if known else {}

    def plan(self, work_dir: pathlib.Path) -> IngestPlan:
        """Plan one job per crop, in the published splits."""
        root = self.manual_folder()
        splits, notes = crops.find_kneekl224(root), {}
        if self.label_columns:
            splits, notes = crops.add_progression(root, splits)
        jobs = {
            split: [crops.CropJob(root, file, crops.KNEEKL224) for file in files]
            for split, files in splits.items()
        }
        return IngestPlan(jobs, notes=notes)
