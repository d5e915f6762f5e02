"""Table of a sweep: each variant's mean and spread over its seeds."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from knee_jax import papers
from knee_jax.files import write_text
from knee_jax.metrics.summary import Summary
from knee_jax.report.front import Front
from knee_jax.report.page import write_page
from knee_jax.report.sections import Section
from knee_jax.report.tables import (
    METRIC_TITLES,
    Table,
    format_interval,
    format_value,
    target_title,
)

METRICS = ("accuracy", "f1", "roc_auc", "sensitivity", "specificity", "ece", "quadratic_kappa")
"""Metrics that the table shows if they are available; all are in the CSV."""


def write_sweep(
    workdir: Path,
    results: Mapping[str, Mapping[int, Mapping[str, Summary]]],
    target: str,
    paper_rows: Mapping[str, str],
    averaged: Mapping[str, Mapping[str, Summary]],
) -> str:
    """Write `sweep.csv`, `sweep.txt` and `sweep.html`.

    Args:
        workdir: Folder to write to.
        results: Metrics of each part, by variant and seed.
        target: Target that the table shows.
        paper_rows: Row of the papers' tables for each variant, such as `siamese_gap.py:ce`.
        averaged: Metrics of each part of the mean of a variant's seeds, where there are several.

    Returns:
        Text of the table.
    """
    frame = tidy(results)
    parts = list(dict.fromkeys(frame["split"]))
    tables = [
        part_table(
            frame,
            part,
            target,
            paper_rows,
            {variant: of_variant[part] for variant, of_variant in averaged.items()},
        )
        for part in parts
    ]
    seeds = max(len(of_variant) for of_variant in results.values())
    title = f"Sweep: {_number(len(results), 'variant')}, {_number(seeds, 'seed')}"
    notes = [
        f"{target_title(target)}: mean over the seeds, and where there are several the standard "
        "deviation, lowest and highest. A seed changes initial weights, order of the knees, "
        "augmentation and dropout, not the split. Averaged: the mean of the seeds' probabilities, "
        "with its 95 % interval.",
        "The validation knees chose the checkpoints; choose a variant by them, and read its result "
        "off the test knees.",
    ]
    text = "\n\n".join([title, *(table.text() for table in tables), "\n".join(notes)])
    write_text(workdir / "sweep.csv", frame.to_csv(index=False, float_format="%.6g"))
    write_text(workdir / "sweep.txt", text + "\n")
    write_page(
        workdir / "sweep.html",
        title,
        [Section("Variants", notes, tables)],
        Front(lead(frame, target)),
    )
    return text


def lead(frame: pd.DataFrame, target: str) -> str:
    """Say which variant the validation knees choose, and how it did on the test knees."""
    chosen = frame[(frame["target"] == target) & frame["split"].eq("validation")]
    metric = next((m for m in METRICS if (chosen["metric"] == m).any()), None)
    if metric is None:
        return ""
    means = chosen[chosen["metric"] == metric].groupby("variant", sort=False)["value"].mean()
    if means.isna().all():
        return ""
    best, words = str(means.idxmax()), METRIC_TITLES[metric].lower()
    tested = frame[
        (frame["split"] == "test")
        & (frame["variant"] == best)
        & (frame["target"] == target)
        & (frame["metric"] == metric)
    ]["value"]
    found = f"; its mean on the test knees is {tested.mean():.3f}" if len(tested) else ""
    return (
        f"By mean {words} the validation knees choose the variant {best} ({means[best]:.3f})"
        f"{found}."
    )


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count != 1 else ''}"


def tidy(results: Mapping[str, Mapping[int, Mapping[str, Summary]]]) -> pd.DataFrame:
    """Return one row per number: variant, seed, split, target, metric, value; NaN if undefined."""
    rows = [
        (variant, seed, split, target, metric, estimate["value"])
        for variant, of_variant in results.items()
        for seed, of_seed in of_variant.items()
        for split, summary in of_seed.items()
        for target, metrics in summary.items()
        for metric, estimate in metrics.items()
    ]
    columns = ["variant", "seed", "split", "target", "metric", "value"]
    return pd.DataFrame(rows, columns=columns).astype({"value": float})


def part_table(
    frame: pd.DataFrame,
    part: str,
    target: str,
    paper_rows: Mapping[str, str],
    averaged: Mapping[str, Summary],
) -> Table:
    """Make the table of the variants' metrics on the knees of a part, with any paper's values."""
    shown = frame[(frame["split"] == part) & (frame["target"] == target)]
    metrics = [metric for metric in METRICS if (shown["metric"] == metric).any()]
    printed = {
        variant: {m: p for m in metrics if (p := paper_value(row, target, m))}
        for variant, row in paper_rows.items()
    }
    rows = []
    for variant, of_variant in shown.groupby("variant", sort=False):
        cells = []
        for metric in metrics:
            values = of_variant.loc[of_variant["metric"] == metric, "value"].dropna()
            lines = [f"{values.mean():.3f}" if len(values) else "undefined"]
            if len(values) > 1:
                span = f"{values.min():.3f} to {values.max():.3f}"
                lines.append(f"sd {values.std(ddof=1):.3f}, {span}")
            if paper := printed.get(str(variant), {}).get(metric):
                lines.append(f"paper {paper}")
            cells.append("\n".join(lines))
        rows.append((str(variant), str(of_variant["seed"].nunique()), *cells))
        if mean := averaged.get(str(variant), {}).get(target):
            of_mean = [f"{format_value(mean[m])}\n{format_interval(mean[m])}" for m in metrics]
            rows.append((f"{variant}, averaged", "", *of_mean))
    header = ("Variant", "Seeds", *(METRIC_TITLES[metric] for metric in metrics))
    return Table(f"{part.replace('_', ' ').capitalize()} knees", header, tuple(rows))


def paper_value(row: str, target: str, metric: str) -> str | None:
    """Return what a paper prints for a config variant, as text, or None if nothing."""
    for name in papers.names():
        cells = papers.read(name).cells
        found = cells[
            (cells["config"] == row) & (cells["target"] == target) & (cells["metric"] == metric)
        ]
        if row and len(found):
            return str(found["value"].iloc[0])
    return None
