"""Paired comparison of two models on the same knees: differences of metrics, and tests of them."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import norm

from knee_jax import targets
from knee_jax.errors import UserError
from knee_jax.metrics import bootstrap, endpoints
from knee_jax.metrics.predictions import IDENTITY, targets_in
from knee_jax.metrics.summary import scorers_of
from knee_jax.targets.kinds import Classes

Array = np.ndarray


class Pair(NamedTuple):
    """Predictions of the same knees by two models, row by row.

    Attributes:
        first, second: Predictions tables, of equal length, order and labels.
        only_first, only_second: Numbers of knees that only one of them predicted.
    """

    first: pd.DataFrame
    second: pd.DataFrame
    only_first: int
    only_second: int


class Difference(NamedTuple):
    """Metric of two models, and the second minus the first, with its 95 % interval.

    Attributes:
        target: Target or dichotomy.
        metric: Metric.
        first, second: Values of the two models.
        difference: Second minus first.
        low, high: Interval of the difference, by subject, both models on the same resamples.
        n: Number of knees.
        test: Test of the difference, '' if there is none.
        p: Its two-sided p-value, NaN if there is none.
    """

    target: str
    metric: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    n: int
    test: str = ""
    p: float = float("nan")


def pair(first: pd.DataFrame, second: pd.DataFrame) -> Pair:
    """Join two predictions tables by subject, side and visit, and by cohort if both have it.

    Raises:
        UserError: A table repeats a knee, they have no knee or target in common, or a knee has
            different labels in them.
    """
    identity = [*IDENTITY, *(["cohort"] if {"cohort"} <= {*first} & {*second} else [])]
    keys = []
    for table, name in ((first, "first"), (second, "second")):
        key = pd.MultiIndex.from_frame(table[identity].astype(str))
        if key.has_duplicates:
            raise UserError(f"the {name} table has a knee twice: {key[key.duplicated()][0]}")
        keys.append(key)
    common = keys[0].intersection(keys[1], sort=False)
    if common.empty:
        raise UserError("the two tables have no knee in common: compare predictions of one part")
    rows = [key.get_indexer(common) for key in keys]
    a, b = (t.iloc[r].reset_index(drop=True) for t, r in zip((first, second), rows, strict=True))
    names = [name for name in targets_in(a) if name in targets_in(b)]
    if not names:
        raise UserError("the two tables predict no target in common")
    for target in targets.get_all(names):
        known = target.is_known(a[target.name]) | target.is_known(b[target.name])
        one, other = (table[target.name].to_numpy(np.float64) for table in (a, b))
        # A table has six digits of a value.
        wrong = known & ~np.isclose(one, other, rtol=1e-5, equal_nan=True)
        if wrong.any():
            place = int(np.flatnonzero(wrong)[0])
            raise UserError(
                f"{int(wrong.sum())} knees have different labels of {target.name} in the two "
                f"tables, the first of them {common[place]}"
            )
    return Pair(a, b, len(first) - len(a), len(second) - len(b))


def compare(found: Pair, num_resamples: int = 1000, seed: int = 0) -> list[Difference]:
    """Compare two models by every metric of the targets and endpoints that both have.

    Intervals are percentiles of the bootstrap by subject, in which both models are scored on the
    same resamples. Accuracy is also tested by McNemar's exact test, and the area under the ROC
    curve by DeLong's; both take knees for independent, which the two knees of a subject are not.

    Args:
        found: Predictions of the two models.
        num_resamples: Number of bootstrap resamples.
        seed: Random seed of the resamples.
    """
    differences = []
    others = dict(scorers_of(found.second))
    for name, one in scorers_of(found.first):
        if name not in others:
            continue
        other = others[name]
        if len(one.subjects) != len(other.subjects):
            continue  # An endpoint that pools several targets, of which one table lacks some.
        counts = list(
            bootstrap.resample_counts("subject", one.subjects, one.strata, num_resamples, seed)
        )
        whole = np.ones((1, len(one.subjects)))
        values = [scorer.statistics(whole) for scorer in (one, other)]
        replicates = [bootstrap.replicate(s.statistics, iter(counts)) for s in (one, other)]
        tests = dict(_tests(found, name))
        for metric in values[0]:
            low, high = bootstrap.interval(replicates[1][metric] - replicates[0][metric])
            a, b = (float(value[metric][0]) for value in values)
            test, p = tests.get(metric, ("", float("nan")))
            differences.append(
                Difference(name, metric, a, b, b - a, low, high, one.num_samples, test, p)
            )
    return differences


def _tests(found: Pair, name: str) -> Iterator[tuple[str, tuple[str, float]]]:
    """Yield the tests of a target or dichotomy, by metric."""
    target = targets.all_targets().get(name)
    if isinstance(target, Classes):
        known = target.is_known(found.first[name])
        right = [
            (t[f"{name}_pred"] == t[name])[known].to_numpy() for t in (found.first, found.second)
        ]
        yield "accuracy", ("McNemar", mcnemar(*right))
    endpoint = targets.dichotomies().get(name)
    if endpoint is not None and len(endpoint.targets) == 1:
        one, other = (endpoints.dichotomy_samples(t, endpoint) for t in (found.first, found.second))
        if 0 < one.positives.sum() < len(one.positives):
            yield "roc_auc", ("DeLong", delong(one.scores, other.scores, one.positives))


def mcnemar(first: Array, second: Array) -> float:
    """Return the exact two-sided p-value that two models are right equally often (McNemar 1947).

    Args:
        first: Whether the first model is right, bool [n].
        second: Whether the second is, on the same knees.
    """
    from statsmodels.stats.contingency_tables import mcnemar as test

    table = [[(first & second).sum(), (first & ~second).sum()]]
    table += [[(~first & second).sum(), (~first & ~second).sum()]]
    return float(test(np.array(table), exact=True).pvalue)


def delong(first: Array, second: Array, positives: Array) -> float:
    """Return the two-sided p-value that two areas under ROC curves are equal (DeLong et al. 1988).

    Args:
        first: Scores of the first model, [n].
        second: Scores of the second, on the same knees.
        positives: Whether each knee is positive, bool [n]; there are both kinds.
    """
    areas, of_positives, of_negatives = [], [], []
    for scores in (first, second):
        above = _shares_below(scores[positives], scores[~positives])
        below = 1 - _shares_below(scores[~positives], scores[positives])
        areas.append(above.mean())
        of_positives.append(above)
        of_negatives.append(below)
    # The variance of the difference is that of the differences of each knee's own component.
    variance = 0.0
    for parts in (of_positives, of_negatives):
        difference = parts[1] - parts[0]
        if len(difference) > 1:
            variance += difference.var(ddof=1) / len(difference)
    gap = areas[1] - areas[0]
    if variance <= 0:
        return 1.0 if gap == 0 else 0.0
    return float(2 * norm.sf(abs(gap) / np.sqrt(variance)))


def _shares_below(scores: Array, others: Array) -> Array:
    """Return for each score the share of others that are below it; equal ones count half."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, scores, "left")
    below_or_equal = np.searchsorted(ordered, scores, "right")
    return (below + below_or_equal) / (2 * len(others))
