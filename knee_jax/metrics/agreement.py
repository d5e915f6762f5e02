"""Agreement of predicted with true grades, as functions of confusion matrices.

A confusion matrix counts rows of truth against columns of prediction: `confusion[..., t, p]`.
Leading dimensions are resamples, so that a whole bootstrap is one matrix product
(`confusion_matrices`) and one call per metric. Where a metric is undefined, such as kappa if truth
and prediction are a single class throughout, the value is NaN.
"""

import numpy as np

Array = np.ndarray


def pair_indicators(truth: Array, prediction: Array, num_classes: int) -> Array:
    """Mark which cell of the confusion matrix each knee falls into.

    Args:
        truth: True classes, int [n], 0 to num_classes - 1.
        prediction: Predicted classes, int [n], 0 to num_classes - 1.
        num_classes: Number of classes C.

    Returns:
        Indicators, float64 [n, C * C], one-hot in each row.
    """
    cells = np.asarray(truth, np.int64) * num_classes + np.asarray(prediction, np.int64)
    indicators = np.zeros((len(cells), num_classes**2))
    indicators[np.arange(len(cells)), cells] = 1.0
    return indicators


def confusion_matrices(weights: Array, indicators: Array) -> Array:
    """Return the confusion matrices of weighted samples.

    Args:
        weights: Count of each knee, [..., n].
        indicators: Result of `pair_indicators`, [n, C * C].

    Returns:
        Confusion matrices, float64 [..., C, C]: truth in rows, prediction in columns.
    """
    num_classes = round(indicators.shape[1] ** 0.5)
    counts = np.asarray(weights, np.float64) @ indicators
    return counts.reshape(*counts.shape[:-1], num_classes, num_classes)


def accuracy(confusion: Array) -> Array:
    """Return the share of knees graded as read, 0 to 1: confusion [..., C, C] -> [...]."""
    return _ratio(np.trace(confusion, axis1=-2, axis2=-1), confusion.sum((-2, -1)))


def balanced_accuracy(confusion: Array) -> Array:
    """Return the mean recall over classes present in the truth, 0 to 1: [..., C, C] -> [...]."""
    support = confusion.sum(-1)
    recall = _ratio(_diagonal(confusion), support)
    return _ratio(np.where(support > 0, recall, 0.0).sum(-1), (support > 0).sum(-1))


def f1_macro(confusion: Array) -> Array:
    """Return the unweighted mean F1 score of the classes seen, 0 to 1: [..., C, C] -> [...].

    A class counts as seen if it occurs in the truth or among the predictions (scikit-learn's rule);
    a class that occurs only among the predictions has F1 = 0.
    """
    occurrences = confusion.sum(-1) + confusion.sum(-2)
    scores = np.where(occurrences > 0, _class_f1(confusion), 0.0)
    return _ratio(scores.sum(-1), (occurrences > 0).sum(-1))


def f1_weighted(confusion: Array) -> Array:
    """Return the mean F1 score weighted by true counts, 0 to 1: [..., C, C] -> [...]."""
    support = confusion.sum(-1)
    scores = np.where(support > 0, _class_f1(confusion), 0.0)
    return _ratio((scores * support).sum(-1), support.sum(-1))


def kappa(confusion: Array) -> Array:
    """Return Cohen's kappa, unweighted (Cohen 1960), at most 1: [..., C, C] -> [...].

    With two classes the weighted kappas are the same.
    """
    return _kappa(confusion, _grade_distances(confusion.shape[-1]) > 0)


def linear_kappa(confusion: Array) -> Array:
    """Return Cohen's kappa with disagreement |t - p| (Cohen 1968): [..., C, C] -> [...].

    It is at most 1.
    """
    return _kappa(confusion, _grade_distances(confusion.shape[-1]))


def quadratic_kappa(confusion: Array) -> Array:
    """Return Cohen's kappa with disagreement (t - p)^2 (Cohen 1968): [..., C, C] -> [...].

    It is at most 1.
    """
    return _kappa(confusion, _grade_distances(confusion.shape[-1]) ** 2)


def mse(confusion: Array) -> Array:
    """Return the mean squared difference of the grades, squared grades: [..., C, C] -> [...]."""
    distances = _grade_distances(confusion.shape[-1]) ** 2
    return _ratio((confusion * distances).sum((-2, -1)), confusion.sum((-2, -1)))


def rmse(confusion: Array) -> Array:
    """Return the square root of `mse`, in grades: [..., C, C] -> [...]."""
    return np.sqrt(mse(confusion))


def mae(confusion: Array) -> Array:
    """Return the mean absolute difference of the grades, in grades: [..., C, C] -> [...]."""
    distances = _grade_distances(confusion.shape[-1])
    return _ratio((confusion * distances).sum((-2, -1)), confusion.sum((-2, -1)))


def within_one(confusion: Array) -> Array:
    """Return the share of knees graded at most one grade off, 0 to 1: [..., C, C] -> [...]."""
    near = _grade_distances(confusion.shape[-1]) <= 1
    return _ratio((confusion * near).sum((-2, -1)), confusion.sum((-2, -1)))


def dichotomise(confusion: Array, lowest: int) -> Array:
    """Merge C classes into two, negative and positive: [..., C, C] -> [..., 2, 2].

    Args:
        confusion: Confusion matrix of the C classes.
        lowest: Lowest positive class, 1 to C - 1.
    """
    for axis in (-2, -1):
        confusion = np.add.reduceat(confusion, [0, lowest], axis)
    return confusion


def sensitivity(confusion: Array) -> Array:
    """Return the share of positives found, 0 to 1: confusion [..., 2, 2] -> [...]."""
    return _ratio(confusion[..., 1, 1], confusion[..., 1, :].sum(-1))


def specificity(confusion: Array) -> Array:
    """Return the share of negatives predicted negative, 0 to 1: confusion [..., 2, 2] -> [...]."""
    return _ratio(confusion[..., 0, 0], confusion[..., 0, :].sum(-1))


def ppv(confusion: Array) -> Array:
    """Return the share of predicted positives that are positive: confusion [..., 2, 2] -> [...]."""
    return _ratio(confusion[..., 1, 1], confusion[..., :, 1].sum(-1))


def npv(confusion: Array) -> Array:
    """Return the share of predicted negatives that are negative: confusion [..., 2, 2] -> [...]."""
    return _ratio(confusion[..., 0, 0], confusion[..., :, 0].sum(-1))


def f1(confusion: Array) -> Array:
    """Return the F1 score of the positive class, 0 to 1: confusion [..., 2, 2] -> [...]."""
    return _class_f1(confusion)[..., 1]


METRICS = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "f1_macro": f1_macro,
    "f1_weighted": f1_weighted,
    "linear_kappa": linear_kappa,
    "quadratic_kappa": quadratic_kappa,
    "mse": mse,
    "rmse": rmse,
    "mae": mae,
    "within_one": within_one,
}
"""Metrics of agreement of a grade, by their names in `metrics.json`."""

TWO_CLASS_METRICS = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "f1": f1,
    "sensitivity": sensitivity,
    "specificity": specificity,
    "ppv": ppv,
    "npv": npv,
    "kappa": kappa,
}
"""Metrics of a target of two classes, of which the second is the positive one."""

NOMINAL_METRICS = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "f1_macro": f1_macro,
}
"""Metrics of a target of several unordered classes, between which there is no distance."""


def _kappa(confusion: Array, disagreement: Array) -> Array:
    observed = (confusion * disagreement).sum((-2, -1))
    by_chance = confusion.sum(-1)[..., :, None] * confusion.sum(-2)[..., None, :]
    expected = _ratio((by_chance * disagreement).sum((-2, -1)), confusion.sum((-2, -1)))
    return 1.0 - _ratio(observed, expected)


def _grade_distances(num_classes: int) -> Array:
    # Distances are those of the grades themselves. scikit-learn without `labels` would close the
    # gap left by a grade absent from the sample, and so change the disagreement of the others.
    grades = np.arange(num_classes)
    return np.abs(grades[:, None] - grades[None, :]).astype(np.float64)


def _class_f1(confusion: Array) -> Array:
    return _ratio(2.0 * _diagonal(confusion), confusion.sum(-1) + confusion.sum(-2))


def _diagonal(confusion: Array) -> Array:
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Return the quotient, NaN where the denominator is zero."""
    numerator, denominator = np.broadcast_arrays(
        np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    )
    quotient = np.full(numerator.shape, np.nan)
    return np.divide(numerator, denominator, out=quotient, where=denominator != 0)
