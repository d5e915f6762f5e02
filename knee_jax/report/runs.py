"""Finished and unfinished runs as rows: what each was, differs in, stands on, and scored.

Nothing is computed or opened but the small files of a run; one that is damaged has a row that says
so.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from knee_jax.config.load import flatten
from knee_jax.errors import UserError
from knee_jax.metrics.summary import Summary
from knee_jax.report import front
from knee_jax.report.front import Front, Headline
from knee_jax.report.page import title_of_split, write_page
from knee_jax.report.sections import Section
from knee_jax.report.tables import Table

SKIPPED = ("checkpoints", "tensorboard", "report", "predictions", "set_aside", "evaluations")
"""Folders of a run that hold no runs."""

SHOWN = ("test", "out_of_fold", "validation")
"""Parts of a run's knees, the one held out to the last first."""

MOST_METRICS = 9
"""Number of metrics that the table of many runs has columns for."""

_FREE = ("paper_row", "data.manual_dir", "data.test_manual_dir")
"""Fields that say where something lies, and not what a run is."""

Bases = Mapping[str, Mapping[str, Any]]
"""Flat fields of known configs, by their names."""


@dataclasses.dataclass(frozen=True)
class Found:
    """One run.

    Attributes:
        name: Name for display.
        fields: Flat fields of its config; empty if that cannot be read.
        environment: Its command, begin, commit and versions, as far as recorded.
        part: Part of the knees that was scored, '' if none was.
        summary: Metrics of that part.
        state: How far it has come, in words.
    """

    name: str
    fields: Mapping[str, Any]
    environment: Mapping[str, Any]
    part: str
    summary: Summary
    state: str

    @property
    def headlines(self) -> list[Headline]:
        """Figures that stand for the run, at most three."""
        return front.headlines(self.summary)


def find(folder: Path) -> Iterator[Path]:
    """Yield the folders of runs within a folder, in order; runs within runs are not looked for.

    Raises:
        UserError: There is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in SKIPPED)
        if "config.json" in files:
            folders.clear()
            yield Path(place)


def read(path: Path, name: str) -> Found:
    """Read what the small files of a run tell."""
    fields, broken = _read(path / "config.json")
    environment, _ = _read(path / "environment.json")
    metrics, damaged = _read(path / "metrics.json")
    part, summary = "", {}
    for each in (*SHOWN, *metrics):
        if isinstance(metrics.get(each), dict) and _is_summary(metrics[each]):
            part, summary = each, metrics[each]
            break
    state = "scored" if part else "not scored"
    if damaged or (metrics and not part):
        state = "metrics.json is damaged"
    elif not part and (steps := _steps(path)):
        state = f"trained to step {max(steps):,}, not scored"
    if broken:
        state = "config.json is damaged"
    return Found(name, flatten(fields), environment, part, summary, state)


def nearest_base(fields: Mapping[str, Any], bases: Bases) -> tuple[str, list[str]]:
    """Return the known config that a run differs least from, and the fields that differ.

    Args:
        fields: Flat fields of the run.
        bases: Known configs; none: no name is found.
    """
    best: tuple[str, list[str]] = ("", [])
    for name, base in bases.items():
        names = (fields.keys() | base.keys()) - set(_FREE)
        differing = sorted(each for each in names if fields.get(each) != base.get(each))
        if not best[0] or len(differing) < len(best[1]):
            best = (name, differing)
    return best


def describe_config(fields: Mapping[str, Any], bases: Bases) -> str:
    """Return a run's config as the nearest one that is known, and what differs from it."""
    if not fields:
        return "unknown"
    name, differing = nearest_base(fields, bases)
    changes = ", ".join(f"{each}={_short(fields.get(each, 'absent'))}" for each in differing)
    return f"{name}\n{changes}" if changes else name


def runs_table(
    found: Sequence[Found], bases: Bases, sort: str = "", most: int = MOST_METRICS
) -> Table:
    """Return a table with one row for each run.

    Args:
        found: Runs.
        bases: Known configs.
        sort: Column to sort by, or a part of its title, highest first if it is a metric; '': the
            order of `found`.
        most: Maximum number of columns for metrics; if there are more, one column has them all.

    Raises:
        UserError: There is no such column.
    """
    metrics = list(dict.fromkeys((h.target, h.metric) for run in found for h in run.headlines))
    header = ("Run", "Begun", "Config", "Data", "State")
    titles = tuple(f"{target}: {metric}" for target, metric in metrics)
    rows, figures = [], []
    for run in found:
        have = {(h.target, h.metric): f"{h.value}\n{h.interval}" for h in run.headlines}
        rows.append(
            (
                run.name,
                str(run.environment.get("started", ""))[:16],
                describe_config(run.fields, bases),
                str(run.fields.get("data.dataset", "unknown")),
                f"{run.state}: {title_of_split(run.part)}" if run.part else run.state,
            )
        )
        figures.append(tuple(have.get(key, "") for key in metrics))
    order = list(range(len(rows)))
    if sort:
        columns = [*header, *titles]
        by = [t for t in columns if t.lower().startswith(sort.lower())]
        by += [t for t in columns if sort.lower() in t.lower()]
        if not by:
            raise UserError(f"--sort={sort}: the columns are {', '.join(columns)}")
        column = columns.index(by[0])
        is_metric = column >= len(header)
        order.sort(key=lambda i: _sort_key((*rows[i], *figures[i])[column], is_metric))
    if len(metrics) > most:
        titles = ("Figures",)
        figures = [
            ("\n".join(f"{h.target}: {h.metric} {h.value} {h.interval}" for h in run.headlines),)
            for run in found
        ]
    return Table(
        "Runs", (*header, *titles), tuple((*rows[i], *figures[i]) for i in order), words=True
    )


def write_index(path: Path, folder: Path, table: Table) -> None:
    """Write the page of a folder of runs."""
    scored = sum(row[4].startswith("scored") for row in table.rows)
    lead = f"{len(table.rows):,} runs in {folder.name}, of which {scored:,} are scored."
    note = (
        "Config: the known config that differs least, and the fields that differ from it. Figures "
        "are of the part that is named, with 95 % intervals; those of different knees cannot be "
        "compared: `knee-jax compare` does so on the same knees. A click on a title sorts."
    )
    section = Section("Runs", (note,), (table,), sortable=True)
    write_page(path, f"Runs in {folder.name}", [section], Front(lead))


def first_screens(found: Iterable[Found]) -> Table:
    """Put the first screens of some runs side by side."""
    runs = list(found)
    facts = [dict(front.facts_of(run.environment)) for run in runs]
    rows = [
        ("Network", *(str(run.fields.get("model.name", "unknown")) for run in runs)),
        ("Data", *(str(run.fields.get("data.dataset", "unknown")) for run in runs)),
        ("Scored", *(title_of_split(run.part) if run.part else "no" for run in runs)),
    ]
    headed = dict.fromkeys((h.target, h.metric) for run in runs for h in run.headlines)
    for target, metric in headed:
        values = ({(h.target, h.metric): h for h in run.headlines} for run in runs)
        cells = (
            f"{have[target, metric].value}\n{have[target, metric].interval}"
            if (target, metric) in have
            else ""
            for have in values
        )
        rows.append((f"{target}: {metric}", *cells))
    for name in dict.fromkeys(name for each in facts for name in each):
        rows.append((name, *(each.get(name, "") for each in facts)))
    return Table("First screens", ("", *(run.name for run in runs)), tuple(rows), words=True)


def config_differences(found: Iterable[Found]) -> Table | None:
    """Return the fields in which the configs of some runs differ; None if there are none."""
    runs = list(found)
    names = sorted({name for run in runs for name in run.fields} - set(_FREE))
    rows = []
    for name in names:
        cells = [_short(run.fields.get(name, "absent")) for run in runs]
        if len(set(cells)) > 1:
            rows.append((name, *cells))
    if not rows:
        return None
    header = ("Field", *(run.name for run in runs))
    return Table("Fields that differ", header, tuple(rows), words=True)


def _is_summary(value: Mapping[str, Any]) -> bool:
    """Return whether a value has the form of a summary."""
    return bool(value) and all(
        isinstance(estimates, dict)
        and estimates
        and all(
            isinstance(e, dict) and {"value", "low", "high", "n"} <= set(e)
            for e in estimates.values()
        )
        for estimates in value.values()
    )


def _read(file: Path) -> tuple[dict[str, Any], bool]:
    """Return the content of a JSON file, and whether it is there but damaged."""
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}, False
    except (OSError, ValueError):
        return {}, True
    return (content, False) if isinstance(content, dict) else ({}, True)


def _steps(path: Path) -> list[int]:
    folder = path / "checkpoints"
    if not folder.is_dir():
        return []
    return [int(each.name) for each in folder.iterdir() if each.name.isdecimal()]


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _sort_key(cell: str, is_metric: bool) -> tuple[bool, Any]:
    """Return a key by which metrics come highest first, text in order, and empty cells last."""
    word = cell.split("\n")[0]
    if not is_metric:
        return (not word, word.lower())
    try:
        return (False, -float(word))
    except ValueError:
        return (True, 0.0)
