"""From a predictions table to every metric with its 95 % interval."""

import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
import pandas as pd

from knee_jax.files import write_text
from knee_jax.grades import GRADES, MISSING, NUM_CLASSES, TARGETS
from knee_jax.metrics import agreement, bootstrap, calibration, discrimination
from knee_jax.metrics.predictions import (
    check_predictions,
    grades_in,
    probability_columns,
    subjects_of,
)

Array = np.ndarray


class Task(NamedTuple):
    """A two-class task read off grades or other targets.

    Attributes:
        grades: whose knees are pooled: each grade of a knee is one sample.
        lowest: the lowest class that is positive.
        called_from: score from which a sample is called positive; None: nothing is called.
    """

    grades: tuple[str, ...]
    lowest: int
    called_from: float | None = None


TASKS = {
    "kl_ge_2": Task(("kl",), 2),
    "osteophytes_lateral_ge_1": Task(("osfl", "ostl"), 1),
    "osteophytes_medial_ge_1": Task(("osfm", "ostm"), 1),
    "jsn_lateral_ge_1": Task(("jsl",), 1),
    "jsn_medial_ge_1": Task(("jsm",), 1),
    "progression_any": Task(("progression",), 1, called_from=0.5),
} | {target: Task((target,), 1) for target in TARGETS if NUM_CLASSES[target] == 2}
"""Two-class tasks by name: of Tiulpin & Saarakkala 2020, Figure 3, and targets of two classes.

`progression_any`: fast or slow (Panfilov et al. 2022, section 2.2).

KL >= 2 is the usual definition of radiographic osteoarthritis. Osteophytes of femur and tibia are
pooled by side, as in the code behind the figure; its curve of the lateral joint space narrowing was
drawn from the medial tibial osteophytes by a slip, and is not repeated here. There the score was
the sum of the positive classes' logits, which depends on the logits' arbitrary offset; here it is
that of their probabilities.
"""

OARSI = "oarsi"
"""Name of the target that averages over the six OARSI grades (Zheng et al. 2021, Table 2)."""

AVERAGED_METRICS = ("accuracy", "balanced_accuracy", "quadratic_kappa", "rmse")
"""The metrics that `OARSI` has."""

_OARSI_GRADES = tuple(grade for grade in GRADES if grade != "kl")

Statistics = Callable[[Array], dict[str, Array]]

_log = logging.getLogger(__name__)


class Estimate(TypedDict):
    """A metric of n rows, its 95 % interval, and the standard deviation over the resamples.

    None where it is undefined.
    """

    value: float | None
    low: float | None
    high: float | None
    std: float | None
    n: int


Summary = dict[str, dict[str, Estimate]]
"""{target: {metric: estimate}}."""


class Samples(NamedTuple):
    """The samples of a two-class task: one for each knee and grade that was read.

    Attributes:
        rows: int [m], the row of the table that a sample belongs to.
        scores: float64 [m], 0 to 1, the summed probability of the positive classes.
        positives: bool [m], whether the true grade is among them.
    """

    rows: Array
    scores: Array
    positives: Array


class Scorer(NamedTuple):
    """What scores n rows of a table.

    Attributes:
        subjects: [n], who each row belongs to.
        classes: int [n], the strata of the scheme `class`.
        statistics: weights [r, n] -> {metric: [r]}.
        num_samples: how many values are scored; n where each row is one.
    """

    subjects: Array
    classes: Array
    statistics: Statistics
    num_samples: int


def summarise(
    predictions: pd.DataFrame, num_resamples: int = 1000, seed: int = 0, scheme: str = "subject"
) -> Summary:
    """Scores every grade and two-class task of a predictions table.

    Agreement is that of the predicted class, `g_pred`, and so are accuracy, sensitivity and
    specificity of two classes; `rmse_expected` is that of the mean of the predicted distribution.
    `brier` and `ece` (`knee_jax.metrics.calibration`) tell what the probabilities are worth, the
    second of the predicted class. `oarsi` is the mean over the six OARSI grades, where all were
    predicted. Tasks are scored by the summed probability of their positive classes; a task that
    pools two grades has a sample for each, which resamples keep together, and one that is called
    (`Task.called_from`) has the metrics of two classes as well. Rows where a grade is
    missing are left out for that grade; a target one of whose grades has no labelled row is left
    out altogether, and so are resamples in which a metric is undefined: both are logged.

    With the scheme `class` a grade's knees are drawn within its true classes, a task's within
    positive and negative (of both grades, where two are pooled), and those of `oarsi` within the
    knee's highest OARSI grade.

    Args:
        predictions: the table described in `knee_jax.metrics.predictions`.
        num_resamples: bootstrap resamples behind each interval.
        seed: of the resamples; the result is a function of the table and the arguments.
        scheme: a key of `bootstrap.SCHEMES`.

    Returns:
        {target: {metric: {"value", "low", "high", "std", "n"}}}, ready for strict JSON; grades and
        other targets first, then `oarsi`, then tasks.

    Raises:
        UserError: The table fails `check_predictions`, or the scheme is unknown.
    """
    check_predictions(predictions)
    return estimate(_scorers(predictions), num_resamples, seed, scheme)


def estimate(
    scorers: Iterable[tuple[str, Scorer]],
    num_resamples: int = 1000,
    seed: int = 0,
    scheme: str = "subject",
) -> Summary:
    """Every metric of some scorers with its interval; arguments and result as of `summarise`.

    Args:
        scorers: what is scored, and what scores it.
        num_resamples: bootstrap resamples behind each interval.
        seed: of the resamples, which are the same for scorers of the same rows.
        scheme: a key of `bootstrap.SCHEMES`.
    """
    summary: Summary = {}
    undefined: list[str] = []
    for name, (subjects, classes, statistics, num_samples) in scorers:
        counts = bootstrap.resample_counts(scheme, subjects, classes, num_resamples, seed)
        values = statistics(np.ones((1, len(subjects))))
        replicates = bootstrap.replicate(statistics, counts)
        summary[name] = {
            metric: _estimate(value, replicates[metric], num_samples)
            for metric, (value,) in values.items()
        }
        undefined += [
            f"{name} {metric} ({missing})"
            for metric in values
            if (missing := int(np.isnan(replicates[metric]).sum()))
        ]
    if undefined:
        _log.warning(
            "undefined in some of the %d resamples, which are left out of the intervals: %s",
            *(num_resamples, ", ".join(undefined)),
        )
    return summary


def write_metrics(path: Path | str, metrics: dict[str, Summary]) -> None:
    """Writes `metrics.json`, {split: summary}, as strict JSON, all or nothing."""
    write_text(path, json.dumps(metrics, indent=2, allow_nan=False) + "\n")


def task_samples(table: pd.DataFrame, task: str) -> Samples:
    """The samples of a two-class task, pooled over its grades.

    Args:
        table: a predictions table that has the task's grades.
        task: a key of `TASKS`.

    Returns:
        A sample for each knee and grade that was read, grade after grade.
    """
    grades, lowest, _ = TASKS[task]
    rows, scores, positives = [], [], []
    for grade in grades:
        truth = table[grade].to_numpy(np.int64)
        known = np.flatnonzero(truth != MISSING)
        columns = probability_columns(grade)[lowest:]
        rows.append(known)
        scores.append(table[columns].to_numpy(np.float64)[known].sum(1))
        positives.append(truth[known] >= lowest)
    return Samples(np.concatenate(rows), np.concatenate(scores), np.concatenate(positives))


def _targets(grades: list[str]) -> dict[str, tuple[str, ...]]:
    """The targets that predictions of `grades` have, each with the grades that it needs."""
    targets: dict[str, tuple[str, ...]] = {grade: (grade,) for grade in grades}
    targets |= {OARSI: _OARSI_GRADES} | {name: task.grades for name, task in TASKS.items()}
    return {target: needed for target, needed in targets.items() if set(needed) <= set(grades)}


def _scorers(predictions: pd.DataFrame) -> Iterator[tuple[str, Scorer]]:
    for target, grades in _targets(grades_in(predictions)).items():
        read = predictions[list(grades)].to_numpy(np.int64) != MISSING
        if unread := [grade for grade, known in zip(grades, read.T) if not known.any()]:
            names = "this grade" if unread == [target] else " and ".join(unread)
            _log.warning("%s: no knee has %s; it is not scored", target, names)
            continue
        labelled = predictions[read.any(axis=1)]
        if target in TARGETS:
            yield target, _classes(labelled, target)
        else:
            yield target, _average(labelled) if target == OARSI else task_scorer(labelled, target)


def _estimate(value: float, replicates: Array, num_rows: int) -> Estimate:
    low, high = bootstrap.interval(replicates)
    return {
        "value": _or_none(value),
        "low": _or_none(low),
        "high": _or_none(high),
        "std": _or_none(bootstrap.deviation(replicates)),
        "n": num_rows,
    }


def _classes(labelled: pd.DataFrame, target: str) -> Scorer:
    """A grade or other target: the predicted class, and what the probabilities are worth."""
    truth = labelled[target].to_numpy(np.int64)
    prediction = labelled[f"{target}_pred"].to_numpy(np.int64)
    probabilities = labelled[probability_columns(target)].to_numpy(np.float64)
    squared_errors = (probabilities @ np.arange(NUM_CLASSES[target]) - truth) ** 2
    called = _called(truth, prediction, probabilities, _metrics_of(target))
    two_classes = task_scorer(labelled, target) if target in TASKS else None

    def statistics(weights: Array) -> dict[str, Array]:
        weights = weights.astype(np.float64)  # once, and not for each metric
        agreeing, believed = called(weights)
        values = dict(agreeing)
        if target in GRADES:
            values["rmse_expected"] = np.sqrt(weights @ squared_errors / weights.sum(-1))
        if two_classes:
            values |= two_classes.statistics(weights)
        return values | believed

    return Scorer(subjects_of(labelled), truth, statistics, len(labelled))


def _metrics_of(target: str) -> Mapping[str, Callable[[Array], Array]]:
    if target in GRADES:
        return agreement.METRICS
    two = NUM_CLASSES[target] == 2
    return agreement.TWO_CLASS_METRICS if two else agreement.NOMINAL_METRICS


def _called(
    truth: Array,
    prediction: Array,
    probabilities: Array,
    metrics: Mapping[str, Callable[[Array], Array]],
) -> Callable[[Array], tuple[dict[str, Array], dict[str, Array]]]:
    """Weights [r, m] of samples → their agreement, and what their probabilities are worth."""
    indicators = agreement.pair_indicators(truth, prediction, probabilities.shape[1])
    confidence = probabilities[np.arange(len(truth)), prediction]

    def values(weights: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        confusion = agreement.confusion_matrices(weights, indicators)
        right = prediction == truth
        believed = {
            "brier": calibration.brier(probabilities, truth, weights),
            "ece": calibration.expected_calibration_error(confidence, right, weights),
        }
        return {name: metric(confusion) for name, metric in metrics.items()}, believed

    return values


def _average(labelled: pd.DataFrame) -> Scorer:
    """The mean over the six OARSI grades, all of them on the same resample."""
    truth = labelled[list(_OARSI_GRADES)].to_numpy(np.int64)
    # A knee where a grade is missing falls into no cell of that grade's confusion matrix.
    indicators = []
    for grade, known in zip(_OARSI_GRADES, truth.T != MISSING, strict=True):
        knees = labelled[known]
        cells = np.zeros((len(labelled), NUM_CLASSES[grade] ** 2))
        cells[known] = agreement.pair_indicators(
            knees[grade].to_numpy(), knees[f"{grade}_pred"].to_numpy(), NUM_CLASSES[grade]
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


def task_scorer(labelled: pd.DataFrame, task: str) -> Scorer:
    """What scores a two-class task, a key of `TASKS`, of a table's knees that were read."""
    rows, scores, positives = task_samples(labelled, task)
    grades, lowest, called_from = TASKS[task]
    truth = labelled[list(grades)].to_numpy(np.int64)
    # Missing, negative or positive, of each grade; so that a knee's samples stay together.
    states = np.where(truth == MISSING, 0, 1 + (truth >= lowest))
    called = None
    if called_from is not None:
        calls = (scores >= called_from).astype(np.int64)
        both = np.stack([1 - scores, scores], axis=1)
        called = _called(positives.astype(np.int64), calls, both, agreement.TWO_CLASS_METRICS)

    def statistics(weights: Array) -> dict[str, Array]:
        areas = discrimination.areas(scores, positives, weights[:, rows])
        values = dict(zip(("roc_auc", "average_precision"), areas, strict=True))
        if called is None:
            return values
        agreeing, believed = called(weights[:, rows].astype(np.float64))
        return agreeing | values | believed

    classes = states @ 3 ** np.arange(len(grades))
    return Scorer(subjects_of(labelled), classes, statistics, len(rows))


def _or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
