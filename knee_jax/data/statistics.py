"""What training needs to know of the training knees: intensities and prevalences."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np

from knee_jax.data.prepared import PreparedSet
from knee_jax.grades import NUM_CLASSES, labels
from knee_jax.workdir import write_json

SAMPLE = 500
"""Knees that the intensity statistics are estimated from: their spread is then under 1 %."""

CHUNK = 50
"""Knees that are looked at together."""

Views = Callable[[Mapping[str, jax.Array], jax.Array], tuple[jax.Array, jax.Array | None]]
"""(batch, random key) → images in [0, 1], not normalised, and keypoints: `augment.views` with all
else given."""


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Facts about the training knees.

    Attributes:
        mean: of intensities in [0, 1].
        deviation: standard deviation of intensities in [0, 1].
        counts: grade, or other target, → knees of each class.
    """

    mean: float
    deviation: float
    counts: dict[str, list[int]]


def measure(
    prepared: PreparedSet,
    rows: np.ndarray,
    views: Views | None = None,
    intensities: tuple[float, float] | None = None,
) -> Statistics:
    """Statistics of the training rows; intensities from `SAMPLE` of them, evenly spaced.

    Args:
        prepared: the set.
        rows: int64 [n], the training rows. A grade that is missing, or hidden, is in no class.
        views: takes the intensities from what the network sees in training, with the augmentation
            on: mean over batches of the batches' means and of their standard deviations (what the
            code of Tiulpin & Saarakkala 2020 does). None: from the pixels of the ROIs.
        intensities: their mean and standard deviation where they need not be measured.
    """
    if intensities is not None:
        mean, deviation = intensities
    elif views is None:
        mean, deviation = _of_pixels(prepared, rows)
    else:
        mean, deviation = _of_views(prepared, rows, views)
    index = prepared.index.iloc[rows]
    counts = {
        target: [int((labels(index, target) == c).sum()) for c in range(classes)]
        for target, classes in NUM_CLASSES.items()
    }
    return Statistics(mean, deviation, counts)


def _evenly(rows: np.ndarray, number: int) -> np.ndarray:
    return rows[np.linspace(0, len(rows) - 1, number).astype(int)]


def _of_pixels(prepared: PreparedSet, rows: np.ndarray) -> tuple[float, float]:
    sample = _evenly(rows, min(SAMPLE, len(rows)))
    total = squares = pixels = 0
    for chunk in np.array_split(sample, -(-len(sample) // CHUNK)):
        images = prepared.load(chunk)["image"].astype(np.float64) / 255
        total, squares, pixels = (
            total + images.sum(),
            squares + np.square(images).sum(),
            pixels + images.size,
        )
    mean = total / pixels
    return float(mean), float(np.sqrt(squares / pixels - mean**2))


def _of_views(prepared: PreparedSet, rows: np.ndarray, views: Views) -> tuple[float, float]:
    number = min(SAMPLE, len(rows))
    # Batches of one size, since another would be compiled anew; and mixed, as in training.
    size = min(CHUNK, number)
    sample = _evenly(rows, number - number % size)
    batches = np.random.default_rng(0).permutation(sample).reshape(-1, size)

    @jax.jit
    def moments(batch: Mapping[str, jax.Array], key: jax.Array) -> tuple[jax.Array, jax.Array]:
        images, _ = views(batch, key)
        return images.mean(), images.std()

    found = []
    for step, chosen in enumerate(batches):
        knees = prepared.load(chosen)
        batch = {name: knees[name] for name in ("image", "keypoints")}
        found.append(moments(batch, jax.random.fold_in(jax.random.key(0), step)))
    mean, deviation = np.array(jax.device_get(found), np.float64).mean(axis=0)
    return float(mean), float(deviation)


def save(statistics: Statistics, path: Path) -> None:
    """Writes the statistics as JSON, all or nothing; the first process does it."""
    if jax.process_index() == 0:
        write_json(path, dataclasses.asdict(statistics))


def load(path: Path) -> Statistics:
    """Reads what `save` wrote."""
    return Statistics(**json.loads(path.read_text(encoding="utf-8")))
