"""From a predictions table to every metric with its 95 % interval."""

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


def summarise(
    predictions: pd.DataFrame, num_resamples: int = 1000, seed: int = 0, scheme: str = "subject"
) -> Summary:
    """Score every grade and two-class task of a predictions table.

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
        seed: Seed of the resamples; the result is a function of the table and the arguments.
        scheme: a key of `bootstrap.SCHEMES`.

    Returns:
        {target: {metric: {"value", "low", "high", "std", "n"}}}, ready for strict JSON; grades and
        other targets first, then `oarsi`, then dichotomies.

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
        seed: Seed of the resamples, which are the same for scorers of the same rows.
        scheme: a key of `bootstrap.SCHEMES`.
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
    """Write `metrics.json`, {split: summary}, as strict JSON, all or nothing."""
    write_text(path, json.dumps(metrics, indent=2, allow_nan=False) + "\n")


def _needed(names: list[str]) -> dict[str, tuple[str, ...]]:
    """Return what predictions of some targets can be scored by, with the targets that it needs."""
    needed: dict[str, tuple[str, ...]] = {name: (name,) for name in names}
    needed |= {OARSI: OARSI_GRADES}
    needed |= {name: each.targets for name, each in targets.dichotomies().items()}
    return {name: of for name, of in needed.items() if set(of) <= set(names)}


def _scorers(predictions: pd.DataFrame) -> Iterator[tuple[str, Scorer]]:
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
