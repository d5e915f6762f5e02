"""What the builders of radiographs share."""

import abc
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from knee_jax.datasets.builders import KneeBuilder, tensor
from knee_jax.landmarks import NUM_LANDMARKS


class RadiographBuilder(KneeBuilder, skip_registration=True):
    """Base of the builders of films; a subclass names its `image_size` and makes the plan."""

    @property
    @abc.abstractmethod
    def image_size(self) -> int:
        """Height and width of the images in pixels."""

    def own_features(self) -> dict[str, Any]:
        """Pixels, their spacing and landmarks."""
        return {
            "image": tensor(shape=(self.image_size, self.image_size), dtype=np.uint8),
            "keypoints": tensor(shape=(NUM_LANDMARKS, 2), dtype=np.float32),
            "keypoints_valid": tfds.features.Scalar(np.bool_),
            "spacing_mm": tfds.features.Scalar(np.float32),
        }
