"""Windows on phantom films of widely varied look, for the localiser; they need no data."""

import dataclasses
import pathlib
import types
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from knee_jax.datasets.builders import IngestPlan
from knee_jax.datasets.radiographs import RadiographBuilder
from knee_jax.ingest.report import Example, Exclusion, Note, example
from knee_jax.phantom import windows
from knee_jax.targets.grades import GRADES


def example_of(window: windows.Window, **identity: Any) -> Example:
    """Make the example of a window."""
    grades = np.full(len(GRADES), -1, np.int8)
    grades[GRADES.index("kl")] = window.kl
    return example(
        window.image,
        grades,
        spacing_mm=window.spacing_mm,
        keypoints=window.points,
        labels={"knee_shown": np.int8(window.shown)},
        **identity,
    )


@dataclasses.dataclass(frozen=True)
class WindowJob:
    """Job that draws the windows of one film.

    Attributes:
        seed: Random seed of the set.
        number: Number of the film.
        pixels: Side of the windows.
    """

    seed: int
    number: int
    pixels: int

    @property
    def subject(self) -> str:
        """Id of the film's subject."""
        return f"{self.seed}-{self.number}"

    def __call__(self) -> list[Example | Exclusion | Note]:
        """Draw the windows; `visit` numbers those of a subject and side."""
        drawn = windows.draw(self.seed, self.number, self.pixels)
        return [self._example(window, place) for place, window in enumerate(drawn)]

    def _example(self, window: windows.Window, place: int) -> Example:
        return example_of(
            window,
            subject=self.subject,
            side=window.side or "R",
            visit=place,
            cohort="phantom",
            source=f"film {self.number}",
        )

    def exclude(self, reason: str, detail: str) -> list[Example | Exclusion | Note]:
        """Return the film as excluded."""
        return [Exclusion(self.subject, "", 0, f"film {self.number}", reason, detail)]

    def paths(self) -> list[pathlib.Path]:
        """Return no path: nothing is read."""
        return []


@dataclasses.dataclass(kw_only=True)
class WindowsConfig(tfds.core.BuilderConfig):
    """Number of films, and size of the windows.

    Attributes:
        num_films: Number of films, each of two knees and about eleven windows.
        pixels: Side of the windows.
        seed: Random seed.
    """

    num_films: int
    pixels: int = 160
    seed: int = 0


class Builder(RadiographBuilder):
    """Windows as one split `study`, with the class `knee_shown`.

    Those of knees that look like a right one have landmarks.
    """

    name = "phantom_windows"
    VERSION = tfds.core.Version("1.0.0")
    label_columns: ClassVar[Any] = types.MappingProxyType({"knee_shown": np.int8})
    jobs_per_shard = 64
    DEFAULT_BUILDER_CONFIG_NAME = "full"
    BUILDER_CONFIGS: ClassVar = [
        WindowsConfig(name="tiny", description="24 films, for tests.", num_films=24),
        WindowsConfig(name="full", description="About 16,000 windows.", num_films=1500),
    ]

    @property
    def image_size(self) -> int:
        """Height and width of the windows, pixels."""
        return int(self.builder_config.pixels)

    def plan(self, work_dir: pathlib.Path) -> IngestPlan:
        """Plan one job per film."""
        config = self.builder_config
        films = range(config.num_films)
        return IngestPlan({"study": [WindowJob(config.seed, n, config.pixels) for n in films]})
