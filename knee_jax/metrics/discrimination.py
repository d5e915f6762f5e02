"""ROC and precision-recall analysis of a score against a two-class truth.

Samples may be weighted by integer counts with leading dimensions for resamples: the scores are
sorted once for all of them. Tied scores make one threshold together, so that no result depends on
the order of rows. Where a class is missing, the value is NaN.
"""

from typing import NamedTuple

import numpy as np

Array = np.ndarray


class Curve(NamedTuple):
    """One curve: x and y float64 [k + 1], thresholds float64 [k + 1] falling from infinity."""

    x: Array
    y: Array
    thresholds: Array


def areas(scores: Array, positives: Array, weights: Array | None = None) -> tuple[Array, Array]:
    """Areas under both curves, 0 to 1: `roc_auc` and `average_precision`, sorted and summed once.

    Args:
        scores: [n], higher for the positive class.
        positives: bool [n].
        weights: [..., n], how often each sample counts; once each if omitted.

    Returns:
        float64 [...] and [...].
    """
    hits, false_alarms, _ = _cumulative_counts(scores, positives, weights)
    under_roc = np.trapezoid(hits, false_alarms, axis=-1)
    called = hits + false_alarms
    precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
    under_precision = (precision[..., 1:] * np.diff(hits, axis=-1)).sum(-1)
    return (
        _where_defined(under_roc, hits[..., -1] * false_alarms[..., -1]),
        _where_defined(under_precision, hits[..., -1]),
    )


def roc_auc(scores: Array, positives: Array, weights: Array | None = None) -> Array:
    """Area under the ROC curve by the trapezoid rule; arguments and result as for `areas`."""
    return areas(scores, positives, weights)[0]


def average_precision(scores: Array, positives: Array, weights: Array | None = None) -> Array:
    """Average precision: the precision at each threshold times the step in recall.

    The step-wise sum that scikit-learn uses, not the trapezoid rule, which is too hopeful (Davis &
    Goadrich 2006). Arguments and result as for `areas`.
    """
    return areas(scores, positives, weights)[1]


def roc_curve(scores: Array, positives: Array) -> Curve:
    """ROC curve: x = false positive rate, y = true positive rate, from (0, 0) to (1, 1).

    Args:
        scores: [n], higher for the positive class.
        positives: bool [n], both classes present.

    Returns:
        One point for each distinct score, positive meaning `score >= threshold`.
    """
    hits, false_alarms, thresholds = _cumulative_counts(scores, positives, None)
    return Curve(false_alarms / false_alarms[-1], hits / hits[-1], thresholds)


def precision_recall_curve(scores: Array, positives: Array) -> Curve:
    """Precision-recall curve: x = recall, y = precision, from recall 0 to 1.

    Args:
        scores: [n], higher for the positive class.
        positives: bool [n], at least one positive.

    Returns:
        One point for each distinct score, positive meaning `score >= threshold`; the first point,
        where nothing is called positive, is (0, 1) by convention.
    """
    hits, false_alarms, thresholds = _cumulative_counts(scores, positives, None)
    called = hits + false_alarms
    precision = np.divide(hits, called, out=np.ones_like(hits), where=called > 0)
    return Curve(hits / hits[-1], precision, thresholds)


def _cumulative_counts(
    scores: Array, positives: Array, weights: Array | None
) -> tuple[Array, Array, Array]:
    """True and false positives [..., k + 1] at the k distinct scores, from the highest down."""
    scores = np.asarray(scores, np.float64)
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights)
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    weights = weights[..., order].astype(np.float64)
    positives = np.asarray(positives, bool)[order]
    start = np.zeros((*weights.shape[:-1], 1))

    def cumulate(members: Array) -> Array:
        counts = np.cumsum(weights * members, axis=-1)[..., last_of_tie]
        return np.concatenate([start, counts], axis=-1)

    return cumulate(positives), cumulate(~positives), np.append(np.inf, ordered[last_of_tie])


def _where_defined(area: Array, total: Array) -> Array:
    return np.divide(area, total, out=np.full(np.shape(area), np.nan), where=np.asarray(total) > 0)
