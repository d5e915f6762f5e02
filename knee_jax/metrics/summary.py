"""All metrics of a predictions table with their 95 % intervals."""

import json
import logging
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypedDict

import numpy as np
import pandas as pd

from knee_jax import targets
from knee_jax.files import write_text
from knee_jax.metrics import bootstrap, endpoints
from knee_jax.metrics.predictions import check_predictions, targets_in
from knee_jax.metrics.scoring import Scorer
from knee_jax.targets.grades import OARSI, OARSI_GRADES

Array = np.ndarray

_log = logging.getLogger(__name__)


class Estimate(TypedDict):
    """Metric of n rows, its 95 % interval, and its standard deviation over the resamples.

    Undefined values are None.
    """

    value: float | None
    low: float | None
    high: float | None
    std: float | None
    n: int


Summary = dict[str, dict[str, Estimate]]
"""Estimates, {target: {metric: estimate}}."""


def summarise(
    predictions: pd.DataFrame, num_resamples: int = 1000, seed: int = 0, scheme: str = "subject"
) -> Summary:
    """Score every target and dichotomy of a predictions table.

    Agreement is that of the predicted class, `g_pred`, and so are accuracy, sensitivity and
    specificity of two classes; `rmse_expected` is that of the mean of the predicted distribution.
    `brier` and `ece` (`knee_jax.metrics.calibration`) score the probabilities, `ece` that of the
    predicted class. `oarsi` is the mean over the six OARSI grades, if all were predicted.
    Dichotomies are scored by the summed probability of their positive classes; one that pools two
    grades has a sample for each, which resamples keep together, and one with a threshold
    (`Dichotomy.threshold`) also has the metrics of two classes. Rows where a grade is missing are
    left out for that grade; a target or dichotomy one of whose grades has no labelled row is left
    out altogether, and so are resamples in which a metric is undefined: both are logged.

    With the scheme `class` a grade's knees are drawn within its true classes, those of a dichotomy
    within positive and negative (of both grades, if two are pooled), and those of `oarsi` within
    the knee's highest OARSI grade.

    Args:
        predictions: Predictions table, described in `knee_jax.metrics.predictions`.
        num_resamples: Number of bootstrap resamples behind each interval.
        seed: Random seed of the resamples; the result is a function of the table and the arguments.
        scheme: Key of `bootstrap.SCHEMES`.

    Returns:
        Estimates, {target: {metric: {"value", "low", "high", "std", "n"}}}, ready for strict JSON;
        grades and other targets first, then `oarsi`, then dichotomies.

    Raises:
        UserError: The table fails `check_predictions`, or the scheme is unknown.
    """
    check_predictions(predictions)
    return estimate(scorers_of(predictions), num_resamples, seed, scheme)


def estimate(
    scorers: Iterable[tuple[str, Scorer]],
    num_resamples: int = 1000,
    seed: int = 0,
    scheme: str = "subject",
) -> Summary:
    """Estimate every metric of some scorers with its interval; see `summarise`.

    Args:
        scorers: Pairs of the name of what is scored, and its scorer.
        num_resamples: Number of bootstrap resamples behind each interval.
        seed: Random seed of the resamples, which are the same for scorers of the same rows.
        scheme: Key of `bootstrap.SCHEMES`.
    """
    summary: Summary = {}
    undefined: list[str] = []
    for name, (subjects, strata, statistics, num_samples) in scorers:
        counts = bootstrap.resample_counts(scheme, subjects, strata, num_resamples, seed)
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
    """Write `metrics.json`, {split: summary}, as strict JSON, atomically."""
    write_text(path, json.dumps(metrics, indent=2, allow_nan=False) + "\n")


def _needed(names: list[str]) -> dict[str, tuple[str, ...]]:
    """Return all that predictions of some targets allow to score, with the targets needed."""
    needed: dict[str, tuple[str, ...]] = {name: (name,) for name in names}
    needed |= {OARSI: OARSI_GRADES}
    needed |= {name: each.targets for name, each in targets.dichotomies().items()}
    return {name: of for name, of in needed.items() if set(of) <= set(names)}


def scorers_of(predictions: pd.DataFrame) -> Iterator[tuple[str, Scorer]]:
    """Yield the scorers of a predictions table, by the name of what is scored; see `summarise`."""
    for name, needed in _needed(targets_in(predictions)).items():
        labels = [target.is_known(predictions[target.name]) for target in targets.get_all(needed)]
        if unread := [each for each, known in zip(needed, labels) if not known.any()]:
            missing = "this target" if unread == [name] else " and ".join(unread)
            _log.warning("%s: no knee has %s; it is not scored", name, missing)
            continue
        labelled = predictions[np.any(labels, axis=0)]
        if name in targets.all_targets():
            yield name, targets.get(name).scorer(labelled)
        elif name == OARSI:
            yield name, endpoints.oarsi_average(labelled)
        else:
            yield name, endpoints.dichotomy(targets.dichotomies()[name], labelled)


def _estimate(value: float, replicates: Array, num_rows: int) -> Estimate:
    low, high = bootstrap.interval(replicates)
    return {
        "value": _or_none(value),
        "low": _or_none(low),
        "high": _or_none(high),
        "std": _or_none(bootstrap.deviation(replicates)),
        "n": num_rows,
    }


def _or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
