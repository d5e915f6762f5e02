"""Novelty: how far a picture's features lie from those of the knees that a network was trained on.

The features that the heads read are described by their principal components: the distance within
the first of them, each in units of its own deviation (Mahalanobis; Lee et al. 2018, "A simple
unified framework for detecting out-of-distribution samples and adversarial attacks", without
classes), and the distance from their space. Each is divided by what 99 % of knees stay below that
were not trained on, and the larger one counts.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

RANK = 128
"""Principal components, at most."""

SHARE = 0.99
"""Share of held-out knees whose novelty is at most 1."""

DOUBTFUL, REFUSED = 1.0, 1.25
"""Novelty above which a confidence is not told, and above which a picture is not graded.

The shipped model was looked at: of the 826 validation knees the largest is 1.17; noise, plain grey,
text and photographs of other things have 1.38 to 1.8.
"""

LEAST = 100
"""Knees to learn from, and held-out knees, at least."""


class Novelty(NamedTuple):
    """Description of the features of training knees.

    Attributes:
        mean: Mean of the features, float32 [c].
        axes: Principal components, float32 [c, k], each divided by its standard deviation.
        rest: Deviation outside of their space, float32 scalar.
        limits: Distances within and outside that `SHARE` of held-out knees stay below, float32 [2].
    """

    mean: Any
    axes: Any
    rest: Any
    limits: Any


def fit(training: np.ndarray, held_out: np.ndarray) -> Novelty:
    """Describe features of training knees, and calibrate by those of held-out knees.

    Args:
        training: Features, float [n, c]; n is `LEAST` or more.
        held_out: Features of other knees, float [m, c]; m is `LEAST` or more.
    """
    mean = training.mean(0)
    _, deviations, axes = np.linalg.svd(training - mean, full_matrices=False)
    variances = deviations**2 / (len(training) - 1)
    rank = min(RANK, len(training) // 10, int((variances > 1e-6 * variances[0]).sum()))
    rest = np.sqrt(variances[rank:].sum())
    scaled = axes[:rank].T / np.sqrt(variances[:rank])
    # Without anything outside of the space, nothing can be far from it.
    rest = rest if rest > 1e-3 * np.sqrt(variances.sum()) else np.inf
    found = Novelty(*map(np.float32, (mean, scaled, rest, (1.0, 1.0))))
    limits = np.quantile(np.asarray(_distances(found, jnp.asarray(held_out))), SHARE, axis=0)
    return found._replace(limits=np.maximum(limits, 1e-6).astype(np.float32))


def of(novelty: Novelty, features: jax.Array) -> jax.Array:
    """Return the novelty of features [batch, c], float32 [batch]; may be traced."""
    found: jax.Array = (_distances(novelty, features) / novelty.limits).max(-1)
    return found


def _distances(novelty: Novelty, features: jax.Array) -> jax.Array:
    """Return the distances within the components' space and from it, [batch, 2]."""
    centred = features.astype(jnp.float32) - novelty.mean
    inside = centred @ novelty.axes
    # The axes are divided by their deviations: their squared lengths are inverse variances.
    variances = 1 / jnp.square(jnp.asarray(novelty.axes)).sum(0)
    outside = jnp.square(centred).sum(-1) - (jnp.square(inside) * variances).sum(-1)
    return jnp.stack(
        [
            jnp.sqrt(jnp.square(inside).mean(-1)),
            jnp.sqrt(jnp.maximum(outside, 0)) / novelty.rest,
        ],
        axis=-1,
    )
