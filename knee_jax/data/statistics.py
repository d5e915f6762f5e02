"""What training needs to know of the training knees: intensities and prevalences."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np

from knee_jax.data.prepared import PreparedSet
from knee_jax.grades import NUM_CLASSES
from knee_jax.workdir import write_json

SAMPLE = 500
"""Knees that the intensity statistics are estimated from: their spread is then under 1 %."""


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Facts about the training knees.

    Attributes:
        mean: of intensities in [0, 1].
        deviation: standard deviation of intensities in [0, 1].
        counts: grade → knees of each class.
    """

    mean: float
    deviation: float
    counts: dict[str, list[int]]


def measure(prepared: PreparedSet, rows: np.ndarray) -> Statistics:
    """Statistics of the training rows; intensities from `SAMPLE` of them, evenly spaced."""
    sample = rows[np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(int)]
    total = squares = pixels = 0
    for chunk in np.array_split(sample, -(-len(sample) // 50)):
        images = prepared.load(chunk)["image"].astype(np.float64) / 255
        total, squares, pixels = (
            total + images.sum(),
            squares + np.square(images).sum(),
            pixels + images.size,
        )
    mean = total / pixels
    counts = {
        grade: [int((prepared.index[grade].to_numpy()[rows] == c).sum()) for c in range(classes)]
        for grade, classes in NUM_CLASSES.items()
    }
    return Statistics(float(mean), float(np.sqrt(squares / pixels - mean**2)), counts)


def save(statistics: Statistics, path: Path) -> None:
    """Writes the statistics as JSON, all or nothing; the first process does it."""
    if jax.process_index() == 0:
        write_json(path, dataclasses.asdict(statistics))


def load(path: Path) -> Statistics:
    """Reads what `save` wrote."""
    return Statistics(**json.loads(path.read_text(encoding="utf-8")))
