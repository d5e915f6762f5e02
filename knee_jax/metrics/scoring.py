"""Scoring of the rows of a predictions table, for many resamples at once.

A scorer is a function of integer weights [r, n], how often each row counts in each resample, so
that a bootstrap of any metric here is a matrix product.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from knee_jax.metrics import agreement, calibration, discrimination
from knee_jax.metrics.bootstrap import subjects_of

if TYPE_CHECKING:
    from knee_jax.targets.kinds import Classes, Continuous
    from knee_jax.targets.places import Places

Array = np.ndarray

Statistics = Callable[[Array], dict[str, Array]]

LIMITS = 1.96
"""Standard deviations from the bias to the limits of agreement (Bland & Altman 1986)."""


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


def classes(target: "Classes", labelled: pd.DataFrame, *more: Statistics) -> Scorer:
    """Score the predicted class of a target, and the worth of its probabilities.

    Args:
        target: Target to score.
        labelled: Rows of a predictions table, all of which have a class.
        more: Further metrics of these rows.
    """
    truth = labelled[target.name].to_numpy(np.int64)
    prediction = labelled[f"{target.name}_pred"].to_numpy(np.int64)
    probabilities = labelled[target.output_columns()].to_numpy(np.float64)
    predicted = predicted_classes(truth, prediction, probabilities, target.agreement_metrics())

    def statistics(weights: Array) -> dict[str, Array]:
        weights = weights.astype(np.float64)  # once, and not for each metric
        values, probabilistic = predicted(weights)
        for each in more:
            values |= each(weights)
        return values | probabilistic

    return Scorer(subjects_of(labelled), truth, statistics, len(labelled))


def expected_class(target: "Classes", labelled: pd.DataFrame) -> Statistics:
    """Score the mean of the predicted distribution by its RMSE; rows as in `classes`."""
    truth = labelled[target.name].to_numpy(np.int64)
    probabilities = labelled[target.output_columns()].to_numpy(np.float64)
    squared_errors = (probabilities @ np.arange(target.num_outputs) - truth) ** 2
    return lambda weights: {"rmse_expected": np.sqrt(weights @ squared_errors / weights.sum(-1))}


def ranks(scores: Array, positives: Array) -> Statistics:
    """Score how positive samples rank above the others: the areas under ROC and PR curve.

    Args:
        scores: float64 [n], higher where a sample is rather positive.
        positives: bool [n].
    """

    def statistics(weights: Array) -> dict[str, Array]:
        areas = discrimination.areas(scores, positives, weights)
        return dict(zip(("roc_auc", "average_precision"), areas, strict=True))

    return statistics


def values(target: "Continuous", labelled: pd.DataFrame) -> Scorer:
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


FINEST_MM, FARTHEST_MM = 0.01, 50.0
"""Step of the distances that a median is taken over, mm, and the largest of them."""


def places(target: "Places", labelled: pd.DataFrame) -> Scorer:
    """Score places by their radial errors, mm: mean, median, shares within some distances.

    `knees_within_2.5mm` is the share of knees whose mean error is within the last of them (Tiulpin
    et al. 2019, Table 2, has the others). Knees of unknown spacing do not count.

    Args:
        target: Target to score.
        labelled: Rows of a predictions table, all of which have places.
    """
    errors = target.errors_mm(labelled)
    known = np.isfinite(errors)
    numbers = known.sum(1).astype(np.float64)
    sums = np.where(known, errors, 0).sum(1)
    last = target.limits_mm[-1]
    measured = numbers > 0
    good = measured & (sums <= last * numbers)
    within = {
        f"within_{limit:g}mm": (known & (errors <= limit)).sum(1) for limit in target.limits_mm
    }
    bins = np.minimum(np.where(known, errors, 0), FARTHEST_MM) / FINEST_MM
    counts = np.zeros((len(errors), int(FARTHEST_MM / FINEST_MM) + 1), np.float32)
    rows, columns = np.nonzero(known)
    np.add.at(counts, (rows, bins[rows, columns].astype(int)), 1)

    def statistics(weights: Array) -> dict[str, Array]:
        weights = weights.astype(np.float64)
        total = weights @ numbers
        below = np.cumsum(weights.astype(np.float32) @ counts, axis=1)
        median = (below >= total[:, None] / 2).argmax(axis=1) * FINEST_MM + FINEST_MM / 2
        # NaN where a resample has no knee of known spacing.
        total = np.where(total > 0, total, np.nan)
        knees = weights @ measured
        return {
            "radial_error": weights @ sums / total,
            "radial_error_median": np.where(np.isnan(total), np.nan, median),
            **{name: weights @ number / total for name, number in within.items()},
            f"knees_within_{last:g}mm": weights @ good / np.where(knees > 0, knees, np.nan),
        }

    # Strata for the scheme `class`: none.
    return Scorer(
        subjects_of(labelled), np.zeros(len(labelled), int), statistics, int(measured.sum())
    )


def predicted_classes(
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
