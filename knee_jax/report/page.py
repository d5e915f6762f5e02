"""HTML report of a work directory: one page with its figures beside it, no network needed."""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from knee_jax import targets
from knee_jax.errors import UserError
from knee_jax.files import write_text
from knee_jax.metrics.bootstrap import subjects_of
from knee_jax.metrics.predictions import read_predictions, targets_in
from knee_jax.metrics.summary import Summary
from knee_jax.report import figures, tables
from knee_jax.report.examples import Example
from knee_jax.report.sections import Section
from knee_jax.report.templates import template
from knee_jax.targets.grades import GRADES, OARSI, OARSI_GRADES
from knee_jax.targets.kinds import Classes, Continuous, Dichotomy

_CSS_PIXELS_PER_INCH = 96

_SPLITS = {
    "test": ("test", ""),
    "test_first_visit": (
        "test, first visit",
        "The test knees at their first visit (month 0) alone.",
    ),
    "out_of_fold": (
        "out of fold",
        "Every knee is graded by the model that was trained without its subject's fold. The same "
        "knees chose that model's checkpoint, so that the numbers are a little optimistic.",
    ),
    "validation": (
        "validation",
        "These knees also chose the checkpoint, so that the numbers are a little optimistic.",
    ),
}
"""Title and note of each split; the one held out to the last comes first."""

_log = logging.getLogger(__name__)


class Picture(NamedTuple):
    """Figure on the page: path relative to the page, width in CSS pixels, alternative text."""

    path: str
    width: int
    alt: str
    caption: str = ""


class SplitSection(NamedTuple):
    """Contents of the page for one split."""

    name: str
    title: str
    note: str
    num_rows: int
    num_subjects: int
    grade_rows: list[dict[str, Any]]
    task_rows: list[dict[str, Any]]
    unscored: list[str]
    pictures: list[Picture]


def write_report(
    workdir: Path | str,
    examples: Sequence[Example],
    title: str,
    intervals: str = "95 % intervals are percentiles of bootstrap resamples.",
    extra_sections: Sequence[Section] = (),
    notes: Sequence[str] = (),
) -> Path:
    """Write `report/index.html` and `report/figures/*.png` from the files of a work directory.

    It reads `metrics.json` and, for each split in it, `predictions/<split>.csv`; and, if present,
    `metrics.jsonl` (rows {"step": int, name: value, ...}), `config.json` and `environment.json`.
    Figures of an earlier report are replaced. The same files and examples give the same report,
    byte for byte.

    Args:
        workdir: Work directory.
        examples: Knees to show.
        title: Title of the page.
        intervals: Description of the intervals, from `knee_jax.metrics.bootstrap.describe`.
        extra_sections: Further sections to show after the splits.
        notes: What a reader of the results must know first, one sentence each.

    Returns:
        Path of the page.

    Raises:
        UserError: `metrics.json` or a predictions table is missing or damaged.
    """
    workdir = Path(workdir)
    metrics = _read_json(workdir / "metrics.json")
    if not metrics:
        raise UserError(f"{workdir / 'metrics.json'}: holds no metrics; run the evaluation first")
    settings = [
        (heading, list(_flat(_read_json(workdir / name))))
        for heading, name in (("Configuration", "config.json"), ("Environment", "environment.json"))
        if (workdir / name).exists()
    ]
    folder = workdir / "report"
    shutil.rmtree(folder / "figures", ignore_errors=True)
    (folder / "figures").mkdir(parents=True)
    order = list(_SPLITS)
    splits = sorted(metrics, key=lambda name: order.index(name) if name in order else len(order))
    sections = [_split_section(folder, workdir, split, metrics[split]) for split in splits]
    page = template("page.html").render(
        title=title,
        headlines=_headlines(metrics[splits[0]]),
        sections=sections,
        notes=notes,
        extra_sections=[(section, _drawings(folder, section)) for section in extra_sections],
        example_groups=_example_groups(folder, examples),
        volumes=any(example.modality == "volume" for example in examples),
        landmarks=any(example.keypoints is not None for example in examples),
        training=_training(folder, workdir / "metrics.jsonl"),
        intervals=intervals,
        grade_titles={grade.upper(): tables.target_title(grade) for grade in GRADES},
        targets=targets.all_targets(),
        settings=settings,
    )
    path = folder / "index.html"
    write_text(path, page)
    return path


def picture_of(figure: Figure, path: str, alt: str, caption: str = "") -> Picture:
    """Return the picture of a figure saved at `path`, in the size that it was drawn for."""
    return Picture(path, round(figure.get_figwidth() * _CSS_PIXELS_PER_INCH), alt, caption)


def read_history(path: Path) -> pd.DataFrame:
    """Read the scalars of a training run.

    A run that was killed may have left an unfinished line, and repeats steps once resumed: the
    unfinished line is skipped and logged, and the last value of a step counts.

    Args:
        path: Path of `metrics.jsonl`.

    Returns:
        Table with the columns step int, name str, value float, in the order of names, then steps.
    """
    values: dict[str, dict[int, float]] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            row = json.loads(line)
            step = int(row["step"])
        except (ValueError, KeyError, TypeError):
            _log.warning("%s: line %d is not a row of scalars; skipped", path, number)
            continue
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                values.setdefault(name, {})[step] = float(value)
    rows = [(step, name, value) for name in values for step, value in sorted(values[name].items())]
    return pd.DataFrame(rows, columns=["step", "name", "value"])


def _split_section(folder: Path, workdir: Path, split: str, summary: Summary) -> SplitSection:
    table = read_predictions(workdir / "predictions" / f"{split}.csv")
    shown = [name for name in figures.labelled_targets(table) if name in summary]
    graded = targets.of_kind(shown, Classes)
    oarsi = [target for target in graded if target.name in OARSI_GRADES]
    pictures = []

    def add(name: str, alt: str, figure: Figure) -> None:
        pictures.append(_save(folder, f"{split}_{name}", alt, figure))

    for target in graded:
        if target not in oarsi:
            title = "the KL grade" if target.name == "kl" else target.title
            figure = figures.confusion_figure(table, [target])
            add(f"confusion_{target.name}", f"Confusion matrix of {title}", figure)
    for measured in targets.of_kind(shown, Continuous):
        figure = figures.bland_altman_figure(table, measured)
        add(f"bland_altman_{measured.name}", f"Bland-Altman plot of {measured.title}", figure)
    endpoints = [each for each in targets.dichotomies().values() if _has_curve(summary, each)]
    if endpoints:
        add(
            "curves",
            f"ROC and precision-recall curves of {'; '.join(each.title for each in endpoints)}",
            figures.curves_figure(table, endpoints, summary),
        )
    if oarsi:
        add(
            "confusion_oarsi",
            "Confusion matrices of the OARSI grades",
            figures.confusion_figure(table, oarsi),
        )
    if graded:
        add(
            "distribution",
            "Distributions of the true and the predicted grades",
            figures.distribution_figure(table, graded),
        )
    title, note = _SPLITS.get(split, (split.replace("_", " "), ""))
    return SplitSection(
        name=split,
        title=title,
        note=note,
        num_rows=len(table),
        num_subjects=len(set(subjects_of(table))),
        grade_rows=_rows({t: summary[t] for t in summary if tables.is_graded(t)}),
        task_rows=_rows({t: summary[t] for t in summary if not tables.is_graded(t)}),
        unscored=[tables.target_title(t) for t in targets_in(table) if t not in summary],
        pictures=pictures,
    )


def _rows(summary: Summary) -> list[dict[str, Any]]:
    """Return the rows of a table of metrics; cells are empty if a target lacks a metric."""
    metrics = [m for m in tables.METRIC_TITLES if any(m in each for each in summary.values())]
    rows = []
    for target, estimates in summary.items():
        cells = {
            tables.METRIC_TITLES[metric]: (
                (tables.format_value(estimates[metric]), tables.format_interval(estimates[metric]))
                if metric in estimates
                else ("", "")
            )
            for metric in metrics
        }
        count = next(iter(estimates.values()))["n"]
        rows.append({"title": tables.target_title(target), "n": count, "cells": cells})
    return rows


def _has_curve(summary: Summary, endpoint: Dichotomy) -> bool:
    name = endpoint.name
    return name in summary and summary[name]["roc_auc"]["value"] is not None


def _headlines(summary: Summary) -> list[dict[str, str]]:
    return [
        {
            "target": tables.target_title(target),
            "metric": tables.METRIC_TITLES[metric],
            "value": tables.format_value(summary[target][metric]),
            "interval": tables.format_interval(summary[target][metric]),
        }
        for target, metric in _headline_metrics()
        if metric in summary.get(target, {})
    ]


def _headline_metrics() -> Iterator[tuple[str, str]]:
    """Yield the targets and metrics that head a report, as they declare them; endpoints last."""
    headed = {name: target.headlines for name, target in targets.all_targets().items()}
    headed = headed | {OARSI: ("quadratic_kappa",)}
    for name, endpoint in targets.dichotomies().items():
        headed.setdefault(name, endpoint.headlines)
    for name, metrics in headed.items():
        yield from ((name, metric) for metric in metrics)


def _example_groups(folder: Path, examples: Sequence[Example]) -> list[tuple[str, list[Any]]]:
    headings = {
        "correct": "First target predicted correctly",
        "wrong": "First target predicted wrongly",
        "unread": "Never read",
    }
    groups: dict[str, list[Any]] = {group: [] for group in headings}
    for number, example in enumerate(examples):
        target = example.target
        truth = example.truth[target.name]
        alt = (
            f"{'Knee radiograph' if example.modality == 'film' else 'Slice of a knee'}, "
            f"{target.title} {target.format(truth) if target.is_known(truth) else 'unknown'}, "
            f"predicted {target.format(example.prediction[target.name])}"
        )
        picture = _save(folder, f"example_{number:02d}", alt, figures.example_figure(example))
        groups[example.group].append((example, picture))
    return [(headings[group], members) for group, members in groups.items() if members]


def _drawings(folder: Path, section: Section) -> list[Picture]:
    return [
        _save(folder, drawing.name, drawing.alt, drawing.figure, drawing.caption)
        for drawing in section.drawings
    ]


def _training(folder: Path, path: Path) -> Picture | None:
    if not path.exists():
        return None
    history = read_history(path)
    if history.empty:
        return None
    return _save(folder, "training", "Training curves", figures.training_figure(history))


def _save(folder: Path, name: str, alt: str, figure: Figure, caption: str = "") -> Picture:
    path = f"figures/{name}.png"
    if (folder / path).exists():
        raise ValueError(f"two figures of the report are called {name}")
    figures.save(figure, folder / path)
    return picture_of(figure, path, alt, caption)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the evaluation first") from None
    except ValueError as error:
        raise UserError(f"{path}: is not JSON ({error}); delete it and run again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: is not a JSON object; delete it and run again")
    return content


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested settings as dotted names and text."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value if isinstance(value, str) else json.dumps(value)
