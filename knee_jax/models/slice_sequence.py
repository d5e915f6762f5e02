"""Networks that read a knee's volume as a sequence: a ResNet for each slice, then aggregation.

Panfilov, Saarakkala, Nieminen & Tiulpin 2022, "Predicting knee osteoarthritis progression from
structural MRI using deep learning", sections 2.3 and 2.4: 2D + TRF, 2D + FC and 2D + Bi-LSTM, and
with several views 2Dsh + TRF and 2Dind + TRF; layers as in the authors' code.
"""

import types
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import ScopeParamShapeError
from jax import lax

from knee_jax import targets
from knee_jax.config.fields import option
from knee_jax.errors import UserError
from knee_jax.models import resnet, weights
from knee_jax.models.layers import Linear, check_volume, choose, observe

DROPOUT = types.MappingProxyType({"transformer": 0.1, "linear": 0.2, "lstm": 0.1})
"""Published dropout of each way to read slices together."""

VIEWS = types.MappingProxyType(
    {"sagittal": (0, 1, 2, 3, 4), "axial": (0, 2, 3, 1, 4), "coronal": (0, 3, 2, 1, 4)}
)
"""Axes of a sagittal volume [batch, slices, rows, columns, 1] in the order of the batch, slices,
rows, columns and channels of each view.
"""


def load(variables: dict, source: weights.Source) -> dict:
    """Fill variables like `weights.fill`; weights of a single encoder go to that of every view."""
    if set(variables["params"]["trunk"]) != set(VIEWS):
        return weights.fill(variables, source)
    found, _ = weights.from_source(source)
    spread: weights.Arrays = {}
    for path, array in found.items():
        if path[1] == "trunk" and path[2] not in VIEWS:
            spread |= {(path[0], "trunk", view, *path[2:]): array for view in VIEWS}
        else:
            spread[path] = array
    return weights.fill(variables, weights.to_own(spread))


def layer_norm(name: str) -> nn.LayerNorm:
    """Return layer normalisation over the last axis, in float32, as in PyTorch."""
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name=name)


class Attention(nn.Module):
    """Self-attention of all tokens, scaled by the square root of the *full* width.

    With the default `implementation` JAX computes it as plain products on every back end. cuDNN's
    kernel would have to be requested, requires bfloat16 and heads of at most 128 features (256 from
    Hopper on; the paper's have 256), and has little to save: there are 65 to 385 tokens.

    Attributes:
        heads: Number of heads that the width is divided into.
        dropout: Dropout rate on the result, while training.
        dtype: Compute type.
    """

    heads: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Map [batch, tokens, width] to the same shape, in the compute type.

        Also return the attention of the first token to each token, float32 [batch, heads, tokens],
        of sum 1.
        """
        batch, tokens, width = x.shape
        qkv = Linear(3 * width, bias=False, dtype=self.dtype, name="qkv")(x)
        query, key, value = jnp.moveaxis(qkv.reshape(batch, tokens, 3, self.heads, -1), 2, 0)
        scale = width**-0.5
        y = jax.nn.dot_product_attention(query, key, value, scale=scale)
        y = Linear(width, dtype=self.dtype, name="out")(y.reshape(batch, tokens, width))
        scores = jnp.einsum("bhf,bthf->bht", query[:, 0], key, preferred_element_type=jnp.float32)
        return nn.Dropout(self.dropout, deterministic=not train)(y), nn.softmax(scale * scores)


class Block(nn.Module):
    """Attention and two linear layers with GELU, each normalised before and added to its input.

    Attributes:
        heads: Number of heads of the attention.
        dropout: Dropout rate after each linear layer except the first of the attention, while
            training.
        dtype: Compute type of the linear layers and the attention; the residual stream is float32.
    """

    heads: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Map [batch, tokens, width] to the same shape, with the attention's second value."""

        def dropped(y):
            return nn.Dropout(self.dropout, deterministic=not train)(y)

        attention = Attention(self.heads, self.dropout, self.dtype, name="attention")
        y, weights_of_first = attention(layer_norm("norm1")(x), train)
        x = x + y
        y = Linear(x.shape[-1], dtype=self.dtype, name="hidden")(layer_norm("norm2")(x))
        y = dropped(nn.gelu(y, approximate=False))
        y = dropped(Linear(x.shape[-1], dtype=self.dtype, name="out")(y))
        return x + y, weights_of_first


class Transformer(nn.Module):
    """Transformer with a class token and learned positions, read at the class token.

    Attributes:
        width: Width of the tokens.
        heads: Number of heads of each block.
        blocks: Number of blocks.
        dropout: Dropout rate, while training.
        dtype: Compute type.
    """

    width: int
    heads: int
    blocks: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Map [batch, slices, features] to the class token, float32 [batch, width].

        Also return its attention to each slice in the last block, float32 [batch, heads, slices];
        the remainder of the sum of 1 is its attention to itself.
        """
        if self.width % self.heads:
            raise UserError(
                f"heads = {self.heads} do not divide embedding = {self.width}; change one of them"
            )
        batch, slices, _ = x.shape
        normal = nn.initializers.normal(1.0)
        x = Linear(self.width, dtype=self.dtype, name="embed")(x)
        first = self.param("class_token", normal, (1, 1, self.width))
        positions = self.param("positions", normal, (1, slices + 1, self.width))
        x = jnp.concatenate([jnp.broadcast_to(first, (batch, 1, self.width)), x], axis=1)
        x = nn.Dropout(self.dropout, deterministic=not train)(x + positions)
        for i in range(self.blocks):
            x, attention = Block(self.heads, self.dropout, self.dtype, name=f"block{i}")(x, train)
        return x[:, 0], attention[:, :, 1:]


class Concatenation(nn.Module):
    """Concatenation of all slices' features, slice by slice, and one hidden layer.

    Attributes:
        dropout: Dropout rate on the result, while training.
        width: Number of units of the hidden layer (ReLU).
    """

    dropout: float
    width: int = 512

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map [batch, slices, features] to [batch, width]."""
        x = nn.relu(Linear(self.width, name="hidden")(x.reshape(x.shape[0], -1)))
        return nn.Dropout(self.dropout, deterministic=not train)(x)


class Lstm(nn.Module):
    """Long short-term memory in one direction, with the gates i, f, g, o of PyTorch.

    As there, each gate has two biases, one with the input and one with the state.

    Attributes:
        width: Width of the state.
        reverse: Whether the last step comes first.
    """

    width: int
    reverse: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [batch, steps, features] to the state after each step, [batch, steps, width]."""

        def parameter(name, *shape):
            bound = self.width**-0.5
            return self.param(
                name, lambda key: jax.random.uniform(key, shape, jnp.float32, -bound, bound)
            )

        gates = jnp.matmul(
            x, parameter("input_kernel", x.shape[-1], 4 * self.width), precision="highest"
        )
        gates += parameter("input_bias", 4 * self.width) + parameter("state_bias", 4 * self.width)
        kernel = parameter("state_kernel", self.width, 4 * self.width)

        def step(state_and_cell, gates):
            state, cell = state_and_cell
            gates += jnp.matmul(state, kernel, precision="highest")
            i, f, g, o = jnp.split(gates, 4, axis=-1)
            cell = nn.sigmoid(f) * cell + nn.sigmoid(i) * jnp.tanh(g)
            state = nn.sigmoid(o) * jnp.tanh(cell)
            return (state, cell), state

        zeros = jnp.zeros_like(gates[:, 0, : self.width])
        gates = jnp.moveaxis(gates, 1, 0)
        _, states = lax.scan(step, (zeros, zeros), gates, reverse=self.reverse)
        return jnp.moveaxis(states, 0, 1)


class BiLstm(nn.Module):
    """Two layers of long short-term memory, each in both directions.

    Attributes:
        dropout: Dropout rate between the layers, while training.
        width: Width of the state of one direction.
    """

    dropout: float
    width: int = 256

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map [batch, slices, features] to [batch, 2 width].

        The result is the forward state after the last slice, and the backward state after the
        first.
        """
        for i in range(2):
            if i:
                x = nn.Dropout(self.dropout, deterministic=not train)(x)
            forwards = Lstm(self.width, reverse=False, name=f"forwards{i}")(x)
            backwards = Lstm(self.width, reverse=True, name=f"backwards{i}")(x)
            x = jnp.concatenate([forwards, backwards], axis=-1)
        return jnp.concatenate([forwards[:, -1], backwards[:, 0]], axis=-1)


class Head(nn.Module):
    """Logits from a class token: normalisation, a hidden layer of its width (GELU), linear layer.

    Attributes:
        classes: Number of outputs.
        dropout: Dropout rate before the last layer, while training.
    """

    classes: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map [batch, width] to [batch, classes]."""
        x = Linear(x.shape[-1], name="hidden")(layer_norm("norm")(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(nn.gelu(x, approximate=False))
        return Linear(self.classes, name="logits")(x)


class Encoders(nn.Module):
    """Separate ResNet for each view; its attributes are those of `resnet.Trunk`."""

    depth: int
    width: int
    dtype: Any
    remat: bool

    @nn.compact
    def __call__(self, slices: Mapping[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        """Map slices [n, height, width, 3] of each view to their last maps."""
        options = {"dtype": self.dtype, "remat": self.remat}
        return {
            view: resnet.Trunk(self.depth, self.width, **options, name=view)(
                x, train, f"evidence_{view}"
            )[-1]
            for view, x in slices.items()
        }


class Model(nn.Module):
    """A ResNet for each slice, and what reads the slices' averages together.

    With the defaults it is 2D + TRF. The paper's volumes are 64 sagittal slices of 160 x 160, or 80
    coronal or axial ones of 160 x 128; a network with `transformer` or `linear` fits one number of
    slices only.
    """

    depth: int = option(50, "Layers of the ResNet.", choices=(10, 18, 34, 50))
    width: int = option(64, "Channels of its stem; 64 is the published network.", low=1)
    targets: tuple[str, ...] = ("progression",)
    aggregation: str = option(
        "transformer",
        "How slices are read together: Transformer, 2D + FC or 2D + Bi-LSTM.",
        choices=("transformer", "linear", "lstm"),
    )
    views: str = option(
        "one",
        "Planes of the volume that are read: `one`, that of its slices; or all three of a sagittal "
        "volume through a `shared` ResNet (2Dsh + TRF) or `individual` ones (2Dind + TRF).",
        choices=("one", "shared", "individual"),
    )
    embedding: int = option(
        2048,
        "Width of the Transformer; the published one has as many as ResNet-50 features.",
        low=1,
    )
    heads: int = option(8, "Attention heads of each block of the Transformer.", low=1)
    blocks: int = option(4, "Blocks of the Transformer.", low=1)
    dropout: float | None = option(
        None,
        "Dropout rate while training; None: the published one of each aggregation.",
        low=0,
        below=1,
    )
    remat: bool = option(
        False,
        "Compute the inside of each residual block again for the gradient instead of keeping it: "
        "about a third more operations, and a fraction of the memory.",
    )
    dtype: Any = jnp.float32

    needs_keypoints = False

    @nn.compact
    def __call__(
        self, image: jax.Array, keypoints: jax.Array | None = None, train: bool = False
    ) -> dict[str, jax.Array]:
        """Return float32 logits [batch, classes] of every target.

        It exposes (`layers.observe`) the ResNet's last maps [batch * slices, h, w, channels], as
        `maps`, or as `maps_<view>` if there are several views; in the same way those of its second
        stage, as `evidence`; the `features` that the heads read;
        and, with a Transformer, the class token's `attention` to the slices in the last block,
        [batch, heads, slices].

        Args:
            image: Normalised grey values, [batch, slices, rows, columns, 1].
            keypoints: Ignored; all networks have the same call.
            train: Whether to use batch statistics, those of all slices together, and dropout (rng
                `dropout`).

        Raises:
            UserError: The input is not a volume, or does not have the number of slices that the
                parameters are for, or attributes do not go together.
        """
        check_volume(image)
        published = choose(DROPOUT, self.aggregation, "aggregation")
        dropout = published if self.dropout is None else self.dropout
        x = self._encode(image, train)
        try:
            x = self._aggregate(x, dropout, train)
        except ScopeParamShapeError as error:
            raise UserError(
                f"the network's parameters are for another number of slices than {x.shape[1]}: "
                "it reads volumes of the size that it was made for"
            ) from error
        x = observe(self, "features", x)
        logits = {}
        for name in self.targets:
            size, head = targets.get(name).num_outputs, f"head_{name}"
            if self.aggregation == "transformer":
                logits[name] = Head(size, dropout, name=head)(x, train)
            else:
                logits[name] = Linear(size, name=head)(x)
        return logits

    def _encode(self, image: jax.Array, train: bool) -> jax.Array:
        """Return the features of all slices of all views, float32 [batch, slices, channels]."""
        views = choose(
            {"one": ["sagittal"], "shared": [*VIEWS], "individual": [*VIEWS]}, self.views, "views"
        )
        # One grey channel for each colour of ImageNet, as in the published code.
        volume = jnp.repeat(image, 3, axis=-1)
        volumes = {view: volume.transpose(VIEWS[view]) for view in views}
        slices = {view: x.reshape(-1, *x.shape[2:]) for view, x in volumes.items()}
        options = {"dtype": self.dtype, "remat": self.remat, "name": "trunk"}
        if self.views == "individual":
            maps = Encoders(self.depth, self.width, **options)(slices, train)
        else:
            trunk = resnet.Trunk(self.depth, self.width, **options)
            maps = {
                view: trunk(x, train, "evidence" if self.views == "one" else f"evidence_{view}")[-1]
                for view, x in slices.items()
            }
        features = []
        for view, x in maps.items():
            x = observe(self, "maps" if self.views == "one" else f"maps_{view}", x)
            features.append(
                x.mean((1, 2), dtype=jnp.float32).reshape(image.shape[0], -1, x.shape[-1])
            )
        return jnp.concatenate(features, axis=1)

    def _aggregate(self, x: jax.Array, dropout: float, train: bool) -> jax.Array:
        """Return the input of the heads, float32 [batch, features]."""
        if self.aggregation == "linear":
            return Concatenation(dropout, name="aggregator")(x, train)
        if self.aggregation == "lstm":
            return BiLstm(dropout, name="aggregator")(x, train)
        transformer = Transformer(
            self.embedding, self.heads, self.blocks, dropout, self.dtype, name="aggregator"
        )
        x, attention = transformer(x, train)
        self.sow("intermediates", "attention", attention)
        return x
