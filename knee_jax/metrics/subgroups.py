"""A two-class task in subgroups of knees: by KL grade at baseline, sex, age, BMI and site."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from knee_jax.grades import MISSING
from knee_jax.metrics.summary import TASKS, Estimate, Scorer, estimate, task_samples, task_scorer

METRICS = ("average_precision", "roc_auc")
"""What a subgroup is scored by. The first depends on its share of positive knees as well."""

UNKNOWN = "unknown"
"""The subgroup of the knees of which an attribute is not known."""

_AGES, _BMIS = (55, 65), (25, 30)


class Subgroup(NamedTuple):
    """Some knees of a table, and how a task goes with them.

    Attributes:
        attribute: by what they were chosen, such as `sex`.
        name: which of it they have, such as `F`.
        n: how many there are that have been read.
        positive: how many of these are positive.
        scores: of each of `METRICS`; None of both where all knees are of one class.
    """

    attribute: str
    name: str
    n: int
    positive: int
    scores: dict[str, Estimate] | None


def divide(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Attribute → the subgroup of each row of a predictions table.

    Args:
        table: with any of the columns `metrics.predictions.DESCRIPTION`, and `site`.

    Returns:
        The attributes of which the table knows something, each a series of ordered categories, of
        which `UNKNOWN` is the last.
    """
    groups = {}
    if "kl_baseline" in table:
        grade = _numbers(table["kl_baseline"])
        groups["kl_baseline"] = _named(
            [f"KL {value}" for value in range(5)], grade.where(grade != MISSING)
        )
    if "sex" in table:
        names = sorted({str(value) for value in table["sex"].dropna()} - {""})
        groups["sex"] = _named(names, table["sex"].map(_places(names)))
    if "age" in table:
        groups["age"] = _binned(table["age"], _AGES)
    if "bmi" in table:
        groups["bmi"] = _binned(table["bmi"], _BMIS)
    if "site" in table:
        names = sorted({str(value) for value in table["site"].dropna()} - {""})
        groups["site"] = _named(names, table["site"].map(_places(names)))
    return {name: values for name, values in groups.items() if (values != UNKNOWN).any()}


def score(
    table: pd.DataFrame,
    task: str,
    num_resamples: int = 1000,
    seed: int = 0,
    scheme: str = "subject",
) -> list[Subgroup]:
    """The task in every subgroup of a table that has a knee, those of one class included.

    Args:
        table: a predictions table that has the task's one target.
        task: a key of `TASKS`.
        num_resamples: bootstrap resamples behind each interval, drawn within the subgroup.
        seed: of the resamples.
        scheme: a key of `bootstrap.SCHEMES`.
    """
    (target,) = TASKS[task].grades
    read = table[table[target] != MISSING].reset_index(drop=True)
    found = []
    for attribute, group in divide(read).items():
        for name in group.cat.categories:
            knees = read[group == name]
            if knees.empty:
                continue
            positive = int(task_samples(knees, task).positives.sum())
            scores = None
            if 0 < positive < len(knees):
                scorers = [(f"{task}, {attribute} {name}", _scorer(knees, task))]
                (scores,) = estimate(scorers, num_resamples, seed, scheme).values()
            found.append(Subgroup(attribute, name, len(knees), positive, scores))
    return found


def tidy(subgroups: Sequence[Subgroup]) -> pd.DataFrame:
    """As a long table: attribute, group, n, positive, metric, value, low, high, std."""
    identity = ["attribute", "group", "n", "positive", "metric"]
    rows = [
        dict(zip(identity, (*each[:4], metric))) | ({**each.scores[metric]} if each.scores else {})
        for each in subgroups
        for metric in METRICS
    ]
    return pd.DataFrame(rows, columns=[*identity, "value", "low", "high", "std"])


def _scorer(knees: pd.DataFrame, task: str) -> Scorer:
    """That of the task, with `METRICS` alone."""
    whole = task_scorer(knees, task)

    def statistics(weights: np.ndarray) -> dict[str, np.ndarray]:
        values = whole.statistics(weights)
        return {metric: values[metric] for metric in METRICS}

    return whole._replace(statistics=statistics)


def _binned(values: pd.Series, edges: Sequence[int]) -> pd.Series:
    """Groups of numbers: below the first edge, from one to the next, and from the last on."""
    names = [f"< {edges[0]}"]
    names += [f"{low} to < {high}" for low, high in itertools.pairwise(edges)]
    names += [f">= {edges[-1]}"]
    numbers = _numbers(values)
    return _named(
        names, pd.Series(np.digitize(numbers, edges), values.index).where(~numbers.isna())
    )


def _named(names: Sequence[str], places: pd.Series) -> pd.Series:
    """The names at `places`; `UNKNOWN` where that is none."""
    known = places.isin(range(len(names)))
    codes = places.where(known, len(names)).to_numpy(np.int64)
    every = [*names, UNKNOWN]
    categories = pd.CategoricalDtype(every, ordered=True)
    return pd.Series(np.array(every)[codes], places.index).astype(categories)


def _places(names: Sequence[str]) -> dict[str, int]:
    return {name: place for place, name in enumerate(names)}


def _numbers(values: pd.Series) -> pd.Series:
    return pd.to_numeric(values, errors="coerce").astype(float)
