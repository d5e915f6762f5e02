"""Voxels from prepared volume to network input, on the device: crop, rotation and gamma.

After Panfilov et al. 2022, section 3.2, and their code, which crops and rotates 320x320x128 voxels
and shrinks them afterwards; here volumes have been shrunk before (`ingest.volume`), so that a crop
moves by steps of two of OAI's voxels.
"""

import dataclasses
import types
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from knee_jax.data import geometry
from knee_jax.data.checks import Range, check_number, check_positive_range
from knee_jax.errors import UserError

Shape = tuple[int, int, int]
"""Rows, columns and slices of the knee's frame (`ingest.series`)."""

VIEWS = types.MappingProxyType({"sagittal": (2, 0, 1), "coronal": (1, 0, 2), "axial": (0, 1, 2)})
"""View → axes of a volume that are the slices, rows and columns of the view's images."""


@dataclasses.dataclass(frozen=True)
class VolumeCrop:
    """Crop, rotation and gamma of Panfilov et al. 2022; the defaults are theirs.

    A crop lies anywhere in the volume, each of its positions being as likely as another, and its
    intensities are stretched to [0, 1]; it is rotated in the sagittal plane, whatever the view, by
    one angle for all slices (bilinear, black corners); and gamma is changed. The evaluation view is
    the central crop.

    Attributes:
        view: how the images lie that the network reads: a key of `VIEWS`.
        aspect: distance of the volume's columns over that of its rows. OAI's sets have 1 for
            sagittal images, 2 for coronal and 0.5 for axial ones.
        rotation: largest angle either way, degrees.
        rotation_probability: of a rotation.
        gamma: lowest and highest gamma; the exponent of intensities in [0, 1] is its inverse.
        gamma_probability: of a change of gamma.
    """

    name: ClassVar[str] = "volume_crop"
    reads: ClassVar[str] = "volume"
    intensities: ClassVar[tuple[float, float] | None] = (0.257, 0.235)
    """Mean and standard deviation of OAI's crops, by which the published code normalises."""

    view: str = "sagittal"
    aspect: float = 1.0
    rotation: float = 15.0
    rotation_probability: float = 0.5
    gamma: Range = (0.5, 2.0)
    gamma_probability: float = 0.5

    def __post_init__(self):
        if self.view not in VIEWS:
            raise UserError(f"config.augmentation.view = {self.view!r}: choose {', '.join(VIEWS)}")
        check_number("aspect", self.aspect, 0.1, 10)
        check_number("rotation", self.rotation, 0, 90, "degrees")
        check_number("rotation_probability", self.rotation_probability, 0, 1)
        check_number("gamma_probability", self.gamma_probability, 0, 1)
        check_positive_range("gamma", self.gamma)

    def check_size(self, size: Shape) -> None:
        """Raises UserError for a size that is not three whole numbers."""
        if len(size) != 3 or not all(isinstance(side, int) and side > 0 for side in size):
            raise UserError(
                f"config.input.volume = {size}: whole numbers of rows, columns and slices"
            )

    def view_shape(self, size: Shape, channels: int) -> tuple[int, ...]:
        """Slices, rows, columns and channels of a crop of `size`."""
        axes = VIEWS[self.view]
        return (*(size[axis] for axis in axes), channels)

    def training_view(
        self, volume: jax.Array, keypoints: None, key: jax.Array, size: Shape, channels: int
    ) -> tuple[jax.Array, None]:
        """One knee with random changes.

        Args:
            volume: uint8 [rows, columns, slices].
            keypoints: of films; a volume has none.
            key: of this knee.
            size: of the crop.
            channels: of the result, the grey being repeated.

        Returns:
            Intensities from 0 to 1, float32 of `view_shape`; and None.
        """
        place, draws = jax.random.split(key)
        room = jnp.array(volume.shape) - jnp.array(size) + 1
        voxels = self._crop(volume, jax.random.randint(place, (3,), 0, room), size)
        turned, turn, bent, bend = jax.random.uniform(draws, (4,))
        if self.rotation_probability and self.rotation:
            angle = np.deg2rad(self.rotation) * (2 * turn - 1)
            angle = jnp.where(turned < self.rotation_probability, angle, 0.0)
            voxels = rotate(voxels, angle, self.aspect)
        if self.gamma_probability and self.gamma != (1.0, 1.0):
            low, high = self.gamma
            changed = voxels ** (1 / (low + bend * (high - low)))
            voxels = jnp.where(bent < self.gamma_probability, changed, voxels)
        return self._arrange(voxels, channels), None

    def evaluation_view(
        self, volume: jax.Array, keypoints: None, size: Shape, channels: int
    ) -> tuple[jax.Array, None]:
        """One knee without random changes."""
        start = (jnp.array(volume.shape) - jnp.array(size)) // 2
        return self._arrange(self._crop(volume, start, size), channels), None

    def _crop(self, volume: jax.Array, start: jax.Array, size: Shape) -> jax.Array:
        """The crop from a corner on, its least intensity 0 and its greatest 1."""
        voxels = lax.dynamic_slice(volume, start, size).astype(jnp.float32)
        low, high = voxels.min(), voxels.max()
        # Whole numbers: a difference below 1 is none.
        return (voxels - low) / jnp.maximum(high - low, 1)

    def _arrange(self, voxels: jax.Array, channels: int) -> jax.Array:
        axes = VIEWS[self.view]
        return jnp.repeat(voxels.transpose(axes)[..., None], channels, axis=-1)


def rotate(volume: jax.Array, angle: jax.Array, aspect: float = 1.0) -> jax.Array:
    """Rotates all slices of a volume about their centre by one angle; bilinear, zero outside.

    Args:
        volume: float [rows, columns, slices].
        angle: radians, positive from columns towards rows (clockwise as seen).
        aspect: distance of the columns over that of the rows.
    """
    rows, columns, _ = volume.shape
    matrix = geometry.rotation(angle, rows, columns, aspect)
    slices = jnp.moveaxis(volume, -1, 0)
    turned = jax.vmap(geometry.resample, (0, None, None))(slices, matrix, (rows, columns))
    return jnp.moveaxis(turned, 0, -1)
