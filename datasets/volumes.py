"""What the builders of MR volumes share."""

import abc
from typing import Any

import numpy as np

from knee_jax.datasets.builders import KneeBuilder, tensor
from knee_jax.ingest.volume import Preparation


class VolumeBuilder(KneeBuilder, skip_registration=True):
    """Base of the builders of volumes; a subclass says how they are prepared and makes the plan.

    Volumes are uint8 [rows, columns, slices], superior to inferior, anterior to posterior, lateral
    to medial. The knees have a label of progression and, of the grades, KL.
    """

    unit = "series"
    has_progression = True
    jobs_per_shard = 128

    @property
    @abc.abstractmethod
    def preparation(self) -> Preparation:
        """How volumes become examples."""

    def own_features(self) -> dict[str, Any]:
        """Voxels, and their spacing along the three axes."""
        return {
            "volume": tensor(shape=self.preparation.result_shape, dtype=np.uint8),
            "spacing_mm": tensor(shape=(3,), dtype=np.float32),
        }
