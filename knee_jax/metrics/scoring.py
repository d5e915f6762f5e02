"""Scoring of the rows of a predictions table, for many resamples at once.

A scorer is a function of integer weights [r, n], how often each row counts in each resample, so
that a bootstrap of any metric here is a matrix product.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from knee_jax import targets
from knee_jax.metrics import agreement, calibration, discrimination
from knee_jax.metrics.predictions import subjects_of
from knee_jax.targets.grades import OARSI_GRADES
from knee_jax.targets.kinds import Classes, Continuous, Dichotomy, Ordinal

Array = np.ndarray

Statistics = Callable[[Array], dict[str, Array]]

AVERAGED_METRICS = ("accuracy", "balanced_accuracy", "quadratic_kappa", "rmse")
"""Metrics of the average over the OARSI grades."""

LIMITS = 1.96
"""Standard deviations from the bias to the limits of agreement (Bland & Altman 1986)."""


class Samples(NamedTuple):
    """Samples of a dichotomy, one for each knee and target that has a label.

    Attributes:
        rows: Row of the table that each sample belongs to, int [m].
        scores: Summed probability of the positive classes, float64 [m], 0 to 1.
        positives: Whether the true class is among them, bool [m].
    """

    rows: Array
    scores: Array
    positives: Array


class Scorer(NamedTuple):
    """Scorer of n rows of a table.

    Attributes:
        subjects: Subject of each row, [n].
        strata: Strata of the resampling scheme `class`, int [n].
        statistics: Function from weights [r, n] to {metric: [r]}.
        num_samples: Number of values that are scored; n if each row is one.
    """

    subjects: Array
    strata: Array
    statistics: Statistics
    num_samples: int


def classes(target: Classes, labelled: pd.DataFrame) -> Scorer:
    """Score the predicted class of a target, and its probabilities.

    Args:
        target: Target to score.
        labelled: Rows of a predictions table, all of which have a class.
    """
    truth = labelled[target.name].to_numpy(np.int64)
    prediction = labelled[f"{target.name}_pred"].to_numpy(np.int64)
    probabilities = labelled[target.output_columns()].to_numpy(np.float64)
    squared_errors = (probabilities @ np.arange(target.num_outputs) - truth) ** 2
    predicted = _predicted(truth, prediction, probabilities, target.agreement_metrics())
    own = targets.dichotomies().get(target.name)
    two_classes = dichotomy(own, labelled) if own else None

    def statistics(weights: Array) -> dict[str, Array]:
        weights = weights.astype(np.float64)  # once, and not for each metric
        values, probabilistic = predicted(weights)
        if isinstance(target, Ordinal):
            values["rmse_expected"] = np.sqrt(weights @ squared_errors / weights.sum(-1))
        if two_classes:
            values |= two_classes.statistics(weights)
        return values | probabilistic

    return Scorer(subjects_of(labelled), truth, statistics, len(labelled))


def values(target: Continuous, labelled: pd.DataFrame) -> Scorer:
    """Score errors of a continuous target: RMSE, MAE, bias and limits of agreement, in its unit.

    Bias is the mean of prediction minus label; the limits of agreement are the bias plus and minus
    1.96 standard deviations of the differences (Bland & Altman 1986).

    Args:
        target: Target to score.
        labelled: Rows of a predictions table, all of which have a label.
    """
    truth = labelled[target.name].to_numpy(np.float64)
    errors = labelled[f"{target.name}_pred"].to_numpy(np.float64) - truth

    def statistics(weights: Array) -> dict[str, Array]:
        weights = weights.astype(np.float64)
        total = weights.sum(-1)
        mean_square = weights @ np.square(errors) / total
        bias = weights @ errors / total
        with np.errstate(invalid="ignore", divide="ignore"):
            # The sample's variance; a single knee has none.
            variance = np.maximum(mean_square - np.square(bias), 0.0) * total / (total - 1)
        spread = LIMITS * np.sqrt(np.where(total > 1, variance, np.nan))
        return {
            "rmse": np.sqrt(mean_square),
            "mae": weights @ np.abs(errors) / total,
            "bias": bias,
            "limit_low": bias - spread,
            "limit_high": bias + spread,
        }

    # Strata for the scheme `class`: fifths of the labels.
    cuts = np.quantile(truth, np.linspace(0, 1, 6)[1:-1])
    return Scorer(subjects_of(labelled), np.searchsorted(cuts, truth), statistics, len(labelled))


def oarsi_average(labelled: pd.DataFrame) -> Scorer:
    """Score the mean over the six OARSI grades, all of them on the same resample."""
    truth = labelled[list(OARSI_GRADES)].to_numpy(np.int64)
    # A knee with a missing grade falls into no cell of that grade's confusion matrix.
    indicators = []
    for target, read in zip(targets.get_all(OARSI_GRADES), truth.T, strict=True):
        known = target.is_known(read)
        knees = labelled[known]
        cells = np.zeros((len(labelled), target.num_outputs**2))
        cells[known] = agreement.pair_indicators(
            knees[target.name].to_numpy(),
            knees[f"{target.name}_pred"].to_numpy(),
            target.num_outputs,
        )
        indicators.append(cells)

    def statistics(weights: Array) -> dict[str, Array]:
        weights = weights.astype(np.float64)  # once, and not for each grade
        confusions = [agreement.confusion_matrices(weights, cells) for cells in indicators]
        return {
            name: np.mean([agreement.METRICS[name](confusion) for confusion in confusions], axis=0)
            for name in AVERAGED_METRICS
        }

    return Scorer(subjects_of(labelled), truth.max(axis=1), statistics, len(labelled))


def dichotomy_samples(table: pd.DataFrame, endpoint: Dichotomy) -> Samples:
    """Pool the samples of a dichotomy over its targets.

    Args:
        table: Predictions table that has the dichotomy's targets.
        endpoint: Dichotomy to pool samples of.

    Returns:
        One sample for each knee and target that has a label, target after target.
    """
    rows, scores, positives = [], [], []
    for target in targets.get_all(endpoint.targets):
        truth = table[target.name].to_numpy(np.int64)
        known = np.flatnonzero(target.is_known(truth))
        columns = target.output_columns()[endpoint.lowest :]
        rows.append(known)
        scores.append(table[columns].to_numpy(np.float64)[known].sum(1))
        positives.append(truth[known] >= endpoint.lowest)
    return Samples(np.concatenate(rows), np.concatenate(scores), np.concatenate(positives))


def dichotomy(endpoint: Dichotomy, labelled: pd.DataFrame) -> Scorer:
    """Score a dichotomy on rows of a predictions table where one of its targets has a label."""
    rows, scores, positives = dichotomy_samples(labelled, endpoint)
    # Missing, negative or positive, for each target, so that a knee's samples stay together.
    states = np.stack(
        [
            np.where(target.is_known(truth), 1 + (truth >= endpoint.lowest), 0)
            for target in targets.get_all(endpoint.targets)
            for truth in [labelled[target.name].to_numpy(np.int64)]
        ],
        axis=1,
    )
    predicted = None
    if endpoint.threshold is not None:
        predictions = (scores >= endpoint.threshold).astype(np.int64)
        both = np.stack([1 - scores, scores], axis=1)
        predicted = _predicted(
            positives.astype(np.int64), predictions, both, agreement.TWO_CLASS_METRICS
        )

    def statistics(weights: Array) -> dict[str, Array]:
        areas = discrimination.areas(scores, positives, weights[:, rows])
        values = dict(zip(("roc_auc", "average_precision"), areas, strict=True))
        if predicted is None:
            return values
        agreeing, probabilistic = predicted(weights[:, rows].astype(np.float64))
        return agreeing | values | probabilistic

    strata = states @ 3 ** np.arange(len(endpoint.targets))
    return Scorer(subjects_of(labelled), strata, statistics, len(rows))


def _predicted(
    truth: Array,
    prediction: Array,
    probabilities: Array,
    metrics: Mapping[str, Callable[[Array], Array]],
) -> Callable[[Array], tuple[dict[str, Array], dict[str, Array]]]:
    """Return a function from weights [r, m] of samples to agreement and probabilistic metrics."""
    indicators = agreement.pair_indicators(truth, prediction, probabilities.shape[1])
    confidence = probabilities[np.arange(len(truth)), prediction]

    def score(weights: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        confusion = agreement.confusion_matrices(weights, indicators)
        right = prediction == truth
        probabilistic = {
            "brier": calibration.brier(probabilities, truth, weights),
            "ece": calibration.expected_calibration_error(confidence, right, weights),
        }
        return {name: metric(confusion) for name, metric in metrics.items()}, probabilistic

    return score
