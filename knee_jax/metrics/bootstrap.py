"""Bootstrap resamples as counts, and percentile intervals from them.

A resample is the vector of how often each row was drawn, so that its replicates are metrics of
weighted samples. Counts come in chunks that keep memory bounded; the chunking does not change them.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from knee_jax.errors import UserError

Array = np.ndarray

PERCENTILES = (2.5, 97.5)
"""Bounds of a 95 % interval.

The code behind the papers takes 2 and 97, which does not span 95 % (an integer division of 5 by 2).
"""

SCHEMES = {
    "subject": "subjects drawn with replacement, with all knees and visits of a subject together",
    "class": "knees drawn with replacement within each true class, as the papers did",
}
"""Schemes of resampling rows.

Knees of one subject resemble each other, so drawing knees one by one makes intervals too narrow
(Field & Welsh 2007): `subject` is the default, `class` is for comparison with the papers.
"""

_CHUNK_ELEMENTS = 2**22


def subjects_of(table: pd.DataFrame) -> np.ndarray:
    """Return each row's cohort and subject, str [n]: cohorts may share subject numbers."""
    subjects = table["subject"].astype(str)
    if "cohort" in table.columns:
        subjects = table["cohort"].astype(str) + "/" + subjects
    return subjects.to_numpy(str)


def describe(num_resamples: int = 1000, seed: int = 0, scheme: str = "subject") -> str:
    """Return one sentence for readers that says how the intervals were made."""
    low, high = PERCENTILES
    return (
        f"95 % intervals are the {low} and {high} percentiles of {num_resamples} bootstrap "
        f"resamples: {SCHEMES[scheme]} (seed {seed})."
    )


def resample_counts(
    scheme: str, subjects: Array, classes: Array, num_resamples: int, seed: int
) -> Iterator[Array]:
    """Draw resamples by the named scheme.

    Args:
        scheme: Key of `SCHEMES`.
        subjects: Subject of each row, [n].
        classes: True class of each row, [n].
        num_resamples: Total number of resamples.
        seed: Random seed of the draws.

    Returns:
        Chunks of counts, int64 [r, n], num_resamples rows in total.

    Raises:
        UserError: The scheme is unknown.
    """
    if scheme == "subject":
        return cluster_counts(subjects, num_resamples, seed)
    if scheme == "class":
        return stratified_counts(classes, num_resamples, seed)
    raise UserError(f"unknown bootstrap scheme {scheme!r}; choose one of {', '.join(SCHEMES)}")


def cluster_counts(clusters: Array, num_resamples: int, seed: int) -> Iterator[Array]:
    """Resample whole clusters with replacement, as many clusters as there are.

    Args:
        clusters: Cluster (subject) of each row, [n].
        num_resamples: Total number of resamples.
        seed: Random seed of the draws.

    Yields:
        Counts of each row, int64 [r, n]; rows of one cluster occur equally often.
    """
    values, codes = np.unique(clusters, return_inverse=True)
    rng = np.random.default_rng(seed)
    for size in _chunk_sizes(num_resamples, len(codes)):
        yield _draw(rng, size, len(values))[:, codes]


def stratified_counts(strata: Array, num_resamples: int, seed: int) -> Iterator[Array]:
    """Resample rows with replacement within each stratum, whose size is unchanged.

    Args:
        strata: Stratum (true class) of each row, [n].
        num_resamples: Total number of resamples.
        seed: Random seed of the draws.

    Yields:
        Counts of each row, int64 [r, n].
    """
    members = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    # One stream per stratum, since otherwise the chunk size would change the draws.
    streams = np.random.default_rng(seed).spawn(len(members))
    for size in _chunk_sizes(num_resamples, len(strata)):
        counts = np.empty((size, len(strata)), np.int64)
        for stream, rows in zip(streams, members, strict=True):
            counts[:, rows] = _draw(stream, size, len(rows))
        yield counts


def replicate(
    statistics: Callable[[Array], dict[str, Array]], counts: Iterator[Array]
) -> dict[str, Array]:
    """Evaluate statistics of weighted samples on every resample.

    Args:
        statistics: Function from weights [r, n] to {name: [r]}.
        counts: Chunks of resamples, [r, n].

    Returns:
        Replicates, {name: float64 [num_resamples]}.
    """
    chunks = [statistics(chunk) for chunk in counts]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def interval(replicates: Array) -> tuple[float, float]:
    """Return the 95 % percentile interval of replicates [r], without undefined ones (NaN).

    It is NaN if none is defined.
    """
    defined = replicates[~np.isnan(replicates)]
    if defined.size == 0:
        return float("nan"), float("nan")
    low, high = np.percentile(defined, PERCENTILES)
    return float(low), float(high)


def deviation(replicates: Array) -> float:
    """Return the standard deviation of replicates [r] (divisor r), without undefined ones (NaN).

    Panfilov et al. 2022 print this after a value and a plus-minus sign, for the scheme `class`.
    """
    defined = replicates[~np.isnan(replicates)]
    return float(defined.std()) if defined.size else float("nan")


def _draw(rng: np.random.Generator, size: int, num: int) -> Array:
    """Return how often each of `num` units is drawn in `num` draws, int64 [size, num]."""
    picks = rng.integers(num, size=(size, num)) + num * np.arange(size)[:, None]
    return np.bincount(picks.ravel(), minlength=size * num).reshape(size, num)


def _chunk_sizes(num_resamples: int, num_rows: int) -> Iterator[int]:
    largest = max(1, _CHUNK_ELEMENTS // max(1, num_rows))
    for start in range(0, num_resamples, largest):
        yield min(largest, num_resamples - start)
