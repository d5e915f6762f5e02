"""Scores of a dichotomy in subgroups of knees: by KL grade at baseline, sex, age, BMI and site."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from knee_jax import targets
from knee_jax.metrics import endpoints
from knee_jax.metrics.scoring import Scorer
from knee_jax.metrics.summary import Estimate, estimate
from knee_jax.targets.kinds import MISSING, Dichotomy

METRICS = ("average_precision", "roc_auc")
"""Metrics of a subgroup. The first also depends on its share of positive knees."""

UNKNOWN = "unknown"
"""Name of the subgroup of knees whose attribute is unknown."""

_AGES, _BMIS = (55, 65), (25, 30)


class Subgroup(NamedTuple):
    """Some knees of a table, and how well a dichotomy is predicted in them.

    Attributes:
        attribute: Column that defines the subgroup, such as `sex`.
        name: Value of the attribute, such as `F`.
        n: Number of its knees that have been read.
        positive: Number of these that are positive.
        scores: Estimate of each of `METRICS`; None if all knees are of one class.
    """

    attribute: str
    name: str
    n: int
    positive: int
    scores: dict[str, Estimate] | None


def divide(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Return the subgroup of each row of a predictions table, by attribute.

    Args:
        table: Table with any of the columns `metrics.predictions.DESCRIPTION`, and `site`.

    Returns:
        The known attributes of the table, each as a series of ordered categories, of which
        `UNKNOWN` is the last.
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
    endpoint: Dichotomy,
    num_resamples: int = 1000,
    seed: int = 0,
    scheme: str = "subject",
) -> list[Subgroup]:
    """Score a dichotomy in every subgroup of a table that has a knee.

    Subgroups of one class are listed without scores.

    Args:
        table: Predictions table that has the dichotomy's single target.
        endpoint: Dichotomy to score.
        num_resamples: Number of bootstrap resamples behind each interval, drawn within the
            subgroup.
        seed: Random seed of the resamples.
        scheme: Key of `bootstrap.SCHEMES`.
    """
    (target,) = targets.get_all(endpoint.targets)
    read = table[target.is_known(table[target.name])].reset_index(drop=True)
    found = []
    for attribute, group in divide(read).items():
        for name in group.cat.categories:
            knees = read[group == name]
            if knees.empty:
                continue
            positive = int(endpoints.dichotomy_samples(knees, endpoint).positives.sum())
            scores = None
            if 0 < positive < len(knees):
                scorers = [(f"{endpoint.name}, {attribute} {name}", _scorer(knees, endpoint))]
                (scores,) = estimate(scorers, num_resamples, seed, scheme).values()
            found.append(Subgroup(attribute, name, len(knees), positive, scores))
    return found


def tidy(subgroups: Sequence[Subgroup]) -> pd.DataFrame:
    """Return a long table: attribute, group, n, positive, metric, value, low, high, std."""
    identity = ["attribute", "group", "n", "positive", "metric"]
    rows = [
        dict(zip(identity, (*each[:4], metric))) | ({**each.scores[metric]} if each.scores else {})
        for each in subgroups
        for metric in METRICS
    ]
    return pd.DataFrame(rows, columns=[*identity, "value", "low", "high", "std"])


def _scorer(knees: pd.DataFrame, endpoint: Dichotomy) -> Scorer:
    """Return the dichotomy's scorer, with `METRICS` alone."""
    full = endpoints.dichotomy(endpoint, knees)

    def statistics(weights: np.ndarray) -> dict[str, np.ndarray]:
        values = full.statistics(weights)
        return {metric: values[metric] for metric in METRICS}

    return full._replace(statistics=statistics)


def _binned(values: pd.Series, edges: Sequence[int]) -> pd.Series:
    """Group numbers: below the first edge, from one edge to the next, and from the last on."""
    names = [f"< {edges[0]}"]
    names += [f"{low} to < {high}" for low, high in itertools.pairwise(edges)]
    names += [f">= {edges[-1]}"]
    numbers = _numbers(values)
    return _named(
        names, pd.Series(np.digitize(numbers, edges), values.index).where(~numbers.isna())
    )


def _named(names: Sequence[str], places: pd.Series) -> pd.Series:
    """Return the names at `places`; `UNKNOWN` where a place is missing."""
    known = places.isin(range(len(names)))
    codes = places.where(known, len(names)).to_numpy(np.int64)
    every = [*names, UNKNOWN]
    categories = pd.CategoricalDtype(every, ordered=True)
    return pd.Series(np.array(every)[codes], places.index).astype(categories)


def _places(names: Sequence[str]) -> dict[str, int]:
    return {name: place for place, name in enumerate(names)}


def _numbers(values: pd.Series) -> pd.Series:
    return pd.to_numeric(values, errors="coerce").astype(float)
