"""From a predictions table to every metric with its 95 % interval."""

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

import numpy as np
import pandas as pd

from knee_jax.grades import MISSING, NUM_CLASSES
from knee_jax.metrics import agreement, bootstrap, discrimination
from knee_jax.metrics.predictions import (
    check_predictions,
    grades_in,
    probability_columns,
    subjects_of,
)

Array = np.ndarray

TASKS = {"kl_ge_2": ("kl", 2)}
"""Two-class tasks read off a grade: name -> (grade, the lowest class that is positive).

KL >= 2 is the usual definition of radiographic osteoarthritis.
"""

Statistics = Callable[[Array], dict[str, Array]]

_log = logging.getLogger(__name__)


class Estimate(TypedDict):
    """A metric with its 95 % interval over n rows; None where it is undefined."""

    value: float | None
    low: float | None
    high: float | None
    n: int


Summary = dict[str, dict[str, Estimate]]
"""{target: {metric: estimate}}."""


def summarise(
    predictions: pd.DataFrame, num_resamples: int = 1000, seed: int = 0, scheme: str = "subject"
) -> Summary:
    """Scores every grade and two-class task of a predictions table.

    Agreement is that of the predicted grade, `g_pred`; `rmse_expected` is that of the mean of the
    predicted distribution. The score of the task KL >= 2 is p2 + p3 + p4. Rows where a grade is
    missing are left out for that grade; a target without any labelled row is left out altogether,
    and so are resamples in which a metric is undefined: both are logged.

    Args:
        predictions: the table described in `knee_jax.metrics.predictions`.
        num_resamples: bootstrap resamples behind each interval.
        seed: of the resamples; the result is a function of the table and the arguments.
        scheme: a key of `bootstrap.SCHEMES`.

    Returns:
        {target: {metric: {"value", "low", "high", "n"}}}, ready for strict JSON.

    Raises:
        UserError: The table fails `check_predictions`, or the scheme is unknown.
    """
    check_predictions(predictions)
    grades = grades_in(predictions)
    targets = [*grades, *(task for task, (grade, _) in TASKS.items() if grade in grades)]
    summary: Summary = {}
    for target in targets:
        grade, _ = TASKS.get(target, (target, 0))
        labelled = predictions[predictions[grade] != MISSING]
        if labelled.empty:
            _log.warning("%s: no knee has this grade; it is not scored", target)
            continue
        classes, statistics = (_task if target in TASKS else _grade)(labelled, target)
        counts = bootstrap.resample_counts(
            scheme, subjects_of(labelled), classes, num_resamples, seed
        )
        values = statistics(np.ones((1, len(labelled))))
        replicates = bootstrap.replicate(statistics, counts)
        summary[target] = {
            metric: _estimate(f"{target}: {metric}", value, replicates[metric], len(labelled))
            for metric, (value,) in values.items()
        }
    return summary


def write_metrics(path: Path | str, metrics: dict[str, Summary]) -> None:
    """Writes `metrics.json`, {split: summary}, as strict JSON."""
    text = json.dumps(metrics, indent=2, allow_nan=False)
    Path(path).write_text(text + "\n", encoding="utf-8")


def task_scores(labelled: pd.DataFrame, task: str) -> tuple[Array, Array]:
    """Score and truth of a two-class task.

    Args:
        labelled: rows of a predictions table whose grade is known.
        task: a key of `TASKS`.

    Returns:
        Scores float64 [n] from 0 to 1, the summed probability of the positive classes; and bool
        [n], whether the true grade is among them.
    """
    grade, lowest = TASKS[task]
    scores = labelled[probability_columns(grade)[lowest:]].to_numpy(np.float64).sum(1)
    return scores, labelled[grade].to_numpy(np.int64) >= lowest


def _estimate(name: str, value: float, replicates: Array, num_rows: int) -> Estimate:
    low, high = bootstrap.interval(replicates)
    if undefined := int(np.isnan(replicates).sum()):
        _log.warning(
            "%s is undefined in %d of %d resamples, which are left out of its interval",
            *(name, undefined, len(replicates)),
        )
    return {
        "value": _or_none(value),
        "low": _or_none(low),
        "high": _or_none(high),
        "n": num_rows,
    }


def _grade(labelled: pd.DataFrame, grade: str) -> tuple[Array, Statistics]:
    """The true classes [n], and the metrics of agreement as functions of weights [r, n]."""
    truth = labelled[grade].to_numpy(np.int64)
    prediction = labelled[f"{grade}_pred"].to_numpy(np.int64)
    indicators = agreement.pair_indicators(truth, prediction, NUM_CLASSES[grade])
    probabilities = labelled[probability_columns(grade)].to_numpy(np.float64)
    squared_errors = (probabilities @ np.arange(NUM_CLASSES[grade]) - truth) ** 2

    def statistics(weights: Array) -> dict[str, Array]:
        confusion = agreement.confusion_matrices(weights, indicators)
        values = {name: metric(confusion) for name, metric in agreement.METRICS.items()}
        values["rmse_expected"] = np.sqrt(weights @ squared_errors / weights.sum(-1))
        return values

    return truth, statistics


def _task(labelled: pd.DataFrame, task: str) -> tuple[Array, Statistics]:
    """The true classes [n], and the metrics of discrimination as functions of weights [r, n]."""
    scores, positives = task_scores(labelled, task)

    def statistics(weights: Array) -> dict[str, Array]:
        return {
            "roc_auc": discrimination.roc_auc(scores, positives, weights),
            "average_precision": discrimination.average_precision(scores, positives, weights),
        }

    return positives, statistics


def _or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
