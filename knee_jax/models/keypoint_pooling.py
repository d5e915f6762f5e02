"""Keypoint pooling network (KPN): seven grades, read where the bone surfaces are.

Zheng et al. 2021, "Coherence learning using keypoint-based pooling network for accurately assessing
radiographic knee osteoarthritis", section 2.1: the map of the third residual stage is sampled at
bone landmarks, and each head reads those of its compartment.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from knee_jax import targets
from knee_jax.config.fields import option
from knee_jax.errors import UserError
from knee_jax.landmarks import PRESETS, compartment
from knee_jax.models import resnet
from knee_jax.models.layers import Linear, choose, observe
from knee_jax.targets.grades import GRADES

STRIDE = 16
"""Input pixels per pixel of the pooled map (third stage)."""
COMPARTMENTS = ("fl", "fm", "tl", "tm")

load = resnet.load


def bilinear_pool(features: jax.Array, points: jax.Array) -> jax.Array:
    """Sample a feature map at points between its pixels; outside, at the nearest border.

    It is written as a product with the hat-function weights of all pixels: for some tens of points
    it costs next to nothing, is deterministic on every device, and its gradient is a product,
    whereas that of gathering is a scatter.

    Args:
        features: Feature map, [batch, height, width, channels].
        points: Points, [batch, points, 2], (x, y) in pixels of the map; pixel i is centred at i +
            0.5.

    Returns:
        Sampled features, float32 [batch, points, channels].
    """

    def weights(coordinate: jax.Array, size: int) -> jax.Array:
        index = jnp.clip(coordinate - 0.5, 0, size - 1)
        return nn.relu(1 - jnp.abs(index[..., None] - jnp.arange(size)))

    height, width = features.shape[1:3]
    points = points.astype(jnp.float32)
    return jnp.einsum(
        "bnh,bnw,bhwc->bnc",
        weights(points[..., 1], height),
        weights(points[..., 0], width),
        features.astype(jnp.float32),
        precision="highest",
    )


def pool_known(features: jax.Array, points: jax.Array) -> jax.Array:
    """Apply `bilinear_pool`, with the map's global average in place of points that are NaN.

    A knee without landmarks is thus read as a network without keypoint pooling would read it; its
    gradient is that of the average, and finite.
    """
    known = jnp.isfinite(points).all(-1, keepdims=True)
    pooled = bilinear_pool(features, jnp.where(known, points, 0.0))
    average = features.mean((1, 2), dtype=jnp.float32)
    return jnp.where(known, pooled, average[:, None])


class Attention(nn.Module):
    """Mean of points' features, weighted by a score of each point (Bahdanau et al. 2015)."""

    @nn.compact
    def __call__(self, points: jax.Array) -> jax.Array:
        """Map [batch, points, features] to [batch, features]."""
        weights = nn.softmax(Linear(1, name="score")(points), axis=1)
        return (weights * points).sum(1)


class Head(nn.Module):
    """Logits of one target: linear, or with one hidden layer.

    Attributes:
        classes: Number of outputs.
        hidden: Number of units of the hidden layer (ReLU); 0 for none.
        dropout: Dropout rate before the last layer.
    """

    classes: int
    hidden: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map [batch, features] to [batch, classes]."""
        if self.hidden:
            x = nn.relu(Linear(self.hidden, name="hidden")(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Linear(self.classes, name="logits")(x)


class Model(nn.Module):
    """ResNet to its third stage, bilinear pooling at landmarks, compartment-wise heads.

    KL and joint space narrowing read all landmarks, an osteophyte grade those of its compartment.
    """

    depth: int = option(50, "Layers of the ResNet.", choices=resnet.BLOCKS)
    width: int = option(64, "Channels of its stem; 64 is the published network.", low=1)
    targets: tuple[str, ...] = GRADES
    landmarks: str = option("joint", "Landmarks to pool at.", choices=PRESETS)
    aggregation: str = option(
        "concat",
        "How landmarks are read together: `concat` (the paper's f_a), or their mean, maximum or "
        "attention within each compartment; then KL and joint space read the four in a row.",
        choices=("concat", "mean", "max", "attention"),
    )
    kpn: bool = option(
        True,
        "Pool at landmarks; False reads every target from the global average of the fourth stage "
        "(the paper's baseline, Table 3).",
    )
    hidden: int = option(0, "Units of a hidden layer in each head; 0: none.", low=0)
    dropout: float = option(0.0, "Dropout rate before each head's last layer.", low=0, below=1)
    regression: bool = option(
        False,
        "Add to each grade's logits a value that is regressed onto it (supplementary Table 2, "
        "after Antony et al. 2017).",
    )
    dtype: Any = jnp.float32

    @property
    def needs_keypoints(self) -> bool:
        """Need of landmarks; without them the features of a knee are averaged (`pool_known`)."""
        return self.kpn

    @nn.compact
    def __call__(
        self, image: jax.Array, keypoints: jax.Array | None = None, train: bool = False
    ) -> dict[str, jax.Array]:
        """Return float32 logits [batch, classes] of every target.

        With `regression` also return `<target>_value` [batch] of every target, in units of grades.

        Args:
            image: Normalised grey values, [batch, height, width, 1 or 3].
            keypoints: Landmarks, [batch, 74, 2], (x, y) in pixels of `image`, pixel i centred at i
                + 0.5; those outside the image are read at its border, and for one that is NaN the
                average of the whole map is read. Ignored without `kpn`.
            train: Whether to use batch statistics and dropout (rng `dropout`).
        """
        trunk = resnet.Trunk(
            self.depth, self.width, stages=3 if self.kpn else 4, dtype=self.dtype, name="trunk"
        )
        # Earlier maps would show heat about the landmarks where no head reads.
        evidence = "" if self.kpn else "evidence"
        x = observe(self, "maps", trunk(image, train, evidence)[-1])
        if self.kpn:
            if keypoints is None:
                raise UserError("keypoint_pooling needs keypoints; set kpn=False to go without")
            features = self._pool(x, keypoints)
        else:
            features = dict.fromkeys(("all", *COMPARTMENTS), x.mean((1, 2), dtype=jnp.float32))
        outputs = {}
        for name in self.targets:
            target = targets.get(name)
            of_region = features[target.region]
            head = Head(target.num_outputs, self.hidden, self.dropout, name=f"head_{name}")
            outputs[name] = head(of_region, train)
            if self.regression:
                head = Head(1, self.hidden, self.dropout, name=f"value_{name}")
                outputs[f"{name}_value"] = head(of_region, train)[:, 0]
        return outputs

    def _pool(self, x: jax.Array, keypoints: jax.Array) -> dict[str, jax.Array]:
        """Return the features [batch, ...] of each compartment, and those of `all`."""
        indices = choose(PRESETS, self.landmarks, "landmark preset")
        aggregate = choose(
            {
                "concat": lambda points, _: points.reshape(points.shape[0], -1),
                "mean": lambda points, _: points.mean(1),
                "max": lambda points, _: points.max(1),
                "attention": lambda points, name: Attention(name=f"attention_{name}")(points),
            },
            self.aggregation,
            "aggregation",
        )
        points = pool_known(x, keypoints[:, jnp.array(indices)] / STRIDE)
        features = {}
        for name in COMPARTMENTS:
            members = [i for i, index in enumerate(indices) if name in compartment(index)]
            features[name] = aggregate(points[:, jnp.array(members)], name)
        if self.aggregation == "concat":
            return {"all": aggregate(points, "all"), **features}
        return {"all": jnp.concatenate(list(features.values()), axis=-1), **features}
