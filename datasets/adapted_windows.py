"""Windows of phantom films, and of real crops with the landmarks that a localiser finds in them.

A localiser that is trained on them has seen real knees, without any landmark that a person has set
(Lee 2013, "Pseudo-label"). `manual_dir` is that of `kneekl224`; of its training part alone are
crops taken.
"""

import dataclasses
import pathlib
import types
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from knee_jax.datasets.builders import IngestPlan, Job
from knee_jax.datasets.phantom_windows import WindowJob, WindowsConfig, example_of
from knee_jax.datasets.radiographs import RadiographBuilder
from knee_jax.ingest import crops
from knee_jax.ingest.report import LANDMARK_ERROR, Example, Exclusion, Note
from knee_jax.phantom import windows

LARGEST_ERROR = 0.02
"""Largest expected error of a crop's landmarks, in widths of the plateau, to learn from it."""


@dataclasses.dataclass(frozen=True)
class CropWindowsJob:
    """Job that draws windows on one crop.

    Attributes:
        crop: Job of the crop, with its landmarks once they are found.
        pixels: Side of the windows.
        number: Number of upright windows.
    """

    crop: crops.CropJob
    pixels: int
    number: int = 3

    def __call__(self) -> list[Example | Exclusion | Note]:
        """Draw the windows; `visit` numbers those of a knee."""
        file, points = self.crop.file, self.crop.keypoints
        error = float(file.labels.get(LANDMARK_ERROR, np.nan))
        if points is None or not error <= LARGEST_ERROR:
            return self.exclude("not_located", "no landmarks were found that are certain enough")
        image = crops.read_crop(self.crop.root / file.source, file.side, self.crop.region)
        rng = np.random.default_rng([int(file.subject), "RL".index(file.side)])
        drawn = windows.of_crop(rng, image, points, self.pixels, self.number)
        identity = {"subject": file.subject, "side": file.side, "source": file.source}
        return [
            example_of(window, visit=place, cohort=file.cohort, **identity)
            for place, window in enumerate(drawn)
        ]

    def exclude(self, reason: str, detail: str) -> list[Example | Exclusion | Note]:
        """Return the knee as excluded."""
        return self.crop.exclude(reason, detail)

    def paths(self) -> list[pathlib.Path]:
        """Return the path of the crop."""
        return self.crop.paths()


@dataclasses.dataclass(kw_only=True)
class AdaptedConfig(WindowsConfig):
    """Films and crops.

    Attributes:
        every: One of so many crops of the training part is taken.
    """

    every: int = 1


class Builder(RadiographBuilder):
    """Windows as one split `study`, those of films as in `phantom_windows`."""

    name = "adapted_windows"
    VERSION = tfds.core.Version("1.0.0")
    label_columns: ClassVar[Any] = types.MappingProxyType({"knee_shown": np.int8})
    jobs_per_shard = 64
    is_located = True
    BUILDER_CONFIGS: ClassVar = [
        AdaptedConfig(
            name="kneekl224",
            description="About 8,000 windows of films, and 5,000 of every fourth crop.",
            num_films=700,
            seed=1,
            every=4,
        )
    ]

    @property
    def columns(self) -> dict[str, Any]:
        """Dtypes of `label_columns`."""
        return dict(self.label_columns)

    @property
    def image_size(self) -> int:
        """Height and width of the windows, pixels."""
        return int(self.builder_config.pixels)

    def plan(self, work_dir: pathlib.Path) -> IngestPlan:
        """Plan one job per film, and one per crop."""
        config = self.builder_config
        jobs: list[Job] = [
            WindowJob(config.seed, n, config.pixels) for n in range(config.num_films)
        ]
        root = self.manual_folder()
        files = crops.find_kneekl224(root)["train"][:: config.every]
        jobs += [
            CropWindowsJob(crops.CropJob(root, file, crops.KNEEKL224), config.pixels)
            for file in files
        ]
        return IngestPlan({"study": jobs})

    def located(self, job: Job, localise: Callable[[Any], Any]) -> Job:
        """Return the job of a crop with its landmarks; that of a film as it is."""
        if isinstance(job, CropWindowsJob):
            return dataclasses.replace(job, crop=localise(job.crop))
        return job
