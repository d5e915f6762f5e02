"""Statistics of the training knees: intensities and prevalences."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from knee_jax import targets
from knee_jax.errors import UserError
from knee_jax.targets.kinds import Classes

if TYPE_CHECKING:
    from knee_jax.data.prepared import PreparedSet

FILE = "statistics.json"
"""Name of the file in a run's folder."""

SAMPLE = 500
"""Number of knees that the intensity statistics are estimated from; their error is then below 1 %.
"""

CHUNK = 50
"""Number of knees that are processed together."""

RawInputs = Callable[[Mapping[str, jax.Array], jax.Array], tuple[jax.Array, jax.Array | None]]
"""Function from (batch, random key) to unnormalised images in [0, 1], and keypoints."""


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Intensities and prevalences of the training knees.

    Attributes:
        mean: Mean of intensities in [0, 1].
        std: Standard deviation of intensities in [0, 1].
        counts: Number of knees of each class, for each class target.
        side: Side of the prepared images, pixels; 0 for volumes, and in older runs.
    """

    mean: float
    std: float
    counts: dict[str, list[int]]
    side: int = 0


def measure(
    prepared: "PreparedSet",
    rows: np.ndarray,
    raw_inputs: RawInputs | None = None,
    intensities: tuple[float, float] | None = None,
) -> Statistics:
    """Measure statistics of the training rows, intensities on `SAMPLE` of them, evenly spaced.

    Args:
        prepared: Prepared set.
        rows: Training rows, int64 [n]. A missing or hidden grade belongs to no class.
        raw_inputs: Function that makes augmented training inputs, on which the intensities are then
            measured: mean over batches of the batch means, and of the batch standard deviations (as
            in the code of Tiulpin & Saarakkala 2020). None: measured on the pixels of the ROIs.
        intensities: Known mean and standard deviation, which then are not measured.
    """
    if intensities is not None:
        mean, std = intensities
    elif raw_inputs is None:
        mean, std = _of_pixels(prepared, rows)
    else:
        mean, std = _of_inputs(prepared, rows, raw_inputs)
    index = prepared.index.iloc[rows]
    counts = {
        target.name: [int((target.labels(index) == c).sum()) for c in range(target.num_outputs)]
        for target in targets.get_all(prepared.targets)
        if isinstance(target, Classes)
    }
    side = prepared.image_shape[0] if prepared.pixels == "image" else 0
    return Statistics(mean, std, counts, side)


def _evenly(rows: np.ndarray, number: int) -> np.ndarray:
    return rows[np.linspace(0, len(rows) - 1, number).astype(int)]


def _of_pixels(prepared: "PreparedSet", rows: np.ndarray) -> tuple[float, float]:
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


def _of_inputs(
    prepared: "PreparedSet", rows: np.ndarray, raw_inputs: RawInputs
) -> tuple[float, float]:
    number = min(SAMPLE, len(rows))
    # All batches have one size, since another would be compiled anew; they are mixed, as in
    # training.
    size = min(CHUNK, number)
    sample = _evenly(rows, number - number % size)
    batches = np.random.default_rng(0).permutation(sample).reshape(-1, size)

    @jax.jit
    def moments(batch: Mapping[str, jax.Array], key: jax.Array) -> tuple[jax.Array, jax.Array]:
        images, _ = raw_inputs(batch, key)
        return images.mean(), images.std()

    found = []
    for step, chosen in enumerate(batches):
        knees = prepared.load(chosen)
        batch = {name: knees[name] for name in ("image", "keypoints")}
        found.append(moments(batch, jax.random.fold_in(jax.random.key(0), step)))
    mean, std = np.array(jax.device_get(found), np.float64).mean(axis=0)
    return float(mean), float(std)


def content(statistics: Statistics) -> bytes:
    """Return the statistics as JSON."""
    return (json.dumps(dataclasses.asdict(statistics), indent=2) + "\n").encode()


def load(path: Path) -> Statistics:
    """Read statistics from a file with that content.

    Raises:
        UserError: The file does not hold statistics.
    """
    try:
        return Statistics(**json.loads(path.read_bytes()))
    except (ValueError, TypeError):
        raise UserError(f"{path}: does not hold the statistics of a run; train again") from None
