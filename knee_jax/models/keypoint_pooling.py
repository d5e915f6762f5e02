"""Keypoint pooling network (KPN): seven grades read where the bone surfaces are.

Zheng et al. 2021, "Coherence learning using keypoint-based pooling network for accurately
assessing radiographic knee osteoarthritis", section 2.1: the map of the third residual stage is
sampled at bone landmarks, and each head reads its compartment's.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from knee_jax.errors import UserError
from knee_jax.grades import GRADES, NUM_CLASSES
from knee_jax.landmarks import PRESETS, compartment
from knee_jax.models import resnet
from knee_jax.models.layers import Linear, choose, observe

STRIDE = 16
"""Input pixels to one pixel of the pooled map (third stage)."""
COMPARTMENTS = ("fl", "fm", "tl", "tm")

load = resnet.load


def bilinear_pool(features: jax.Array, points: jax.Array) -> jax.Array:
    """Samples a feature map at points between its pixels; outside, at the nearest border.

    Written as a product with the hat-function weights of all pixels: for some tens of points it
    costs next to nothing, is deterministic on every device and has a product as its gradient,
    where gathering has scatters.

    Args:
        features: [batch, height, width, channels].
        points: [batch, points, 2], (x, y) in pixels of the map; pixel i is centred at i + 0.5.

    Returns:
        [batch, points, channels], float32.
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
    """`bilinear_pool`, with the map's global average in place of a point that is NaN.

    A knee without landmarks is so read as a network without keypoint pooling would read it; its
    gradient is that of the average, and finite.
    """
    known = jnp.isfinite(points).all(-1, keepdims=True)
    pooled = bilinear_pool(features, jnp.where(known, points, 0.0))
    average = features.mean((1, 2), dtype=jnp.float32)
    return jnp.where(known, pooled, average[:, None])


class Attention(nn.Module):
    """Weighted mean of points' features, each weighed by what it shows (Bahdanau et al. 2015)."""

    @nn.compact
    def __call__(self, points: jax.Array) -> jax.Array:
        """Maps [batch, points, features] to [batch, features]."""
        weights = nn.softmax(Linear(1, name="score")(points), axis=1)
        return (weights * points).sum(1)


class Head(nn.Module):
    """Logits of one grade: linear, or with one hidden layer.

    Attributes:
        classes: number of outputs.
        hidden: units of the hidden layer (ReLU); 0 for none.
        dropout: rate before the last layer.
    """

    classes: int
    hidden: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [batch, features] to [batch, classes]."""
        if self.hidden:
            x = nn.relu(Linear(self.hidden, name="hidden")(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Linear(self.classes, name="logits")(x)


class Model(nn.Module):
    """ResNet to its third stage, bilinear pooling at landmarks, compartment-wise heads.

    KL and joint space narrowing read all landmarks, an osteophyte grade those of its compartment.

    Attributes:
        depth: of the ResNet, one of `resnet.BLOCKS`.
        width: channels of its stem; 64 is the published network.
        grades: the grades to read, from `knee_jax.grades.TARGETS`.
        landmarks: which landmarks to pool at, a name of `knee_jax.landmarks.PRESETS`.
        aggregation: `concat` of the landmarks' features (the paper's f_a), or their `mean`,
            `max` or `attention` within each compartment; then KL and joint space read the four
            in a row.
        kpn: False reads every grade from the global average of the fourth stage (the paper's
            baseline, Table 3).
        hidden: units of a hidden layer in each head; 0 for none.
        dropout: rate before each head's last layer.
        regression: adds to each grade's logits a value that is regressed onto it (supplementary
            Table 2, after Antony et al. 2017).
        dtype: compute type of the trunk.
    """

    depth: int = 50
    width: int = 64
    grades: tuple[str, ...] = GRADES
    landmarks: str = "joint"
    aggregation: str = "concat"
    kpn: bool = True
    hidden: int = 0
    dropout: float = 0.0
    regression: bool = False
    dtype: Any = jnp.float32

    @property
    def needs_keypoints(self) -> bool:
        """Whether the network reads landmarks; without, a knee is averaged over (`pool_known`)."""
        return self.kpn

    @nn.compact
    def __call__(
        self, image: jax.Array, keypoints: jax.Array | None = None, train: bool = False
    ) -> dict[str, jax.Array]:
        """Returns float32 logits [batch, classes] of every grade.

        With `regression` also `<grade>_value` [batch] of every grade, in units of grades.

        Args:
            image: [batch, height, width, 1 or 3], normalised grey values.
            keypoints: [batch, 74, 2], (x, y) in pixels of `image`, pixel i centred at i + 0.5;
                those outside the image are read at its border, and in place of one that is NaN
                the average of the whole map. Ignored without `kpn`.
            train: batch statistics and dropout (rng `dropout`).
        """
        trunk = resnet.Trunk(
            self.depth, self.width, stages=3 if self.kpn else 4, dtype=self.dtype, name="trunk"
        )
        x = observe(self, "maps", trunk(image, train)[-1])
        if self.kpn:
            if keypoints is None:
                raise UserError("keypoint_pooling needs keypoints; set kpn=False to go without")
            features = self._pool(x, keypoints)
        else:
            features = dict.fromkeys(("all", *COMPARTMENTS), x.mean((1, 2), dtype=jnp.float32))
        outputs = {}
        for grade in self.grades:
            classes = choose(NUM_CLASSES, grade, "grade")
            where = grade.removeprefix("os") if grade.startswith("os") else "all"
            head = Head(classes, self.hidden, self.dropout, name=f"head_{grade}")
            outputs[grade] = head(features[where], train)
            if self.regression:
                head = Head(1, self.hidden, self.dropout, name=f"value_{grade}")
                outputs[f"{grade}_value"] = head(features[where], train)[:, 0]
        return outputs

    def _pool(self, x: jax.Array, keypoints: jax.Array) -> dict[str, jax.Array]:
        """Returns the features [batch, ...] of each compartment, and those of `all`."""
        indices = choose(PRESETS, self.landmarks, "landmark preset")
        aggregate = choose(
            {
                "concat": lambda points, _: points.reshape(len(points), -1),
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
