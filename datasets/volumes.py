"""Base of the builders of MR volumes."""

import abc
import types
from typing import Any

import numpy as np

from knee_jax.datasets.builders import KneeBuilder, tensor
from knee_jax.ingest import progression
from knee_jax.ingest.volume import Preparation


class VolumeBuilder(KneeBuilder, skip_registration=True):
    """Base of the builders of volumes; a subclass defines their preparation and makes the plan.

    Volumes are uint8 [rows, columns, slices], superior to inferior, anterior to posterior, lateral
    to medial. The knees have a progression label and, of the grades, only KL.
    """

    unit = "series"
    label_columns = types.MappingProxyType({progression.COLUMN: np.int8})
    jobs_per_shard = 128

    @property
    @abc.abstractmethod
    def preparation(self) -> Preparation:
        """Conversion of volumes to examples."""

    def own_features(self) -> dict[str, Any]:
        """Return the voxels, and their spacing along the three axes."""
        return {
            "volume": tensor(shape=self.preparation.result_shape, dtype=np.uint8),
            "spacing_mm": tensor(shape=(3,), dtype=np.float32),
        }
