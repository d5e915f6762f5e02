"""Metrics as text: how a number with its interval is written, and the table for the terminal."""

from knee_jax.grades import GRADES, TITLES
from knee_jax.metrics.summary import Estimate, Summary

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
    "roc_auc": "ROC AUC",
    "average_precision": "Average precision",
}
"""Metrics in the order in which they are shown."""

TARGET_TITLES = {**TITLES, "kl_ge_2": "KL >= 2"}

_TERMINAL_METRICS = ("accuracy", "balanced_accuracy", "quadratic_kappa", "rmse")


def target_title(target: str) -> str:
    """What a grade or task is called in front of people."""
    return TARGET_TITLES.get(target, target.replace("_", " "))


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
        Lines without a final newline; a row for each grade, then a line for each two-class task.
    """
    header = ["", "n", *(METRIC_TITLES[metric] for metric in _TERMINAL_METRICS)]
    rows = [
        [
            target_title(grade),
            str(summary[grade]["accuracy"]["n"]),
            *(format_estimate(summary[grade][metric]) for metric in _TERMINAL_METRICS),
        ]
        for grade in GRADES
        if grade in summary
    ]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [_aligned(header, widths), rule, *(_aligned(row, widths) for row in rows), rule]
    for task in (target for target in summary if target not in GRADES):
        scores = ", ".join(
            f"{METRIC_TITLES.get(metric, metric)} {format_estimate(estimate)}"
            for metric, estimate in summary[task].items()
        )
        count = next(iter(summary[task].values()))["n"]
        lines.append(f"{target_title(task)}: {scores} (n = {count})")
    return "\n".join(lines)


def _aligned(cells: list[str], widths: list[int]) -> str:
    first = cells[0].ljust(widths[0])
    second = cells[1].rjust(widths[1])
    rest = (cell.ljust(width) for cell, width in zip(cells[2:], widths[2:], strict=True))
    return "  ".join([first, second, *rest]).rstrip()
