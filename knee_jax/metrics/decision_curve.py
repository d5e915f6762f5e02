"""Decision curves: the net benefit of acting on a prediction, by the probability to act from.

Vickers & Elkin 2006, "Decision curve analysis". Who acts from a probability p on counts a needless
act as p / (1 - p) of a missed one; the net benefit is the share of true positives minus that many
times the share of false ones. A model is of use where it is above both acting on nobody, 0, and
acting on everybody.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from knee_jax.metrics import bootstrap

Array = np.ndarray

THRESHOLDS = np.linspace(0.01, 0.99, 99)


class DecisionCurve(NamedTuple):
    """Net benefits at `thresholds`, float64 [k] each.

    Attributes:
        thresholds: Probabilities to act from.
        model: Net benefit of acting on the model.
        low, high: Its 95 % interval.
        everybody: Net benefit of acting on everybody.
    """

    thresholds: Array
    model: Array
    low: Array
    high: Array
    everybody: Array


def net_benefit(
    scores: Array, positives: Array, thresholds: Array, weights: Array | None = None
) -> Array:
    """Return the net benefit of acting where a score is at least a threshold.

    Args:
        scores: Probabilities of the positive class, [n].
        positives: Whether each sample is positive, bool [n].
        thresholds: Probabilities to act from, [k], above 0 and below 1.
        weights: Count of each sample, [..., n]; once each if omitted.

    Returns:
        Float64 [..., k].
    """
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, np.float64)
    acted = scores[:, None] >= thresholds
    odds = thresholds / (1 - thresholds)
    gain = acted * np.where(positives[:, None], 1.0, -odds)
    return np.asarray((weights @ gain) / weights.sum(-1)[..., None])


def decision_curve(
    scores: Array,
    positives: Array,
    subjects: Array,
    num_resamples: int = 1000,
    seed: int = 0,
    thresholds: Array = THRESHOLDS,
) -> DecisionCurve:
    """Return the decision curve of a model, with intervals by subject.

    Args:
        scores: Probabilities of the positive class, [n].
        positives: Whether each sample is positive, bool [n].
        subjects: Subject of each sample, [n].
        num_resamples: Number of bootstrap resamples.
        seed: Random seed of the resamples.
        thresholds: Probabilities to act from, [k].
    """
    counts: Iterator[Array] = bootstrap.cluster_counts(subjects, num_resamples, seed)
    drawn = np.concatenate([net_benefit(scores, positives, thresholds, each) for each in counts])
    low, high = np.percentile(drawn, bootstrap.PERCENTILES, axis=0)
    share = positives.mean()
    return DecisionCurve(
        thresholds,
        net_benefit(scores, positives, thresholds),
        low,
        high,
        share - (1 - share) * thresholds / (1 - thresholds),
    )
