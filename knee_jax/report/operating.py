"""Two-class endpoints at named points of their ROC curves, and what acting on them is worth."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pandas as pd

from knee_jax import targets
from knee_jax.metrics import bootstrap, discrimination, endpoints, summary
from knee_jax.metrics.decision_curve import decision_curve
from knee_jax.metrics.predictions import targets_in
from knee_jax.report import figures
from knee_jax.report.sections import Drawing
from knee_jax.report.tables import METRIC_TITLES, Table, format_interval, format_value
from knee_jax.targets.kinds import Dichotomy

METRICS = ("sensitivity", "specificity", "ppv", "npv")

HALF = 0.5
"""Probability from which a knee is predicted positive where nothing else is said."""


def operating_table(
    tables: Mapping[str, pd.DataFrame],
    shown: str,
    scored: Mapping[str, object],
    num_resamples: int,
    scheme: str,
) -> Table | None:
    """Score endpoints at a probability of one half, and at the point that validation knees choose.

    The latter is Youden's, of the greatest sum of sensitivity and specificity (Youden 1950). It is
    never chosen on the knees that it is scored on.

    Args:
        tables: Predictions table of each part.
        shown: Part that is scored.
        scored: Endpoints that have metrics, by name.
        num_resamples: Number of bootstrap resamples behind each interval.
        scheme: Resampling, a key of `bootstrap.SCHEMES`.

    Returns:
        Table with one row for each endpoint and point; None without an endpoint of both classes.
    """
    rows = []
    chosen_on = next((n for n in ("validation", "out_of_fold") if n in tables and n != shown), None)
    for name, endpoint in targets.dichotomies().items():
        if name not in scored or not _has_both(tables[shown], endpoint):
            continue
        points = {f"{HALF:.2f}": HALF}
        if chosen_on and _has_both(tables[chosen_on], endpoint):
            found = youden(tables[chosen_on], endpoint)
            points[f"{found:.2f} (Youden, {chosen_on.replace('_', ' ')})"] = found
        for words, threshold in points.items():
            at = dataclasses.replace(endpoint, threshold=threshold)
            scorer = endpoints.dichotomy(at, _labelled(tables[shown], endpoint))
            found_at = summary.estimate([(name, scorer)], num_resamples, scheme=scheme)[name]
            cells = [
                f"{format_value(found_at[m])}\n{format_interval(found_at[m])}" for m in METRICS
            ]
            rows.append((endpoint.title, words, *cells))
    if not rows:
        return None
    header = ("Endpoint", "Positive from", *(METRIC_TITLES[metric] for metric in METRICS))
    note = "Positive from: summed probability of the positive classes."
    return Table("Sensitivity and specificity at named points", header, tuple(rows), (note,))


def decision_drawings(
    table: pd.DataFrame, scored: Mapping[str, object], num_resamples: int
) -> list[Drawing]:
    """Draw the decision curves of the endpoints of the first target of a table.

    Args:
        table: Predictions table of the part that is scored.
        scored: Endpoints that have metrics, by name.
        num_resamples: Number of bootstrap resamples behind each interval.
    """
    first = next(iter(targets_in(table)), "")
    drawings = []
    for name, endpoint in targets.dichotomies().items():
        if endpoint.targets == (first,) and name in scored and _has_both(table, endpoint):
            rows, scores, positives = endpoints.dichotomy_samples(table, endpoint)
            subjects = bootstrap.subjects_of(table)[rows]
            curve = decision_curve(scores, positives, subjects, num_resamples)
            alt = f"Net benefit by the probability to act from, {endpoint.title}"
            figure = figures.decision_figure(curve, endpoint.title)
            drawings.append(Drawing(f"decision_{name}", alt, figure))
    return drawings


def youden(table: pd.DataFrame, endpoint: Dichotomy) -> float:
    """Return the score from which on sensitivity plus specificity are the greatest."""
    _, scores, positives = endpoints.dichotomy_samples(table, endpoint)
    false, true, thresholds = discrimination.roc_curve(scores, positives)
    # The curve begins above the highest score.
    return float(min(thresholds[int(np.argmax(true - false))], 1.0))


def _labelled(table: pd.DataFrame, endpoint: Dichotomy) -> pd.DataFrame:
    known = [target.is_known(table[target.name]) for target in targets.get_all(endpoint.targets)]
    return table[np.any(known, axis=0)]


def _has_both(table: pd.DataFrame, endpoint: Dichotomy) -> bool:
    positives = endpoints.dichotomy_samples(table, endpoint).positives
    return bool(positives.any() and not positives.all())
