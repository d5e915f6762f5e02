"""Metrics as text: how a number with its interval is written, and the tables made of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from knee_jax.grades import DERIVED, GRADES, NUM_CLASSES, TITLES, class_name
from knee_jax.metrics.summary import AVERAGED_METRICS, OARSI, Estimate, Summary

METRIC_TITLES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "quadratic_kappa": "Quadratic kappa",
    "linear_kappa": "Linear kappa",
    "f1_macro": "F1, macro",
    "f1_weighted": "F1, weighted",
    "mse": "MSE",
    "rmse": "RMSE",
    "rmse_expected": "RMSE, expected grade",
    "f1": "F1",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "kappa": "Kappa",
    "roc_auc": "ROC AUC",
    "average_precision": "Average precision",
    "brier": "Brier score",
    "ece": "Calibration error",
}
"""Metrics in the order in which they are shown."""

TARGET_TITLES = {
    **TITLES,
    "oarsi": "OARSI average",
    "kl_ge_2": "KL >= 2",
    "osteophytes_lateral_ge_1": "Osteophytes >= 1, lateral",
    "osteophytes_medial_ge_1": "Osteophytes >= 1, medial",
    "jsn_lateral_ge_1": "JSN >= 1, lateral",
    "jsn_medial_ge_1": "JSN >= 1, medial",
}

SHORT_TITLES = {
    "kl": "KL",
    "osfl": "FO L",
    "osfm": "FO M",
    "ostl": "TO L",
    "ostm": "TO M",
    "jsl": "JSN L",
    "jsm": "JSN M",
    "oarsi": "OARSI average",
    "kl0_vs_kl2": "KL 0/2",
    "progression": "Progression",
}
"""Titles for narrow columns: osteophytes of femur and tibia, lateral and medial."""

_TWO_CLASS_COLUMNS = ("accuracy", "f1", "sensitivity", "specificity", "roc_auc")

ABBREVIATIONS = (
    "FO, TO: osteophytes of femur and tibia; JSN: joint space narrowing; L lateral, M medial."
)


@dataclass(frozen=True)
class Table:
    """A table of text, for the terminal, a spreadsheet and the page alike.

    Attributes:
        title: what the table shows.
        header: a title for each column; the first column names the rows.
        rows: cells, as many in each row as the header has; what follows a line break in a cell,
            such as an interval, is shown below.
        notes: lines to print under it.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """Aligned plain text without a final newline."""
        lines = [line for row in self.rows for line in _lines(row)]
        return "\n".join([self.title, *_grid(self.header, lines), *self.notes])


def target_title(target: str) -> str:
    """What a grade or task is called in front of people."""
    return TARGET_TITLES.get(target, target.replace("_", " "))


def class_titles(target: str) -> tuple[str, ...]:
    """What the classes of a target are called, in order: `0`, `1`... of a grade; `KL 0`, `KL 2`."""
    numbers = range(NUM_CLASSES[target])
    return tuple(class_name(target, n) if target in DERIVED else str(n) for n in numbers)


def format_value(estimate: Estimate) -> str:
    """The value alone, such as `0.712`; `undefined` where there is none."""
    return "undefined" if estimate["value"] is None else f"{estimate['value']:.3f}"


def format_interval(estimate: Estimate) -> str:
    """The 95 % interval, such as `[0.695, 0.729]`; empty where there is none."""
    if estimate["low"] is None or estimate["high"] is None:
        return ""
    return f"[{estimate['low']:.3f}, {estimate['high']:.3f}]"


def format_estimate(estimate: Estimate) -> str:
    """Value and interval, such as `0.712 [0.695, 0.729]`."""
    return f"{format_value(estimate)} {format_interval(estimate)}".rstrip()


def terminal_table(summary: Summary) -> str:
    """The grades and tasks of one split with 95 % intervals, as aligned plain text.

    Args:
        summary: {target: {metric: estimate}} of `knee_jax.metrics.summary.summarise`.

    Returns:
        Lines without a final newline; a row for each grade, then one for each other target, then a
        line for each two-class task.
    """
    graded = [target for target in summary if is_graded(target)]
    others = [target for target in summary if target in TITLES and target not in graded]
    lines = []
    for targets, metrics in ((graded, AVERAGED_METRICS), (others, _TWO_CLASS_COLUMNS)):
        rows = [
            [
                target_title(target),
                str(summary[target]["accuracy"]["n"]),
                *(format_estimate(summary[target][metric]) for metric in metrics),
            ]
            for target in targets
        ]
        if rows:
            header = ["", "n", *(METRIC_TITLES[metric] for metric in metrics)]
            lines += _grid(header, rows, right=(1,))
    for task in (target for target in summary if target not in graded + others):
        scores = ", ".join(
            f"{METRIC_TITLES.get(metric, metric)} {format_estimate(estimate)}"
            for metric, estimate in summary[task].items()
        )
        count = next(iter(summary[task].values()))["n"]
        lines.append(f"{target_title(task)}: {scores} (n = {count})")
    return "\n".join(lines)


def is_graded(target: str) -> bool:
    """Whether a target is a grade or the average of grades, and not a two-class task."""
    return target in GRADES or target == OARSI


def selection_tables(
    summaries: Mapping[str, Summary],
    metrics: Sequence[str] = ("quadratic_kappa", "balanced_accuracy"),
) -> list[Table]:
    """Models beside each other (Tiulpin & Saarakkala 2020, Table 2 and Supplementary Table 1).

    Args:
        summaries: {model, or ensemble: metrics of one split}, in the order of the rows.
        metrics: a table for each.

    Returns:
        Tables with a row for each model and a column for each grade or other target that has the
        metric; none where no target has it.
    """
    tables = []
    for metric in metrics:
        has = {t for summary in summaries.values() for t in summary if metric in summary[t]}
        targets = [target for target in SHORT_TITLES if target in has]
        if not targets:
            continue
        rows = [
            (name, *(_cell(summary.get(target, {}).get(metric)) for target in targets))
            for name, summary in summaries.items()
        ]
        header = ("Model", *(SHORT_TITLES[target] for target in targets))
        tables.append(Table(METRIC_TITLES[metric], header, tuple(rows), (ABBREVIATIONS,)))
    return tables


def tidy_metrics(summaries: Mapping[str, Summary]) -> pd.DataFrame:
    """The same as a long table: row, target, metric, value, low, high, n; NaN where undefined."""
    rows = [
        {"row": name, "target": target, "metric": metric, **estimate}
        for name, summary in summaries.items()
        for target, estimates in summary.items()
        for metric, estimate in estimates.items()
    ]
    return pd.DataFrame(rows, columns=["row", "target", "metric", "value", "low", "high", "n"])


def counts_table(cohorts: Mapping[str, pd.DataFrame]) -> Table:
    """How many knees of each cohort have each grade (Tiulpin & Saarakkala 2020, Table 1).

    Args:
        cohorts: {name: table with columns of true grades}: an index or a predictions table.
    """
    rows = []
    for name, table in cohorts.items():
        grades = [grade for grade in GRADES if grade in table]
        counts = {grade: table[grade].value_counts() for grade in grades}
        for value in range(5):
            cells = [
                f"{counts[grade].get(value, 0):,}"
                if grade in grades and value < NUM_CLASSES[grade]
                else "-"
                for grade in GRADES
            ]
            rows.append((name if value == 0 else "", str(value), *cells))
    header = ("Cohort", "Grade", *(SHORT_TITLES[grade] for grade in GRADES))
    return Table("Knees by grade", header, tuple(rows), (ABBREVIATIONS,))


def _cell(estimate: Estimate | None) -> str:
    return "-" if estimate is None else f"{format_value(estimate)}\n{format_interval(estimate)}"


def _lines(row: Sequence[str]) -> list[list[str]]:
    """The lines of text that a row takes, where cells have line breaks."""
    parts = [cell.rstrip("\n").split("\n") for cell in row]
    height = max(map(len, parts))
    return [[part[i] if i < len(part) else "" for part in parts] for i in range(height)]


def _grid(
    header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()
) -> list[str]:
    """Header, rule, aligned rows, rule."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))

    def aligned(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()

    return [aligned(header), rule, *map(aligned, rows), rule]
