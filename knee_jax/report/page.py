"""HTML report of a work directory: one file that needs nothing else, no network and no script."""

import json
import logging
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from knee_jax import targets
from knee_jax.errors import UserError
from knee_jax.files import write_text
from knee_jax.metrics.bootstrap import subjects_of
from knee_jax.metrics.predictions import read_predictions, targets_in
from knee_jax.metrics.summary import Summary
from knee_jax.report import figures, front, tables
from knee_jax.report.attached import attach, picture_of, write_beside
from knee_jax.report.examples import Example, example_drawing
from knee_jax.report.front import Front
from knee_jax.report.sections import Drawing, Section
from knee_jax.report.tables import Table
from knee_jax.report.templates import template
from knee_jax.report.terms import terms
from knee_jax.targets.grades import OARSI_GRADES
from knee_jax.targets.kinds import Classes, Continuous, Dichotomy

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


def write_report(
    workdir: Path | str,
    examples: Sequence[Example],
    title: str,
    intervals: str = "95 % intervals are percentiles of bootstrap resamples.",
    opening: Sequence[Section] = (),
    extra_sections: Sequence[Section] = (),
    closing: Sequence[Section] = (),
    shown: Front | None = None,
    notes: Sequence[str] = (),
    formats: Sequence[str] = (),
) -> Path:
    """Write `report/index.html`, and its tables and figures beside it, from a work directory.

    It reads `metrics.json` and, for each split in it, `predictions/<split>.csv`; and, if present,
    `metrics.jsonl` (rows {"step": int, name: value, ...}), `config.json` and `environment.json`.
    Files of an earlier report are replaced. The same files and examples give the same report, byte
    for byte.

    Args:
        workdir: Work directory.
        examples: Knees to show.
        title: Title of the page.
        intervals: Description of the intervals, from `knee_jax.metrics.bootstrap.describe`.
        opening: Sections before the results.
        extra_sections: Sections after the results.
        closing: Sections at the end.
        shown: Words of the first screen, to which what the files tell is added.
        notes: What a reader of the results must know first, one sentence each.
        formats: Formats of figures that are written beside the page, of `attached.FORMATS`.

    Returns:
        Path of the page.

    Raises:
        UserError: `metrics.json` or a predictions table is missing or damaged.
    """
    workdir = Path(workdir)
    metrics = _read_json(workdir / "metrics.json")
    if not metrics:
        raise UserError(f"{workdir / 'metrics.json'}: holds no metrics; run the evaluation first")
    saved = {
        heading: _read_json(workdir / name)
        for heading, name in (("Configuration", "config.json"), ("Environment", "environment.json"))
        if (workdir / name).exists()
    }
    order = list(_SPLITS)
    splits = sorted(metrics, key=lambda name: order.index(name) if name in order else len(order))
    predicted = {
        split: read_predictions(workdir / "predictions" / f"{split}.csv") for split in splits
    }
    results = [
        results_section(split, predicted[split], metrics[split], drawn=split == splits[0])
        for split in splits
    ]
    sections = [*opening, *results]
    sections += examples_sections(examples)
    sections += extra_sections
    sections += training_sections(workdir / "metrics.jsonl")
    sections += closing
    sections += [_methods(intervals, metrics), *map(_settings, saved, saved.values())]

    first, given = splits[0], shown or Front()
    folder = workdir / "report"
    for beside in ("figures", "tables"):
        shutil.rmtree(folder / beside, ignore_errors=True)
    drawings = [(each.name, each.content) for section in sections for each in section.drawings]
    every = [table for section in sections if not section.folded for table in section.tables]
    write_beside(folder, drawings, every, formats)
    path = folder / "index.html"
    write_page(
        path,
        title,
        sections,
        Front(
            given.lead or _counts(first, predicted[first]),
            [*given.facts, *front.facts_of(saved.get("Environment", {}))],
            [*notes, *given.troubles, *front.troubles(predicted[first], metrics[first], first)],
        ),
        front.headlines(metrics[first]),
        f"{title_of_split(first).capitalize()} knees: {_number(predicted[first])}",
    )
    return path


def write_page(
    path: Path,
    title: str,
    sections: Sequence[Section],
    shown: Front,
    headlines: Sequence[front.Headline] = (),
    headed: str = "",
) -> None:
    """Write a page of sections, alone in its file.

    Args:
        path: Path of the page.
        title: Title of the page.
        sections: Sections.
        shown: Words of the first screen.
        headlines: Figures of the first screen.
        headed: Knees that these figures are of.

    Raises:
        ValueError: Two drawings have the same name.
    """
    names = [drawing.name for section in sections for drawing in section.drawings]
    if twice := {each for each in names if names.count(each) > 1}:
        raise ValueError(f"two figures of the report are called {min(twice)}")
    page = template("page.html").render(
        title=title,
        shown=shown,
        headlines=headlines,
        headed=headed,
        sections=[(section, *_held(section)) for section in sections],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)


def title_of_split(split: str) -> str:
    """Return the title of a split in words."""
    return _SPLITS.get(split, (split.replace("_", " "), ""))[0]


def results_section(split: str, table: pd.DataFrame, summary: Summary, *, drawn: bool) -> Section:
    """Show the metrics of a split, and in figures what they stand on.

    Args:
        split: Name of the split.
        table: Predictions table.
        summary: Metrics.
        drawn: Whether figures are shown.
    """
    title, note = _SPLITS.get(split, (split.replace("_", " "), ""))
    notes = [f"{_counts(split, table)} {note}".strip()]
    if unscored := [tables.target_title(t) for t in targets_in(table) if t not in summary]:
        notes.append(
            f"Predicted but not scored, because no knee has a label: {', '.join(unscored)}."
        )
    found = [
        tables.metrics_table(heading, {name: summary[name] for name in names})
        for heading, names in _groups(summary).items()
    ]
    drawings = list(_result_drawings(split, table, summary)) if drawn else []
    if any("confusion" in each.name for each in drawings):
        notes.append("Confusion matrices: percent of each true class, number of knees below.")
    return Section(f"Results: {title}", notes, found, drawings)


def examples_sections(examples: Sequence[Example]) -> list[Section]:
    """Show knees, the worst mistakes first."""
    titles = {
        "wrong": "Worst mistakes",
        "correct": "Predicted right",
        "unread": "Never read",
    }
    seen = [each for group in titles for each in examples if each.group == group]
    if not seen:
        return []
    notes = [
        "Every knee is shown as a right knee: lateral (L) at the left, medial (M) at the right."
        if seen[0].modality == "film"
        else "Of every volume the sagittal slice in the middle is shown: anterior (A) at the left, "
        "posterior (P) at the right."
    ]
    if any(each.keypoints is not None for each in seen):
        notes.append("Landmarks: lateral ones are orange dots, medial ones blue crosses.")
    return [
        Section(
            heading,
            notes,
            drawings=[example_drawing(f"{group}_{n:02d}", each) for n, each in enumerate(members)],
        )
        for group, heading in titles.items()
        if (members := [each for each in seen if each.group == group])
    ]


def training_sections(path: Path) -> list[Section]:
    """Show the course of the training, if it was recorded."""
    history = read_history(path) if path.exists() else pd.DataFrame(columns=["step"])
    if history.empty:
        return []
    scores = history[history["name"].str.startswith("validation/")].dropna()
    best = int(scores["step"].iloc[int(scores["value"].argmax())]) if len(scores) else None
    figure = figures.training_figure(history, best)
    if figure is None:
        return [Section("Training", ("Too little was recorded for a curve: a single point.",))]
    words = "Loss of training, and the metric of the validation knees, by step"
    return [Section("Training", (), (), [Drawing("training", words, figure)])]


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


def _held(section: Section) -> tuple[list[Any], list[Any]]:
    """Return the tables and the pictures of a section as the page holds them."""
    pictures = [picture_of(each.content, each.alt, each.caption) for each in section.drawings]
    return [attach(table) for table in section.tables], pictures


def _groups(summary: Summary) -> dict[str, list[str]]:
    """Return the targets and endpoints of a summary by the table that shows them."""
    known = targets.all_targets()
    groups: dict[str, list[str]] = {}
    for name in summary:
        if tables.is_graded(name):
            heading = "Grades"
        elif name in known:
            kinds = {Continuous: "Values", Classes: "Classes"}
            heading = next((w for k, w in kinds.items() if isinstance(known[name], k)), "Places")
        else:
            heading = "Two-class endpoints"
        groups.setdefault(heading, []).append(name)
    return groups


def _result_drawings(split: str, table: pd.DataFrame, summary: Summary) -> Iterator[Drawing]:
    shown = [name for name in figures.labelled_targets(table) if name in summary]
    graded = targets.of_kind(shown, Classes)
    oarsi = [target for target in graded if target.name in OARSI_GRADES]
    for target in graded:
        if target not in oarsi:
            words = f"Confusion matrix of {target.title}"
            yield Drawing(
                f"{split}_confusion_{target.name}",
                words,
                figures.confusion_figure(table, [target]),
            )
    for measured in targets.of_kind(shown, Continuous):
        words = f"Bland-Altman plot of {measured.title}"
        figure = figures.bland_altman_figure(table, measured)
        yield Drawing(f"{split}_bland_altman_{measured.name}", words, figure)
    endpoints = [each for each in targets.dichotomies().values() if _has_curve(summary, each)]
    if endpoints:
        words = f"ROC and precision-recall curves of {'; '.join(e.title for e in endpoints)}"
        yield Drawing(f"{split}_curves", words, figures.curves_figure(table, endpoints, summary))
    if oarsi:
        words = "Confusion matrices of the OARSI grades"
        yield Drawing(f"{split}_confusion_oarsi", words, figures.confusion_figure(table, oarsi))
    if graded:
        words = "How often each class or grade was read, and predicted"
        yield Drawing(f"{split}_distribution", words, figures.distribution_figure(table, graded))


def _has_curve(summary: Summary, endpoint: Dichotomy) -> bool:
    name = endpoint.name
    return name in summary and summary[name]["roc_auc"]["value"] is not None


def _number(table: pd.DataFrame) -> str:
    number = len(set(subjects_of(table)))
    return (
        f"{len(table):,} knee image{'s' if len(table) != 1 else ''} of {number:,} "
        f"subject{'s' if number != 1 else ''}"
    )


def _counts(split: str, table: pd.DataFrame) -> str:
    return f"{title_of_split(split).capitalize()} knees: {_number(table)}."


def _methods(intervals: str, metrics: Mapping[str, Summary]) -> Section:
    scored: Collection[str] = {name for summary in metrics.values() for name in summary}
    used = {m for summary in metrics.values() for each in summary.values() for m in each}
    notes = (
        f"{intervals} Resamples in which a metric is undefined are left out. n is the number of "
        "knee images with a label; a knee imaged at several visits counts once for each.",
        "The numbers of this page are in metrics.json and predictions/ of the work directory.",
    )
    return Section("How to read this", notes, terms=terms(scored, used))


def _settings(heading: str, values: Mapping[str, Any]) -> Section:
    table = Table("", ("Field", "Value"), tuple(_flat(values)), words=True)
    return Section(heading, tables=(table,), folded=True)


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
