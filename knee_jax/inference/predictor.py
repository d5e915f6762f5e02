"""Predictor of knees: a network with its preprocessing and targets, wherever it was read from."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from knee_jax.errors import UserError
from knee_jax.landmarks import NUM_LANDMARKS
from knee_jax.targets.kinds import Target

Batch = Mapping[str, np.ndarray]
"""Knees: `image` uint8 [batch, side, side] or `volume` uint8 [batch, rows, columns, slices], and
`keypoints` float32 [batch, 74, 2]."""

BATCH_SIZE = 32

NOVELTY = "novelty"
"""Name of the novelty among the outputs of `Predictor.forward`, where the model knows it."""


class Reading(NamedTuple):
    """Predictions of some knees, and how unlike the training knees they are.

    Attributes:
        decoded: Result of `Predictor.predict`.
        novelty: How unlike the training knees each is, float32 [n]; 1 is the limit that 99 % of
            held-out knees stay below (`inference.novelty`). None if the model does not know.
    """

    decoded: dict[str, np.ndarray]
    novelty: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Predictor:
    """Trained network that predicts on arrays.

    Attributes:
        name: Name of the model, or of the folder or file that it was read from.
        targets: Targets that are predicted.
        needs_landmarks: Whether the network reads landmarks.
        reads: Array of a batch that it reads, 'image' or 'volume'.
        side: Side of the images that it was trained on, pixels; 0 if unknown or volumes.
        forward: Compiled function from a batch to decoded outputs by target, and `NOVELTY`, if the
            model knows it.
        heat: Compiled function from a batch to where the evidence for the most probable class of
            the first target lay, float32 [batch, size, size], 0 to 1; None if the network does not
            show it.
        batch_sizes: Numbers of knees in a batch, ascending; each is a program of its own, and a
            batch is filled up to the least that holds it.
        temperatures: Temperature by which the probabilities of a target are calibrated, as fitted
            on validation knees; a target without one is not calibrated.
        facts: What is known of the model, as its file or its run's folder tells it.
        card: Text of its model card, Markdown; '' if it has none.
    """

    name: str
    targets: tuple[Target, ...]
    needs_landmarks: bool
    reads: str
    side: int
    forward: Callable[[Batch], Mapping[str, Any]]
    heat: Callable[[Batch], Any] | None
    batch_sizes: tuple[int, ...] = (BATCH_SIZE,)
    temperatures: Mapping[str, float] = dataclasses.field(default_factory=dict)
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    card: str = ""

    def predict(
        self,
        images: np.ndarray | Sequence[np.ndarray],
        landmarks: np.ndarray | None = None,
        batch_size: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Predict every target of some knees.

        Args:
            images: Regions of interest oriented as a right knee (lateral at the left), uint8 [n,
                side, side]; for a network of volumes [n, rows, columns, slices].
            landmarks: Landmarks, float32 [n, 74, 2], x and y in pixels of the images, the centre of
                the first pixel at 0.5; NaN where unknown. Required if the network reads landmarks.
            batch_size: Number of knees in a batch, on which predictions do not depend; None: one of
                `batch_sizes`.

        Returns:
            For each target, class probabilities float32 [n, classes], or values float32 [n] in the
            target's unit.

        Raises:
            UserError: Images have a wrong type or shape, or required landmarks are missing.
        """
        return self.read(images, landmarks, batch_size).decoded

    def read(
        self,
        images: np.ndarray | Sequence[np.ndarray],
        landmarks: np.ndarray | None = None,
        batch_size: int | None = None,
    ) -> Reading:
        """Predict as `predict` does, and tell how unlike the training knees each knee is."""
        batches = [
            {name: np.asarray(array)[:number] for name, array in outputs.items()}
            for outputs, number in self._mapped(self.forward, images, landmarks, batch_size)
        ]
        found = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        decoded = {target.name: found[target.name] for target in self.targets}
        return Reading(decoded, found.get(NOVELTY))

    def explain(
        self,
        images: np.ndarray | Sequence[np.ndarray],
        landmarks: np.ndarray | None = None,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Show where the evidence for the predicted class of the first target lay.

        Args:
            images: Regions of interest, as in `predict`.
            landmarks: Landmarks, as in `predict`.
            batch_size: Number of knees in a batch, as in `predict`.

        Returns:
            Evidence at every pixel of the network's input, float32 [n, size, size], 0 to 1.

        Raises:
            UserError: The network does not show it, or as in `predict`.
        """
        if self.heat is None:
            raise UserError(f"{self.name}: the network does not show where its evidence lies")
        found = self._mapped(self.heat, images, landmarks, batch_size)
        return np.concatenate([np.asarray(heat)[:number] for heat, number in found])

    def table(self, knees: pd.DataFrame, predicted: Mapping[str, np.ndarray]) -> pd.DataFrame:
        """Join predictions to knees: one row per knee, with the columns of a predictions table.

        Args:
            knees: Table with one row per knee, with whatever identifies it.
            predicted: Result of `predict`.
        """
        columns: dict[str, np.ndarray] = {}
        for target in self.targets:
            columns |= target.predictions(predicted[target.name])
        return pd.concat([knees.reset_index(drop=True), pd.DataFrame(columns)], axis=1)

    def _mapped(
        self,
        function: Callable[[Batch], Any],
        images: np.ndarray | Sequence[np.ndarray],
        landmarks: np.ndarray | None,
        batch_size: int | None,
    ) -> Iterator[tuple[Any, int]]:
        """Yield the results of the batches, and how many knees of each count."""
        images = self._checked(images)
        landmarks = self._checked_landmarks(landmarks, len(images))
        sizes = (batch_size,) if batch_size else self.batch_sizes
        for first in range(0, len(images), sizes[-1]):
            chunk = images[first : first + sizes[-1]]
            points = landmarks[first : first + sizes[-1]]
            # Filled up with the last knee, so that few programs serve every batch.
            missing = next(size for size in sizes if size >= len(chunk)) - len(chunk)
            batch = {self.reads: _filled(chunk, missing), "keypoints": _filled(points, missing)}
            yield jax.device_get(function(batch)), len(chunk)

    def _checked(self, images: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        images = np.asarray(images)
        volumes = self.reads == "volume"
        wanted = "[n, rows, columns, slices]" if volumes else "[n, side, side]"
        square = volumes or (images.ndim == 3 and images.shape[1] == images.shape[2])
        if images.dtype != np.uint8 or images.ndim != (4 if volumes else 3) or not square:
            raise UserError(
                f"images are {images.dtype} {list(images.shape)}; uint8 {wanted} is needed"
            )
        if not len(images):
            raise UserError("no image is given: give at least one")
        return images

    def _checked_landmarks(self, landmarks: np.ndarray | None, number: int) -> np.ndarray:
        if landmarks is None:
            if self.needs_landmarks:
                raise UserError(
                    f"the network {self.name} reads landmarks: give [n, {NUM_LANDMARKS}, 2], with "
                    "NaN for knees that have none"
                )
            return np.full((number, NUM_LANDMARKS, 2), np.nan, np.float32)
        landmarks = np.asarray(landmarks, np.float32)
        if landmarks.shape != (number, NUM_LANDMARKS, 2):
            raise UserError(
                f"landmarks have the shape {landmarks.shape}; {number} images need "
                f"({number}, {NUM_LANDMARKS}, 2)"
            )
        return landmarks


def _filled(array: np.ndarray, missing: int) -> np.ndarray:
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array
