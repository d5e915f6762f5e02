"""Conversion of prepared volumes to network inputs, on the device: crop, rotation and gamma.

After Panfilov et al. 2022, section 3.2, and their code, which crops and rotates 320x320x128 voxels
and shrinks them afterwards; here volumes have already been shrunk (`ingest.volume`), so that a crop
moves in steps of two of OAI's voxels.
"""

import dataclasses
import types
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from knee_jax.config.fields import option
from knee_jax.data import geometry

Range = tuple[float, float]
"""Lowest and highest value of a uniform draw."""

Shape = tuple[int, int, int]
"""Rows, columns and slices of the knee's frame (`ingest.series`)."""

VIEWS = types.MappingProxyType({"sagittal": (2, 0, 1), "coronal": (1, 0, 2), "axial": (0, 1, 2)})
"""Axes of a volume that are the slices, rows and columns of the images of each view."""


@dataclasses.dataclass(frozen=True)
class VolumeCrop:
    """Crop, rotation and gamma of Panfilov et al. 2022; the defaults are theirs.

    A crop lies anywhere in the volume, all positions being equally likely, and its intensities are
    stretched to [0, 1]; it is rotated in the sagittal plane, whatever the view, by one angle for
    all slices (bilinear, black corners); and gamma is changed. The evaluation input is the central
    crop.
    """

    name: ClassVar[str] = "volume_crop"
    reads: ClassVar[str] = "volume"
    intensities: ClassVar[tuple[float, float] | None] = (0.257, 0.235)
    """Mean and standard deviation of OAI's crops, by which the published code normalises."""

    view: str = option("sagittal", "Plane of the images that the network reads.", choices=VIEWS)
    aspect: float = option(
        1.0,
        "Distance of the volume's columns over that of its rows. OAI's sets have 1 for sagittal "
        "images, 2 for coronal and 0.5 for axial ones.",
        low=0.1,
        high=10,
    )
    rotation: float = option(15.0, "Largest angle either way, degrees.", low=0, high=90)
    rotation_probability: float = option(0.5, "Probability of a rotation.", low=0, high=1)
    gamma: Range = option(
        (0.5, 2.0),
        "Lowest and highest gamma; the exponent of intensities in [0, 1] is its inverse.",
        above=0,
        increasing=True,
    )
    gamma_probability: float = option(0.5, "Probability of a change of gamma.", low=0, high=1)

    def input_shape(self, size: Shape, channels: int) -> tuple[int, ...]:
        """Return the number of slices, rows, columns and channels of a crop of `size`."""
        axes = VIEWS[self.view]
        return (*(size[axis] for axis in axes), channels)

    def training_input(
        self, volume: jax.Array, keypoints: None, key: jax.Array, size: Shape, channels: int
    ) -> tuple[jax.Array, None]:
        """Make the input of one knee with random changes.

        Args:
            volume: Volume, uint8 [rows, columns, slices].
            keypoints: Landmarks of films; None for volumes.
            key: Random key of this knee.
            size: Shape of the crop, voxels.
            channels: Channels of the result, in which the grey value is repeated.

        Returns:
            Intensities from 0 to 1, float32 with the shape of `input_shape`; and None.
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

    def evaluation_input(
        self, volume: jax.Array, keypoints: None, size: Shape, channels: int
    ) -> tuple[jax.Array, None]:
        """Make the input of one knee without random changes."""
        start = (jnp.array(volume.shape) - jnp.array(size)) // 2
        return self._arrange(self._crop(volume, start, size), channels), None

    def _crop(self, volume: jax.Array, start: jax.Array, size: Shape) -> jax.Array:
        """Crop the volume at a corner, and stretch the intensities of the crop to [0, 1]."""
        voxels = lax.dynamic_slice(volume, start, size).astype(jnp.float32)
        low, high = voxels.min(), voxels.max()
        # Intensities are integers: a difference below 1 means that there is none.
        return (voxels - low) / jnp.maximum(high - low, 1)

    def _arrange(self, voxels: jax.Array, channels: int) -> jax.Array:
        axes = VIEWS[self.view]
        return jnp.repeat(voxels.transpose(axes)[..., None], channels, axis=-1)


def rotate(volume: jax.Array, angle: jax.Array, aspect: float = 1.0) -> jax.Array:
    """Rotate all slices of a volume about their centre by one angle; bilinear, zero outside.

    Args:
        volume: Volume, float [rows, columns, slices].
        angle: Angle, radians, positive from columns towards rows (clockwise as seen).
        aspect: Distance of the columns divided by that of the rows.
    """
    rows, columns, _ = volume.shape
    matrix = geometry.rotation(angle, rows, columns, aspect)
    slices = jnp.moveaxis(volume, -1, 0)
    turned = jax.vmap(geometry.resample, (0, None, None))(slices, matrix, (rows, columns))
    return jnp.moveaxis(turned, 0, -1)
