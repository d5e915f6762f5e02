"""Loss of incoherent grades (Zheng et al. 2021, section 2.2); a helper of `grading`, not a task.

A network is trained against the incoherence of the grades that it predicts (eq. 4), for which no
label is needed. The mixture is fitted in `knee_jax.metrics.grade_coherence`.
"""

import jax
import jax.numpy as jnp

from knee_jax.metrics.grade_coherence import Mixture, log_normaliser


def log_density(mixture: Mixture, codes: jax.Array) -> jax.Array:
    """Return the log-density of the mixture (eq. 3), in the precision of the arguments.

    In float32 it is accurate enough because the Cholesky factors were computed in float64
    beforehand.

    Args:
        mixture: Mixture of K components in D dimensions.
        codes: Probabilities or one-hot codes, [batch, D].

    Returns:
        Log-densities, [batch]; NaN where `codes` has one.
    """
    offsets = codes[:, None] - mixture.means
    whitened = jnp.einsum("bkd,kde->bke", offsets, mixture.factors, precision="highest")
    diagonals = jnp.diagonal(mixture.factors, axis1=1, axis2=2)
    scales = jnp.log(mixture.weights) + jnp.log(diagonals).sum(-1)
    exponents = scales - 0.5 * jnp.square(whitened).sum(-1)
    return jax.nn.logsumexp(exponents, axis=-1) - log_normaliser(codes.shape[-1])


def incoherence(density: jax.Array, temperature: float) -> jax.Array:
    """Return the incoherence loss of log-densities (eq. 4): softplus(-tau g) / tau, at least 0.

    For densities far above 0 it vanishes, and far below it is -g with a gradient of -1.
    """
    return jax.nn.softplus(-temperature * density) / temperature
