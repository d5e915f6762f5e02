"""How far probabilities can be believed: reliability bins, calibration error and Brier score.

Samples may be weighted by integer counts with leading dimensions for resamples, as in
`knee_jax.metrics.discrimination`. Where there is nothing to average, the value is NaN.
"""

from typing import NamedTuple

import numpy as np

Array = np.ndarray

NUM_BINS = 15
"""Bins of Guo et al. 2017, section 5."""


class Reliability(NamedTuple):
    """A reliability diagram: what was predicted and what came true, by bins of the score.

    Attributes:
        counts: float64 [..., b], samples in each bin.
        predicted: float64 [..., b], mean score; NaN in an empty bin.
        observed: float64 [..., b], share of samples that came true; NaN in an empty bin.
    """

    counts: Array
    predicted: Array
    observed: Array


def reliability(
    scores: Array, outcomes: Array, weights: Array | None = None, num_bins: int = NUM_BINS
) -> Reliability:
    """Compare scores with outcomes in bins of equal width over 0 to 1.

    Args:
        scores: [n], 0 to 1, the probability of the outcome. A score on the edge of two bins is in
            the lower one (Guo et al. 2017, section 2), and 0 in the first.
        outcomes: bool [n], whether it came true.
        weights: [..., n], how often each sample counts; once each if omitted.
        num_bins: number of bins b.
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
    """Mean distance of score and outcome over the bins, 0 to 1 (Guo et al. 2017, eq. 5).

    Chance in a bin only adds to it: of few samples it is above 0 even where the probabilities are
    right, and a bootstrap, which draws from those few, lies higher still.

    Arguments as for `reliability`. Of classes, the score is the probability of the predicted one,
    and the outcome is whether it is the true one.

    Returns:
        float64 [...].
    """
    counts, predicted, observed = reliability(scores, outcomes, weights, num_bins)
    distances = np.where(counts > 0, counts * np.abs(predicted - observed), 0.0)
    return _mean(distances.sum(-1), counts.sum(-1))


def brier(probabilities: Array, truth: Array, weights: Array | None = None) -> Array:
    """Mean squared distance of the probabilities from the truth, 0 for certain and right.

    With three classes or more it is summed over the classes, 0 to 2, as Brier (1950) has it. With
    two, both of them say the same, and it is that of one, 0 to 1, as is usual today.

    Args:
        probabilities: [n, C], of the classes.
        truth: int [n], 0 to C - 1.
        weights: [..., n], how often each sample counts; once each if omitted.

    Returns:
        float64 [...].
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
