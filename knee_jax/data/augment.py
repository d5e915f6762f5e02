"""Conversion of prepared knees to network inputs, on the device: pixels and keypoints, or voxels.

Augmentations by name, each with its deterministic view for evaluation:

    affine       shift, rotation and scale about the ROI's centre, in one resampling
    random_crop  Tiulpin & Saarakkala's: noise, rotation, and a crop of a slightly larger canvas
    volume_crop  Panfilov et al.'s, of MR volumes (`data.volumes`): crop, rotation, gamma

Random numbers are keyed by (seed, step, slot in the global batch): the result does not depend on
devices or hosts.
"""

import dataclasses
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from knee_jax.config import fields
from knee_jax.config.fields import option
from knee_jax.config.schema import Input
from knee_jax.data import geometry
from knee_jax.data.volumes import Range, VolumeCrop
from knee_jax.errors import UserError
from knee_jax.targets.kinds import Target

Size = Any
"""Size of a network's input: side of an image, int, pixels; or rows, columns and slices of a
volume, (int, int, int).
"""


@dataclasses.dataclass(frozen=True)
class Affine:
    """Ranges of the random changes; every default means no change.

    The evaluation input is the ROI resized to the network's input.
    """

    name: ClassVar[str] = "affine"
    reads: ClassVar[str] = "image"
    intensities: ClassVar[tuple[float, float] | None] = None

    translation: float = option(
        0.0, "Largest shift along each axis, as a fraction of the image's size.", low=0, high=1
    )
    rotation: float = option(0.0, "Largest angle either way, degrees.", low=0, high=180)
    scale: Range = option((1.0, 1.0), "Lowest and highest magnification.", above=0, increasing=True)
    gamma: Range = option(
        (1.0, 1.0),
        "Lowest and highest exponent of intensities in [0, 1].",
        above=0,
        increasing=True,
    )
    brightness: float = option(
        0.0, "Largest relative change of intensities, either way.", low=0, high=1
    )
    contrast: float = option(
        0.0,
        "Largest relative change of the differences from the image's mean, either way. With it "
        "intensities saturate at 0 and 1 after the change of brightness and again after that of "
        "contrast, as those of an 8-bit image do.",
        low=0,
        high=1,
    )
    noise: float = option(
        0.0, "Standard deviation of added Gaussian noise, in units of full scale.", low=0, high=1
    )
    erasing: float = option(
        0.0,
        "Probability that a rectangle, of up to a fifth of the image, becomes the image's mean.",
        low=0,
        high=1,
    )
    mirror: float = option(
        0.0,
        "Probability of a mirrored image, with the labels of lateral and medial exchanged.",
        low=0,
        high=1,
    )

    def training_input(
        self, image: jax.Array, keypoints: jax.Array, key: jax.Array, size: int, channels: int
    ) -> tuple[jax.Array, jax.Array]:
        """Make one knee's input with random changes; see `make_inputs` for inputs and results."""
        side = image.shape[0]
        shift, turn, zoom, bend, light, grain, tone = jax.random.split(key, 7)
        # Folded, so that the draws of all others stay what they are.
        hole = jax.random.fold_in(key, 7)
        matrix = geometry.affine(
            self.translation * size * jax.random.uniform(shift, (2,), minval=-1, maxval=1),
            np.deg2rad(self.rotation) * jax.random.uniform(turn, minval=-1, maxval=1),
            jax.random.uniform(zoom, minval=self.scale[0], maxval=self.scale[1]),
            side,
            size,
        )
        pixels = _resample_roi(image, matrix, size)
        if self.gamma != (1.0, 1.0):
            pixels = pixels ** jax.random.uniform(bend, minval=self.gamma[0], maxval=self.gamma[1])
        if self.brightness:
            change = jax.random.uniform(light, minval=-1, maxval=1) * self.brightness
            pixels = pixels * (1 + change)
        if self.contrast:
            change = jax.random.uniform(tone, minval=-1, maxval=1) * self.contrast
            pixels = change_contrast(jnp.clip(pixels, 0, 1), 1 + change)
        if self.erasing:
            pixels = erase(pixels, hole, self.erasing)
        pixels = jnp.repeat(pixels[..., None], channels, axis=-1)
        if self.noise:
            pixels = pixels + self.noise * jax.random.normal(grain, pixels.shape)
        return pixels, geometry.map_points(matrix, keypoints)

    def evaluation_input(
        self, image: jax.Array, keypoints: jax.Array, size: int, channels: int
    ) -> tuple[jax.Array, jax.Array]:
        """Make the input of one knee without random changes."""
        matrix = geometry.affine(jnp.zeros(2), jnp.float32(0), 1.0, image.shape[0], size)
        pixels = _resample_roi(image, matrix, size)
        pixels = jnp.repeat(pixels[..., None], channels, axis=-1)
        return pixels, geometry.map_points(matrix, keypoints)


@dataclasses.dataclass(frozen=True)
class RandomCrop:
    """Noise, rotation, crop and gamma of Tiulpin & Saarakkala 2020; the defaults are theirs.

    Their text omits the rotation and does not say how the noise is made; this follows what their
    code did with SOLT 0.1.7: the ROI is resized to a canvas, noise is blended in, the canvas grows
    to hold its rotated content (black corners), a crop is taken anywhere in it, and gamma is
    applied through a table of 256 entries. The evaluation input is the central crop of the canvas.

    Intensities are integers from 0 to 255 after each of these steps, as in their code. Sampling
    positions are exact, where OpenCV rounds them to 1/32 px; and the rotation is about the centre
    of the canvas, where that of SOLT is up to a pixel off it.
    """

    name: ClassVar[str] = "random_crop"
    reads: ClassVar[str] = "image"
    intensities: ClassVar[tuple[float, float] | None] = None

    canvas: int = option(
        310,
        "Side of the canvas, pixels; the crop is of the size of the network's input, 300 in the "
        "paper. Another size needs another canvas, or the crop would show less of the knee.",
        low=1,
    )
    noise_probability: float = option(0.5, "Probability of blending noise in.", low=0, high=1)
    noise_gain: float = option(
        0.3,
        "Highest share g in (1 - g) image + g noise, the lowest being 0. The noise is a standard "
        "normal image stretched to 0..255, so that the image also greys.",
        low=0,
        high=1,
    )
    rotation: float = option(10.0, "Largest angle either way, degrees.", low=0, high=90)
    gamma_probability: float = option(0.5, "Probability of a change of gamma.", low=0, high=1)
    gamma: Range = option(
        (0.5, 1.5),
        "Lowest and highest gamma; the exponent of intensities in [0, 1] is its inverse.",
        above=0,
        increasing=True,
    )

    def check_size(self, size: int) -> None:
        """Raise UserError for a canvas from which no crop of `size` pixels can be taken.

        A canvas of more than twice its crop was meant for another input size.
        """
        if not isinstance(self.canvas, int) or not size <= self.canvas <= 2 * size:
            raise UserError(
                f"config.augmentation.canvas = {self.canvas!r}: a whole number from {size} to "
                f"{2 * size}, once to twice config.input.size"
            )

    def training_input(
        self, image: jax.Array, keypoints: jax.Array, key: jax.Array, size: int, channels: int
    ) -> tuple[jax.Array, jax.Array]:
        """Make one knee's input with random changes; see `make_inputs` for inputs and results."""
        pixels, keypoints = self._on_canvas(image, keypoints)
        grain, draws = jax.random.split(key)
        noisy, gain, turn, x, y, bent, gamma = jax.random.uniform(draws, (7,))

        # The noise lies on the canvas and is rotated with it, so it cannot wait until all
        # resampling is done: the ROI is resampled twice, as in the authors' code.
        pixels = jnp.repeat(pixels[None], channels, axis=0)
        if self.noise_probability:
            normal = jax.random.normal(grain, pixels.shape)
            blended = blend_noise(pixels, normal, self.noise_gain * gain)
            pixels = jnp.where(noisy < self.noise_probability, blended, pixels)

        angle = np.deg2rad(self.rotation) * _between((-1, 1), turn)
        room = geometry.rotated_side(angle, self.canvas) - size
        offset = jnp.floor(jnp.stack([x, y]) * room)
        matrix = geometry.rotated_crop(angle, offset, self.canvas, size)
        pixels = jax.vmap(geometry.resample, (0, None, None))(pixels, matrix, size)
        pixels = jnp.round(pixels)

        if self.gamma_probability and self.gamma != (1.0, 1.0):
            changed = change_gamma(pixels, _between(self.gamma, gamma))
            pixels = jnp.where(bent < self.gamma_probability, changed, pixels)
        return jnp.moveaxis(pixels, 0, -1) / 255, geometry.map_points(matrix, keypoints)

    def evaluation_input(
        self, image: jax.Array, keypoints: jax.Array, size: int, channels: int
    ) -> tuple[jax.Array, jax.Array]:
        """Make the input of one knee without random changes."""
        pixels, keypoints = self._on_canvas(image, keypoints)
        start = self.canvas // 2 - size // 2
        pixels = pixels[start : start + size, start : start + size] / 255
        return jnp.repeat(pixels[..., None], channels, axis=-1), keypoints - start

    def _on_canvas(self, image: jax.Array, keypoints: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the ROI and its keypoints at the canvas' resolution, integers from 0 to 255."""
        pixels = jnp.round(geometry.resize(image.astype(jnp.float32), self.canvas))
        return pixels, keypoints * (self.canvas / image.shape[0])


Augmentation = Affine | RandomCrop | VolumeCrop
"""Kinds of augmentation. `reads` names the array of a batch; `intensities` are the mean and
standard deviation to normalise by, None where they are those of the training knees.
"""

_BY_NAME: Mapping[str, type[Augmentation]] = {
    kind.name: kind for kind in (Affine, RandomCrop, VolumeCrop)
}


def all_kinds() -> Mapping[str, type[Augmentation]]:
    """Return every augmentation by its name."""
    return _BY_NAME


def find(name: str) -> type[Augmentation]:
    """Return the augmentation of that name; its `option` fields are what a config may set.

    Raises:
        UserError: There is no such augmentation.
    """
    if name not in _BY_NAME:
        raise UserError(f"config.augmentation.name = {name!r}: {fields.nearest(name, _BY_NAME)}")
    return _BY_NAME[name]


def size_of(inputs: Input) -> Size:
    """Return the size of a network's input: the side of films, or the shape of volumes."""
    return inputs.volume or inputs.size


def check_input(augmentation: Augmentation, inputs: Input) -> None:
    """Raise UserError if an augmentation cannot make inputs of the requested size."""
    if bool(inputs.volume) != (augmentation.reads == "volume"):
        wanted = "a volume" if inputs.volume else "no volume, but films"
        raise UserError(
            f"config.augmentation.name = '{augmentation.name}' reads {augmentation.reads}s, and "
            f"config.input has {wanted}: change one of them"
        )
    if inputs.volume and inputs.channels != 1:
        raise UserError("config.input.channels = 3: volumes have 1")
    if isinstance(augmentation, RandomCrop):
        augmentation.check_size(inputs.size)


def check_fit(
    augmentation: Augmentation,
    size: Size,
    pixels: str,
    shape: tuple[int, ...],
    spacing_mm: tuple[float, ...],
) -> None:
    """Raise UserError if no input of `size` can be made from the knees of a prepared set.

    Args:
        augmentation: Augmentation that makes the inputs.
        size: Size of the network's input: side of an image, pixels, or shape of a volume, voxels.
        pixels: Array of pixels that the set has, 'image' or 'volume'.
        shape: Shape of a knee of the set.
        spacing_mm: Spacing of a volume's rows, columns and slices, mm; ignored for films.
    """
    if augmentation.reads != pixels:
        raise UserError(
            f"config.augmentation.name = '{augmentation.name}' makes inputs of "
            f"{augmentation.reads}s, and the set has {pixels}s: choose another set or augmentation"
        )
    if not isinstance(size, int) and not all(map(operator.le, size, shape)):
        raise UserError(
            f"config.input.volume = {size}: no crop of {shape}, the rows, columns and slices of "
            "the set; choose no more than these"
        )
    if isinstance(augmentation, VolumeCrop):
        rows, columns, _ = spacing_mm
        if not math.isclose(augmentation.aspect, columns / rows, rel_tol=0.02):
            raise UserError(
                f"config.augmentation.aspect = {augmentation.aspect}: the set's rows are "
                f"{rows:g} mm apart and its columns {columns:g} mm; set it to {columns / rows:.3g}"
            )


def input_shape(augmentation: Augmentation, size: Size, channels: int) -> tuple[int, ...]:
    """Return the shape of one input, channels last; for volumes slices, rows and columns first."""
    if isinstance(augmentation, VolumeCrop):
        return augmentation.input_shape(size, channels)
    return (size, size, channels)


def make_inputs(
    batch: Mapping[str, jax.Array],
    key: jax.Array,
    size: Size,
    statistics: tuple[Any, Any],
    augmentation: Augmentation,
    *,
    train: bool,
    channels: int,
) -> tuple[jax.Array, jax.Array | None]:
    """Make the inputs of a network from a batch.

    Args:
        batch: `image` uint8 [batch, side, side] and `keypoints` [batch, 74, 2] in pixels of it; or
            `volume` uint8 [batch, rows, columns, slices].
        key: Random key of the step, the same on every device; unused in evaluation.
        size: Size of the network's input: side of an image, pixels, or shape of a volume, voxels.
        statistics: Mean and standard deviation of the training set's intensities in [0, 1], float
            scalars.
        augmentation: Augmentation that makes the inputs.
        train: Whether to apply random changes; otherwise the deterministic view for evaluation is
            made.
        channels: Number of channels: 1, or 3 for a network that reads colours (the grey value three
            times, with independent noise in each).

    Returns:
        Normalised images float32 [batch, size, size, channels] and keypoints float32
        [batch, 74, 2] in pixels of those images; NaN stay NaN. Or volumes float32
        [batch, slices, rows, columns, channels], and None.
    """
    pixels = batch[augmentation.reads]
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(pixels.shape[0]))

    def one(pixels: jax.Array, keypoints: Any, key: jax.Array) -> tuple[jax.Array, Any]:
        if train:
            return augmentation.training_input(pixels, keypoints, key, size, channels)
        return augmentation.evaluation_input(pixels, keypoints, size, channels)

    images, keypoints = jax.vmap(one)(pixels, batch.get("keypoints"), keys)
    mirrored = are_mirrored(augmentation, key, pixels.shape[0]) if train else None
    if mirrored is not None:
        images = jnp.where(mirrored[:, None, None, None], mirror(images), images)
    mean, deviation = statistics
    return (images - mean) / deviation, keypoints


def mirror(images: jax.Array) -> jax.Array:
    """Mirror images [batch, height, width, channels], lateral for medial."""
    return images[:, :, ::-1]


def standardise(images: jax.Array) -> jax.Array:
    """Standardise each image to mean 0 and standard deviation 1; a constant image becomes 0.

    Films of different exposure then look alike, whatever their gain and offset.

    Args:
        images: Images, float32 [batch, height, width, channels].
    """
    axes = (1, 2, 3)
    centred = images - images.mean(axes, keepdims=True)
    deviation = jnp.sqrt(jnp.square(centred).mean(axes, keepdims=True))
    return centred / jnp.where(deviation > 1e-6, deviation, 1.0)


def blend_noise(image: jax.Array, normal: jax.Array, gain: jax.Array) -> jax.Array:
    """Blend noise into an image, (1 - gain) image + gain noise, as integers from 0 to 255.

    Args:
        image: Image of any shape, integers from 0 to 255.
        normal: Standard normal numbers of that shape, stretched jointly to 0..255 to give the
            noise.
        gain: Share of the noise, 0 to 1.
    """
    low, high = normal.min(), normal.max()
    noise = jnp.floor(255 * ((normal - low) / (high - low)))
    return jnp.round((1 - gain) * image + gain * noise)


def change_gamma(image: jax.Array, gamma: jax.Array) -> jax.Array:
    """Raise integers from 0 to 255 to the power 1/gamma on the scale [0, 1], rounding down."""
    return jnp.floor(255 * (image / 255) ** (1 / gamma))


def change_contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Multiply the differences of intensities in [0, 1] from their mean; clip to [0, 1]."""
    mean = image.mean()
    return jnp.clip(mean + factor * (image - mean), 0, 1)


def erase(image: jax.Array, key: jax.Array, probability: float) -> jax.Array:
    """Fill a rectangle with the image's mean (Zhong et al. 2020, "Random erasing").

    Its share of the image is drawn from 2 to 20 %, its ratio of sides from 0.3 to 3.3.

    Args:
        image: Image, float [height, width].
        key: Random key.
        probability: Probability of erasing anything.
    """
    height, width = image.shape
    happens, share, ratio, row, column = jax.random.uniform(key, (5,))
    area = _between((0.02, 0.2), share)
    shape = jnp.exp(_between((np.log(0.3), np.log(3.3)), ratio) / 2)

    def inside(size: int, side: jax.Array, place: jax.Array) -> jax.Array:
        start = place * jnp.maximum(1 - side, 0) * size
        pixels = jnp.arange(size) + 0.5
        return (pixels >= start) & (pixels <= start + side * size)

    side = jnp.sqrt(area)
    erased = inside(height, side * shape, row)[:, None] & inside(width, side / shape, column)
    return jnp.where((happens < probability) & erased, image.mean(), image)


def mirror_labels(
    labels: Mapping[str, jax.Array], targets: Sequence[Target], mirrored: jax.Array
) -> dict[str, jax.Array]:
    """Return the labels of a batch, of mirrored knees those of the opposite compartment.

    Args:
        labels: Labels [batch] of each target.
        targets: Targets, of a pair both (`check_mirror`).
        mirrored: Whether each knee is mirrored, bool [batch].
    """
    opposites = {target.name: target.opposite or target.name for target in targets}
    return {
        name: jnp.where(mirrored, labels[opposites.get(name, name)], label)
        for name, label in labels.items()
    }


def check_mirror(augmentation: "Augmentation", targets: Sequence[Target]) -> None:
    """Raise UserError if knees are mirrored, and a target's opposite is not predicted."""
    names = {target.name for target in targets}
    for target in targets:
        if mirror_probability(augmentation) and not {target.opposite or target.name} <= names:
            raise UserError(
                f"config.augmentation.mirror = {mirror_probability(augmentation)}: {target.name} "
                f"is {target.opposite} in a mirrored knee, which is not among config.targets: set "
                "0, or name both"
            )


def mirror_probability(augmentation: "Augmentation") -> float:
    """Return the probability with which training images are mirrored."""
    return getattr(augmentation, "mirror", 0.0)


def are_mirrored(augmentation: "Augmentation", key: jax.Array, number: int) -> jax.Array | None:
    """Return which knees of a batch `make_inputs` mirrors in training, bool [number]; None: none.

    Args:
        augmentation: Augmentation that makes the inputs.
        key: Random key of the step, as `make_inputs` gets it.
        number: Number of knees in the batch.
    """
    probability = mirror_probability(augmentation)
    if not probability:
        return None
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(number))
    return jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, 8), probability))(keys)


def _between(limits: Range, share: jax.Array) -> jax.Array:
    return limits[0] + share * (limits[1] - limits[0])


def _resample_roi(image: jax.Array, matrix: jax.Array, size: int) -> jax.Array:
    """Resample a uint8 image once, after block means; return intensities in [0, 1]."""
    factor = geometry.shrink_factor(image.shape[0], size)
    pixels = geometry.mean_pool(image.astype(jnp.float32) / 255, factor)
    return geometry.resample(pixels, matrix / factor, size)
