"""What a prediction adds to the grade that readers gave: alone, beside it, and together with it."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from knee_jax.metrics import bootstrap
from knee_jax.metrics.endpoints import dichotomy_samples
from knee_jax.metrics.scoring import ranks
from knee_jax.targets.kinds import MISSING, Dichotomy

Array = np.ndarray

FOLDS = 5
"""Number of parts, by subject, of which each is scored by a regression on the others."""

READ, NETWORK, BOTH = "KL grade that was read", "network", "KL grade and network"

PAIRS = ((READ, NETWORK), (READ, BOTH), (NETWORK, BOTH))
"""Scores that are compared, the second minus the first."""

_TINY = 1e-6


class Value(NamedTuple):
    """Metric of a score, or the difference of two, with its 95 % interval by subject."""

    score: str
    metric: str
    value: float
    low: float
    high: float


class AddedValue(NamedTuple):
    """Result of `added_value`.

    Attributes:
        n, positive: Numbers of knees, and of positive ones.
        values: ROC AUC and average precision of each score.
        differences: Those of `PAIRS`; `score` names both.
    """

    n: int
    positive: int
    values: tuple[Value, ...]
    differences: tuple[Value, ...]


def added_value(
    table: pd.DataFrame, endpoint: Dichotomy, num_resamples: int = 1000, seed: int = 0
) -> AddedValue | None:
    """Compare a network's score of an endpoint with the KL grade that was read at the same visit.

    The grade alone, and the grade together with the logit of the network's score, are logistic
    regressions, each knee's by a fit to the knees of other subjects. Intervals are of a bootstrap
    by subject, with all scores on the same resamples; the regressions are not fitted anew, so that
    the spread of their few coefficients is left out.

    Args:
        table: Predictions table with a column `kl` or `kl_baseline`, -1 where unknown.
        endpoint: Dichotomy of one target of the table.
        num_resamples: Number of bootstrap resamples.
        seed: Random seed of the folds and resamples.

    Returns:
        None without KL grades, or with fewer than `FOLDS` subjects in either class.
    """
    column = next((name for name in ("kl", "kl_baseline") if name in table), None)
    if column is None:
        return None
    samples = dichotomy_samples(table, endpoint)
    grades = pd.to_numeric(table[column], errors="coerce").to_numpy(np.float64)[samples.rows]
    known = np.isfinite(grades) & (grades != MISSING)
    grades, network = grades[known].astype(np.int64), samples.scores[known]
    positives = samples.positives[known]
    subjects = bootstrap.subjects_of(table)[samples.rows[known]]
    if min(len(set(subjects[positives])), len(set(subjects[~positives]))) < FOLDS:
        return None
    levels = (grades[:, None] == np.unique(grades)).astype(np.float64)
    clipped = np.clip(network, _TINY, 1 - _TINY)
    logit = np.log(clipped / (1 - clipped))
    parts = _parts(subjects, positives, seed)
    scores = {
        READ: _regressed(levels, positives, parts),
        NETWORK: network,
        BOTH: _regressed(np.column_stack([levels, logit]), positives, parts),
    }
    return AddedValue(
        len(network),
        int(positives.sum()),
        *_estimates(scores, positives, subjects, num_resamples, seed),
    )


def _parts(subjects: Array, positives: Array, seed: int) -> list[tuple[Array, Array]]:
    from sklearn.model_selection import StratifiedGroupKFold

    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    return list(folds.split(subjects, positives, subjects))


def _regressed(features: Array, positives: Array, parts: list[tuple[Array, Array]]) -> Array:
    """Return each knee's probability by a logistic regression on the other parts, [n]."""
    from sklearn.linear_model import LogisticRegression

    scores = np.empty(len(features))
    for train, held_out in parts:
        fitted = LogisticRegression(C=10.0, max_iter=1000).fit(features[train], positives[train])
        scores[held_out] = fitted.predict_proba(features[held_out])[:, 1]
    return scores


def _estimates(
    scores: Mapping[str, Array], positives: Array, subjects: Array, num_resamples: int, seed: int
) -> tuple[tuple[Value, ...], tuple[Value, ...]]:
    whole = np.ones((1, len(positives)))
    found, drawn = {}, {}
    counts = list(bootstrap.cluster_counts(subjects, num_resamples, seed))
    for name, score in scores.items():
        statistics = ranks(score, positives)
        found[name] = statistics(whole)
        drawn[name] = bootstrap.replicate(statistics, iter(counts))
    values = tuple(
        Value(name, metric, float(found[name][metric][0]), *bootstrap.interval(drawn[name][metric]))
        for name in scores
        for metric in found[name]
    )
    differences = tuple(
        Value(
            f"{second} minus {first}",
            metric,
            float(found[second][metric][0] - found[first][metric][0]),
            *bootstrap.interval(drawn[second][metric] - drawn[first][metric]),
        )
        for first, second in PAIRS
        for metric in found[first]
    )
    return values, differences
