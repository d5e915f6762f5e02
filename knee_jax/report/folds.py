"""Section of a cross-validation: each fold by itself, and their spread."""

import numpy as np
import pandas as pd

from knee_jax import targets
from knee_jax.metrics.summary import scorers_of
from knee_jax.report.sections import Section
from knee_jax.report.tables import METRIC_TITLES, Table, target_title

NOTE = (
    "Each fold's knees, read by networks that were trained on the other folds and whose checkpoint "
    "these knees chose. The spread is that of the folds' knees and of the trainings together; as "
    "folds share training knees, it is no interval of the mean."
)


def folds_section(table: pd.DataFrame) -> Section | None:
    """Show the metrics of each fold, with mean, standard deviation, lowest and highest.

    Args:
        table: Predictions table of the out-of-fold knees, with the column `fold`.

    Returns:
        Section, or None without two folds, or where networks had folds of their own.
    """
    if "fold" not in table or table["fold"].nunique() < 2 or _mixed(table["fold"]):
        return None
    of_folds = {str(fold): knees.reset_index(drop=True) for fold, knees in table.groupby("fold")}
    values = {fold: _values(knees) for fold, knees in of_folds.items()}
    known, rows = targets.all_targets(), []
    for name in dict.fromkeys(name for each in values.values() for name in each):
        found = [each.get(name, {}) for each in values.values()]
        wanted = known[name].table_metrics if name in known else METRIC_TITLES
        for metric in (m for m in wanted if any(m in each for each in found)):
            numbers = np.array([each.get(metric, np.nan) for each in found], np.float64)
            rows.append((target_title(name), METRIC_TITLES[metric], *_cells(numbers)))
    counts = [f"{len(knees):,}" for knees in of_folds.values()]
    header = ("", "Metric", *(f"Fold {fold}" for fold in of_folds), "Mean (SD)", "Range")
    rows.insert(0, ("Knee images", "n", *counts, "", ""))
    return Section("Folds", (NOTE,), (Table("Metrics of each fold", header, tuple(rows)),))


def _mixed(folds: pd.Series) -> bool:
    """Return whether one knee was in several folds, each of another network's."""
    return bool(folds.astype(str).str.contains("+", regex=False).any())


def _values(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return every metric of a predictions table, without intervals; NaN if undefined."""
    return {
        name: {
            metric: float(value)
            for metric, (value,) in statistics(np.ones((1, len(subjects)))).items()
        }
        for name, (subjects, _, statistics, _) in scorers_of(table)
    }


def _cells(numbers: np.ndarray) -> list[str]:
    """Return the folds' numbers as text, then those of all folds that have one."""
    defined = numbers[np.isfinite(numbers)]
    cells = ["undefined" if np.isnan(number) else f"{number:.3f}" for number in numbers]
    if not len(defined):
        return [*cells, "undefined", ""]
    spread = f" ({defined.std(ddof=1):.3f})" if len(defined) > 1 else ""
    span = f"{defined.min():.3f} to {defined.max():.3f}"
    return [*cells, f"{defined.mean():.3f}{spread}", span]
