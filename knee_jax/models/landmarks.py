"""Heatmaps of the landmarks, read by their means (soft-argmax), and the knee that is shown.

A residual trunk and a feature pyramid (Lin et al. 2017) end in one heatmap per landmark, at a
quarter of the input's resolution. The mean of a heatmap is the landmark, its spread the error to be
expected (Sun et al. 2018, "Integral human pose regression"; Kumar et al. 2020, "LUVLi", learn the
spread by likelihood as well). KNEEL (Tiulpin et al. 2019) reads hourglass heatmaps by soft-argmax.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from knee_jax import targets
from knee_jax.config.fields import option
from knee_jax.errors import UserError
from knee_jax.models import weights
from knee_jax.models.layers import BatchNorm, Conv, Linear, global_average, observe, torch_bias
from knee_jax.models.resnet import Block
from knee_jax.targets.places import Places


def load(variables: dict[str, Any], source: str) -> dict[str, Any]:
    """Fill the variables with those of a localiser, `model.safetensors` of its exported file.

    Raises:
        UserError: The file is missing, damaged, or of another network.
    """
    found = weights.read(source)
    wanted = {"/".join(path): leaf for path, leaf in flatten_dict(variables).items()}
    shapes = {name: tuple(leaf.shape) for name, leaf in wanted.items()}
    if shapes != {name: tuple(array.shape) for name, array in found.items()}:
        raise UserError(
            f"{source}: its variables are not those of this localiser: take model.safetensors of "
            "one with the same config.model, exported by `knee-jax export`"
        )
    filled = {tuple(name.split("/")): jnp.asarray(found[name], jnp.float32) for name in wanted}
    return dict(unflatten_dict(filled))


class Model(nn.Module):
    """Residual trunk, feature pyramid, heatmaps; and linear heads of class targets."""

    width: int = option(16, "Channels of the stem; later stages have 2, 4, 6 and 8 times.", low=1)
    pyramid: int = option(48, "Channels of the feature pyramid.", low=1)
    targets: tuple[str, ...] = ("knee_shown", "landmarks")
    dropout: float = option(0.0, "Dropout rate before a head, while training.", low=0, below=1)
    dtype: Any = jnp.float32

    needs_keypoints = False

    @nn.compact
    def __call__(
        self, image: jax.Array, keypoints: jax.Array | None = None, train: bool = False
    ) -> dict[str, jax.Array]:
        """Return float32 logits [batch, outputs] of every target.

        Those of places are x, y and the error to be expected of one after the other, as shares of
        the input's width and height.

        Args:
            image: Normalised grey values, [batch, height, width, channels]; sides of whole 32s.
            keypoints: Ignored; all networks have the same call.
            train: Whether to use batch statistics and dropout (rng `dropout`).
        """
        maps = _Trunk(self.width, self.dtype, name="trunk")(image, train)
        maps = (*maps[:-1], observe(self, "maps", maps[-1]))
        pooled = global_average(maps[-1])
        x = None
        for level, of_stage in reversed(list(enumerate(maps, 1))):
            beside = Conv(self.pyramid, 1, dtype=self.dtype, name=f"beside{level}")(of_stage)
            beside = beside if x is None else beside + _doubled(x)
            x = Conv(self.pyramid, 3, dtype=self.dtype, name=f"smooth{level}")(beside)
            x = nn.relu(BatchNorm(name=f"bn{level}")(x, train))
        assert x is not None
        outputs = {}
        for name in self.targets:
            target = targets.get(name)
            if isinstance(target, Places):
                heat = Conv(
                    target.number, 1, dtype=self.dtype, initial_bias=torch_bias,
                    name=f"head_{name}",
                )(x)  # fmt: skip
                places = read_heatmaps(heat, self.param(f"error_{name}", _plain, (2,)))
                outputs[name] = places.reshape(places.shape[0], target.num_outputs)
            else:
                kept = nn.Dropout(self.dropout, deterministic=not train)(pooled)
                outputs[name] = Linear(target.num_outputs, name=f"head_{name}")(kept)
        return outputs


class _Trunk(nn.Module):
    """Stem and four residual stages, each at half the size of the one before."""

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, image: jax.Array, train: bool) -> tuple[jax.Array, ...]:
        """Return the maps, from a quarter of the image's size to a 32nd."""
        x = Conv(self.width, 3, 2, self.dtype, name="conv1")(image)
        x = nn.relu(BatchNorm(name="bn1")(x, train))
        maps = []
        for stage, factor in enumerate((2, 4, 6, 8), 1):
            for i in range(2):
                name = f"layer{stage}_{i}"
                x = Block(factor * self.width, 2 - i, False, self.dtype, name=name)(x, train)
            if stage == 2:
                x = observe(self, "evidence", x)
            maps.append(x)
        return tuple(maps)


def _doubled(x: jax.Array) -> jax.Array:
    """Repeat every pixel of [batch, height, width, channels] twice each way."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def _plain(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return an error that is the heatmap's own spread, and a thousandth of the side at least."""
    return jnp.array([0.0, -7.0], jnp.float32)


def read_heatmaps(heat: jax.Array, scale: jax.Array) -> jax.Array:
    """Read the mean and spread of each heatmap, float32 [batch, maps, 3].

    Args:
        heat: Logarithms of heat, but for a constant, [batch, height, width, maps].
        scale: Logarithms of the factor of the spread, and of what is added to it, [2].
    """
    batch, height, width, maps = heat.shape
    weights = jax.nn.softmax(heat.astype(jnp.float32).reshape(batch, -1, maps), axis=1)
    weights = weights.reshape(batch, height, width, maps)
    columns, rows = weights.sum(1), weights.sum(2)
    x, y = ((jnp.arange(size) + 0.5) / size for size in (width, height))
    mean_x, mean_y = (jnp.einsum("bnm,n->bm", *pair) for pair in ((columns, x), (rows, y)))
    across = (columns * jnp.square(x[:, None] - mean_x[:, None])).sum(1)
    along = (rows * jnp.square(y[:, None] - mean_y[:, None])).sum(1)
    spread = jnp.sqrt((across + along) / 2 + 1e-12)
    error = jnp.exp(scale[0]) * spread + jnp.exp(scale[1])
    return jnp.stack([mean_x, mean_y, error], axis=-1)
