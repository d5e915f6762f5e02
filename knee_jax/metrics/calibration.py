"""Calibration of probabilities: reliability bins, calibration error and Brier score.

Samples may be weighted by integer counts with leading dimensions for resamples, as in
`knee_jax.metrics.discrimination`. If there is nothing to average, the value is NaN.
"""

from typing import NamedTuple

import numpy as np

Array = np.ndarray

_TINY = np.finfo(np.float32).tiny

NUM_BINS = 15
"""Number of bins of Guo et al. 2017, section 5."""


class Reliability(NamedTuple):
    """Reliability diagram: predicted and observed frequencies, by bins of the score.

    Attributes:
        counts: Number of samples in each bin, float64 [..., b].
        predicted: Mean score, float64 [..., b]; NaN in an empty bin.
        observed: Share of samples that came true, float64 [..., b]; NaN in an empty bin.
    """

    counts: Array
    predicted: Array
    observed: Array


def reliability(
    scores: Array, outcomes: Array, weights: Array | None = None, num_bins: int = NUM_BINS
) -> Reliability:
    """Compare scores with outcomes in bins of equal width over 0 to 1.

    Args:
        scores: Probability of the outcome, [n], 0 to 1. A score on the edge of two bins is in the
            lower one (Guo et al. 2017, section 2), and 0 in the first.
        outcomes: Whether the outcome came true, bool [n].
        weights: Count of each sample, [..., n]; once each if omitted.
        num_bins: Number of bins b.
    """
    scores = np.asarray(scores, np.float64)
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, np.float64)
    bins = np.searchsorted(np.linspace(0.0, 1.0, num_bins + 1)[1:-1], scores)
    members = (bins[:, None] == np.arange(num_bins)).astype(np.float64)
    outcomes = np.asarray(outcomes, np.float64)
    columns = (members, members * scores[:, None], members * outcomes[:, None])
    counts, predicted, observed = np.split(weights @ np.concatenate(columns, 1), 3, axis=-1)
    return Reliability(counts, _mean(predicted, counts), _mean(observed, counts))


def expected_calibration_error(
    scores: Array, outcomes: Array, weights: Array | None = None, num_bins: int = NUM_BINS
) -> Array:
    """Return the mean distance of score and outcome over the bins (Guo et al. 2017, eq. 5), 0 to 1.

    Chance within a bin only adds to it: with few samples it is above 0 even if the probabilities
    are right, and a bootstrap, which draws from those few, is higher still.

    The arguments are those of `reliability`. For classes, the score is the probability of the
    predicted one, and the outcome is whether it is the true one.

    Returns:
        Calibration error, float64 [...].
    """
    counts, predicted, observed = reliability(scores, outcomes, weights, num_bins)
    distances = np.where(counts > 0, counts * np.abs(predicted - observed), 0.0)
    return _mean(distances.sum(-1), counts.sum(-1))


def brier(probabilities: Array, truth: Array, weights: Array | None = None) -> Array:
    """Return the mean squared distance of probabilities from the truth, 0 if certain and right.

    With three classes or more it is summed over the classes, 0 to 2, as in Brier (1950). With two,
    both contribute the same, and it is that of one, 0 to 1, as is usual today.

    Args:
        probabilities: Probabilities of the classes, [n, C].
        truth: True classes, int [n], 0 to C - 1.
        weights: Count of each sample, [..., n]; once each if omitted.

    Returns:
        Brier score, float64 [...].
    """
    probabilities = np.asarray(probabilities, np.float64)
    num, num_classes = probabilities.shape
    weights = np.ones(num) if weights is None else np.asarray(weights, np.float64)
    distances = np.square(probabilities - np.eye(num_classes)[truth]).sum(1)
    total = weights @ distances / (2.0 if num_classes == 2 else 1.0)
    return _mean(total, weights.sum(-1))


def _mean(total: Array, count: Array) -> Array:
    return np.divide(
        total, count, out=np.full(np.shape(total), np.nan), where=np.asarray(count) > 0
    )


def fit_temperature(probabilities: Array, classes: Array) -> float:
    """Fit the temperature of a softmax by the likelihood of known classes (Guo et al. 2017, 4.2).

    Args:
        probabilities: Probabilities of the classes, [n, classes].
        classes: True classes, int [n].

    Returns:
        Temperature, 0.05 to 20; above 1 the probabilities were too confident.
    """
    from scipy.optimize import minimize_scalar

    logits = np.log(np.maximum(np.asarray(probabilities, np.float64), _TINY))

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        scaled -= scaled.max(axis=1, keepdims=True)
        log_p = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
        return float(-log_p[np.arange(len(classes)), classes].mean())

    found = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    return float(np.exp(found.x))


def temper(probabilities: Array, temperature: float) -> Array:
    """Return the probabilities [n, classes] of a softmax at another temperature, float64."""
    logits = np.log(np.maximum(np.asarray(probabilities, np.float64), _TINY)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
