"""ROC and precision-recall analysis of a score against a two-class truth.

Samples may be weighted by integer counts with leading dimensions for resamples: the scores are
sorted once for all of them. Tied scores share one threshold, so that no result depends on the order
of rows. If a class is missing, the value is NaN.
"""

from typing import NamedTuple

import numpy as np

Array = np.ndarray


class Curve(NamedTuple):
    """Curve: x and y float64 [k + 1], thresholds float64 [k + 1] falling from infinity."""

    x: Array
    y: Array
    thresholds: Array


def areas(scores: Array, positives: Array, weights: Array | None = None) -> tuple[Array, Array]:
    """Return both areas, `roc_auc` and `average_precision`, 0 to 1, sorted and summed once.

    Args:
        scores: Scores, [n], higher for the positive class.
        positives: Whether each sample is positive, bool [n].
        weights: Count of each sample, [..., n]; once each if omitted.

    Returns:
        Area under the ROC curve and average precision, float64 [...] each.
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
    """Return the area under the ROC curve by the trapezoid rule; see `areas`."""
    return areas(scores, positives, weights)[0]


def average_precision(scores: Array, positives: Array, weights: Array | None = None) -> Array:
    """Return the average precision: the precision at each threshold times the step in recall.

    This is the step-wise sum that scikit-learn uses, not the trapezoid rule, which is too
    optimistic (Davis & Goadrich 2006). Arguments and result are those of `areas`.
    """
    return areas(scores, positives, weights)[1]


def roc_curve(scores: Array, positives: Array) -> Curve:
    """Return the ROC curve: x = false and y = true positive rate, from (0, 0) to (1, 1).

    Args:
        scores: Scores, [n], higher for the positive class.
        positives: Whether each sample is positive, bool [n], both classes present.

    Returns:
        Curve with a point at (0, 0) and one for each distinct score, positive meaning `score >=
        threshold`.
    """
    hits, false_alarms, thresholds = _cumulative_counts(scores, positives, None)
    return Curve(false_alarms / false_alarms[-1], hits / hits[-1], thresholds)


def precision_recall_curve(scores: Array, positives: Array) -> Curve:
    """Return the precision-recall curve: x = recall, y = precision, from recall 0 to 1.

    Args:
        scores: Scores, [n], higher for the positive class.
        positives: Whether each sample is positive, bool [n], at least one positive.

    Returns:
        Curve with one point for each distinct score, positive meaning `score >= threshold`; the
        first point, where nothing is predicted positive, is (0, 1) by convention.
    """
    hits, false_alarms, thresholds = _cumulative_counts(scores, positives, None)
    called = hits + false_alarms
    precision = np.divide(hits, called, out=np.ones_like(hits), where=called > 0)
    return Curve(hits / hits[-1], precision, thresholds)


def _cumulative_counts(
    scores: Array, positives: Array, weights: Array | None
) -> tuple[Array, Array, Array]:
    """Count true and false positives [..., k + 1] at the k distinct scores, highest first."""
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
