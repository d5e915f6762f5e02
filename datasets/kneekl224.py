"""6,604 to 9,786 real knee crops of the OAI baseline visit, freely downloadable.

Chen P. "Knee Osteoarthritis Severity Grading Dataset", doi:10.17632/56rmx5bjcr.1, CC BY 4.0.
Any subset of the published splits may be present under `manual_dir`. Left knees are mirrored.
"""

import pathlib
from typing import ClassVar

import tensorflow_datasets as tfds

from knee_jax.datasets.builders import Plan
from knee_jax.datasets.radiographs import RadiographBuilder
from knee_jax.ingest import crops


class Builder(RadiographBuilder):
    """Published crops with their KL grade; no landmarks, pixel spacing unknown.

    The config `progression` also has the labels of Panfilov et al. 2022, from the table
    `progression_labels.csv` in `manual_dir` or beside it; a crop that it does not name has none.
    """

    name = "kneekl224"
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Unpack doi:10.17632/56rmx5bjcr.1 into this folder."
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(
            name="progression", description="With progression within 96 months, where known."
        )
    ]
    image_size = crops.SIZE

    def __init__(self, config=None, **kwargs):
        if config is None:
            # The crops and their KL grade; TFDS would take the first config.
            self.BUILDER_CONFIGS = []
        super().__init__(config=config, **kwargs)

    @property
    def has_progression(self) -> bool:
        """Whether the config asks for it."""
        return self.builder_config is not None

    def plan(self, work_dir: pathlib.Path) -> Plan:
        """Reads one crop a job, the published splits kept."""
        root = self.manual_folder()
        splits = crops.find_crops(root)
        # None of a source that is not in it: a set without progression.
        known, notes = crops.find_progression(root, splits) if self.has_progression else ({}, {})
        jobs = {
            split: [crops.CropJob(root, source, known.get(source)) for source in sources]
            for split, sources in splits.items()
        }
        return Plan(jobs, notes=notes)
