"""Conversion of a batch of knees to a network's input, for training, evaluation and prediction."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.struct
import jax
import numpy as np

from knee_jax.config.schema import Input
from knee_jax.data import augment
from knee_jax.targets.kinds import Target
from knee_jax.targets.places import Places


@flax.struct.dataclass
class Intensities:
    """Mean and standard deviation that intensities in [0, 1] are normalised by, float32."""

    mean: Any
    std: Any

    @classmethod
    def of(cls, mean: float, std: float) -> "Intensities":
        """Make the intensities from two numbers."""
        return cls(np.asarray(mean, np.float32), np.asarray(std, np.float32))


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Conversion of knees to a network's input.

    Attributes:
        augmentation: Augmentation, with its deterministic input for evaluation.
        inputs: The part `input` of a config.
    """

    augmentation: augment.Augmentation
    inputs: Input

    @property
    def size(self) -> augment.Size:
        """Side of the input for films, or its shape for volumes."""
        return augment.size_of(self.inputs)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the input of one knee; the channels are the last axis."""
        return augment.input_shape(self.augmentation, self.size, self.inputs.channels)

    def __call__(
        self, batch: Mapping[str, Any], key: jax.Array, intensities: Intensities, *, train: bool
    ) -> tuple[jax.Array, jax.Array | None]:
        """Make the normalised input of a batch and its keypoints; see `augment.make_inputs`.

        Args:
            batch: Batch with `image` and `keypoints`, or with `volume`.
            key: Random key of the step, the same on every device; unused in evaluation.
            intensities: Mean and standard deviation to normalise by.
            train: Whether inputs are changed at random.
        """
        images, keypoints = augment.make_inputs(
            batch,
            key,
            self.size,
            (intensities.mean, intensities.std),
            self.augmentation,
            train=train,
            channels=self.inputs.channels,
        )
        if self.inputs.statistics == "each":
            images = augment.standardise(images)
        return images, keypoints

    def mirrored_labels(
        self, labels: Mapping[str, jax.Array], targets: Sequence[Target], key: jax.Array
    ) -> dict[str, jax.Array]:
        """Return the labels of a batch as its training input shows the knees.

        Args:
            labels: Labels [batch] of each target.
            targets: Targets of the run.
            key: Random key that the input was made with.
        """
        number = len(next(iter(labels.values())))
        mirrored = augment.are_mirrored(self.augmentation, key, number)
        if mirrored is None:
            return dict(labels)
        return augment.mirror_labels(labels, targets, mirrored)

    def places(
        self, keypoints: jax.Array | None, targets: Sequence[Target]
    ) -> dict[str, jax.Array]:
        """Return the labels of the targets that are places in the input, as shares of its side.

        Args:
            keypoints: Keypoints of the input, [batch, 74, 2], pixels.
            targets: Targets of the run.
        """
        if keypoints is None:
            return {}
        return {t.name: keypoints / self.size for t in targets if isinstance(t, Places)}

    def raw_training_input(
        self, batch: Mapping[str, Any], key: jax.Array
    ) -> tuple[jax.Array, jax.Array | None]:
        """Make the training input of a batch without normalising its intensities."""
        channels = self.inputs.channels
        return augment.make_inputs(
            batch, key, self.size, (0.0, 1.0), self.augmentation, train=True, channels=channels
        )
