"""6,604 to 9,786 real knee crops of the OAI baseline visit, freely downloadable.

Chen P. "Knee Osteoarthritis Severity Grading Dataset", doi:10.17632/56rmx5bjcr.1, CC BY 4.0.
Any subset of the published splits may be present under `manual_dir`. Left knees are mirrored.
"""

import functools
import pathlib

import tensorflow_datasets as tfds

from knee_jax.datasets.radiographs import Plan, RadiographBuilder
from knee_jax.ingest import crops


class Builder(RadiographBuilder):
    """Published crops with their KL grade; no landmarks, pixel spacing unknown."""

    name = "kneekl224"
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Unpack doi:10.17632/56rmx5bjcr.1 into this folder."
    image_size = crops.SIZE

    def plan(self, work_dir: pathlib.Path) -> Plan:
        """Reads one crop a job, the published splits kept."""
        root = self.manual_folder()
        jobs = {
            split: [functools.partial(crops.read_crop, root, source) for source in sources]
            for split, sources in crops.find_crops(root).items()
        }
        return Plan(jobs)
