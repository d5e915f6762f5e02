"""Metrics as text: the format of a number with its interval, and tables made of them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from knee_jax import targets
from knee_jax.metrics.endpoints import AVERAGED_METRICS
from knee_jax.metrics.summary import Estimate, Summary
from knee_jax.targets.grades import GRADES, NUM_CLASSES, OARSI
from knee_jax.targets.kinds import Binary, Continuous, Nominal, Ordinal, Target

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
    "mae": "MAE",
    "within_one": "Within one grade",
    "f1": "F1",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "PPV",
    "npv": "NPV",
    "kappa": "Kappa",
    "roc_auc": "ROC AUC",
    "average_precision": "Average precision",
    "brier": "Brier score",
    "ece": "Calibration error",
    "bias": "Bias",
    "limit_low": "Lower limit of agreement",
    "limit_high": "Upper limit of agreement",
    "radial_error": "Radial error (mm)",
    "radial_error_median": "Median radial error (mm)",
    "within_1mm": "Within 1 mm",
    "within_1.5mm": "Within 1.5 mm",
    "within_2mm": "Within 2 mm",
    "within_2.5mm": "Within 2.5 mm",
    "knees_within_2.5mm": "Knees within 2.5 mm",
}
"""Metrics in the order in which they are shown."""

OARSI_TITLE = "OARSI average"

ABBREVIATIONS = (
    "FO, TO: osteophytes of femur and tibia; JSN: joint space narrowing; L lateral, M medial."
)


@dataclass(frozen=True)
class Table:
    """Table of text for the terminal, a spreadsheet and the page.

    Attributes:
        title: Title of the table.
        header: Title of each column; the first column names the rows.
        rows: Cells, as many in each row as the header has; text after a line break in a cell, such
            as an interval, is shown below.
        notes: Lines to print under it.
        words: Whether the cells are words, which begin at the left, and not numbers.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    words: bool = False

    def text(self) -> str:
        """Return aligned plain text without a final newline."""
        lines = [line for row in self.rows for line in _lines(row)]
        return "\n".join([self.title, *_grid(self.header, lines), *self.notes])


def target_title(name: str) -> str:
    """Return the display title of a target or dichotomy."""
    known: dict[str, Any] = {**targets.dichotomies(), **targets.all_targets()}
    if name == OARSI:
        return OARSI_TITLE
    return known[name].title if name in known else name.replace("_", " ")


def short_title(name: str) -> str:
    """Return the title of a target for narrow columns."""
    known = targets.all_targets()
    return known[name].short_title if name in known else target_title(name)


def column_order(names: Collection[str]) -> list[str]:
    """Return those of the named targets that are columns of tables, in the usual order."""
    order = [*GRADES, OARSI, *(name for name in targets.all_targets() if name not in GRADES)]
    return [name for name in order if name in names]


def format_value(estimate: Estimate) -> str:
    """Return the value alone, such as `0.712`, or `undefined` if there is none."""
    return "undefined" if estimate["value"] is None else f"{estimate['value']:.3f}"


def format_interval(estimate: Estimate) -> str:
    """Return the 95 % interval, such as `[0.695, 0.729]`, or nothing if there is none."""
    if estimate["low"] is None or estimate["high"] is None:
        return ""
    return f"[{estimate['low']:.3f}, {estimate['high']:.3f}]"


def format_deviation(estimate: Estimate) -> str:
    """Return the value and standard deviation over the resamples, such as `0.712 ± 0.009`."""
    std = estimate["std"]
    return format_value(estimate) + ("" if std is None else f" ± {std:.3f}")


def format_estimate(estimate: Estimate) -> str:
    """Return the value and interval, such as `0.712 [0.695, 0.729]`."""
    return f"{format_value(estimate)} {format_interval(estimate)}".rstrip()


def terminal_table(summary: Summary) -> str:
    """Return the targets and dichotomies of one split with 95 % intervals, as aligned plain text.

    Args:
        summary: Result of `knee_jax.metrics.summary.summarise`, {target: {metric: estimate}}.

    Returns:
        Lines without a final newline; a row for each grade, then one for each other target and each
        dichotomy with a threshold, then a line for each other dichotomy.
    """
    known = targets.all_targets()

    def of_kind(kind: type) -> list[Target]:
        return [known[t] for t in summary if t in known and isinstance(known[t], kind)]

    graded = [target for target in summary if is_graded(target)]
    groups: list[tuple[list[str], Sequence[str]]] = [(graded, AVERAGED_METRICS)]
    for kind in (Binary, Nominal, Continuous):
        if found := of_kind(kind):
            groups.append(([target.name for target in found], found[0].table_metrics))
    for name, endpoint in targets.dichotomies().items():
        if name in summary and endpoint.table_metrics:
            groups.append(([name], tuple(endpoint.table_metrics)))
    lines = []
    for names, metrics in groups:
        rows = [
            [
                target_title(name),
                str(summary[name][metrics[0]]["n"]),
                *(format_estimate(summary[name][metric]) for metric in metrics),
            ]
            for name in names
        ]
        if rows:
            header = ["", "n", *(METRIC_TITLES[metric] for metric in metrics)]
            lines += _grid(header, rows, right=(1,))
    in_tables = {name for names, _ in groups for name in names}
    for name in (each for each in summary if each not in in_tables):
        scores = ", ".join(
            f"{METRIC_TITLES.get(metric, metric)} {format_estimate(estimate)}"
            for metric, estimate in summary[name].items()
        )
        count = next(iter(summary[name].values()))["n"]
        lines.append(f"{target_title(name)}: {scores} (n = {count})")
    return "\n".join(lines)


def metrics_table(title: str, summary: Summary) -> Table:
    """Return a table with a row for each metric and a column for each target or endpoint.

    Cells are empty where a target lacks a metric; intervals are in a second line.
    """
    metrics = [m for m in METRIC_TITLES if any(m in each for each in summary.values())]
    rows: list[tuple[str, ...]] = [
        ("n", *(f"{next(iter(each.values()))['n']:,}" for each in summary.values()))
    ]
    for metric in metrics:
        cells = (_cell(each[metric]) if metric in each else "" for each in summary.values())
        rows.append((METRIC_TITLES[metric], *cells))
    narrow = len(summary) > 4
    header = ("", *(short_title(name) if narrow else target_title(name) for name in summary))
    abbreviated = narrow and any(name in GRADES and name != "kl" for name in summary)
    return Table(title, header, tuple(rows), (ABBREVIATIONS,) if abbreviated else ())


def is_graded(name: str) -> bool:
    """Return whether a row of metrics is of an ordinal grade or the average of grades."""
    return name == OARSI or isinstance(targets.all_targets().get(name), Ordinal)


def selection_tables(
    summaries: Mapping[str, Summary],
    metrics: Sequence[str] = ("quadratic_kappa", "balanced_accuracy"),
) -> list[Table]:
    """Compare models (Tiulpin & Saarakkala 2020, Table 2 and Supplementary Table 1).

    Args:
        summaries: Metrics of one split for each model, and the ensemble, in the order of the rows.
        metrics: Metrics, with one table for each.

    Returns:
        Tables with a row for each model and a column for each grade or other target that has the
        metric; none if no target has it.
    """
    tables = []
    for metric in metrics:
        has = {t for summary in summaries.values() for t in summary if metric in summary[t]}
        columns = column_order(has)
        if not columns:
            continue
        rows = [
            (name, *(_cell(summary.get(target, {}).get(metric)) for target in columns))
            for name, summary in summaries.items()
        ]
        header = ("Model", *map(short_title, columns))
        tables.append(Table(METRIC_TITLES[metric], header, tuple(rows), (ABBREVIATIONS,)))
    return tables


def beside(summaries: Mapping[str, Summary]) -> Table:
    """Put summaries beside one another, one column each.

    Args:
        summaries: Metrics by heading; a column may lack some of them.

    Returns:
        Table with a row for each metric of a target's narrow table, and for each of an endpoint.
    """
    known = targets.all_targets()
    rows = []
    for name in dict.fromkeys(target for each in summaries.values() for target in each):
        metrics = [each[name] for each in summaries.values() if name in each]
        wanted = known[name].table_metrics if name in known else METRIC_TITLES
        for metric in (m for m in wanted if any(m in each for each in metrics)):
            cells = [_counted(each.get(name, {}).get(metric)) for each in summaries.values()]
            rows.append((target_title(name), METRIC_TITLES[metric], *cells))
    return Table("Metrics", ("", "Metric", *summaries), tuple(rows), ("n: knees.",))


def tidy_metrics(summaries: Mapping[str, Summary]) -> pd.DataFrame:
    """Return summaries as a long table: row, target, metric, value, low, high, std, n.

    Undefined values are NaN.
    """
    rows = [
        {"row": name, "target": target, "metric": metric, **estimate}
        for name, summary in summaries.items()
        for target, estimates in summary.items()
        for metric, estimate in estimates.items()
    ]
    return pd.DataFrame(rows, columns=["row", "target", "metric", *Estimate.__annotations__])


def counts_table(cohorts: Mapping[str, pd.DataFrame]) -> Table:
    """Count the knees of each cohort with each grade (Tiulpin & Saarakkala 2020, Table 1).

    Args:
        cohorts: Table with columns of true grades by name: an index or a predictions table.
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
    header = ("Cohort", "Grade", *map(short_title, GRADES))
    return Table("Knees by grade", header, tuple(rows), (ABBREVIATIONS,))


def _counted(estimate: Estimate | None) -> str:
    return "-" if estimate is None else f"{format_estimate(estimate)} (n = {estimate['n']:,})"


def _cell(estimate: Estimate | None) -> str:
    return "-" if estimate is None else f"{format_value(estimate)}\n{format_interval(estimate)}"


def _lines(row: Sequence[str]) -> list[list[str]]:
    """Return the lines of text of a row, whose cells may have line breaks."""
    parts = [cell.rstrip("\n").split("\n") for cell in row]
    height = max(map(len, parts))
    return [[part[i] if i < len(part) else "" for part in parts] for i in range(height)]


def _grid(
    header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()
) -> list[str]:
    """Return header, rule, aligned rows and rule."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))

    def aligned(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()

    return [aligned(header), rule, *map(aligned, rows), rule]
