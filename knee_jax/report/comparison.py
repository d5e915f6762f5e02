"""Comparison of a paper's printed numbers with ours."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from knee_jax import papers
from knee_jax.files import write_text
from knee_jax.metrics.summary import Estimate, Summary
from knee_jax.papers import PaperTable
from knee_jax.report.front import Front
from knee_jax.report.page import write_page
from knee_jax.report.sections import Section
from knee_jax.report.tables import (
    ABBREVIATIONS,
    METRIC_TITLES,
    Table,
    format_deviation,
    format_interval,
    format_value,
    short_title,
)

Results = Mapping[tuple[str, str], Mapping[str, Summary] | None]
"""Summaries by split for (config, model) of a paper's table, or None if the run has failed."""

_SPREADS = ("low", "high", "std")
_STATES = {"failed": "failed", "absent": "absent", "not run": "-", "printed only": "-"}


def compare(paper: PaperTable, results: Results) -> pd.DataFrame:
    """Compare each printed number with ours.

    Args:
        paper: Table.
        results: Results of the runs; rows without a result are kept.

    Returns:
        Table with the columns of `papers.COLUMNS` (`value, low, high, std` as `paper, paper_low,
        paper_high, paper_std`), then `ours, low, high, std` (float, NaN if there is none), `n` and
        `state`: `run`; `failed`; `absent`, if a run lacks this number; `not run`; or `printed
        only`.
    """
    rows = []
    for cell in paper.cells.to_dict("records"):
        printed = {"value": "paper"} | {name: f"paper_{name}" for name in _SPREADS}
        row: dict[Any, Any] = {printed.get(str(name), name): cell[name] for name in cell}
        key = (cell["config"], cell["model"])
        estimate = None
        if not cell["config"]:
            state = "printed only"
        elif key not in results:
            state = "not run"
        elif (splits := results[key]) is None:
            state = "failed"
        else:
            scored = splits.get(cell["split"], {}).get(cell["target"], {})
            estimate = scored.get(cell["metric"])
            state = "absent" if estimate is None or estimate["value"] is None else "run"
        row |= dict.fromkeys(("ours", *_SPREADS, "n")) | {"state": state}
        if estimate is not None:
            row |= {"ours": estimate["value"]} | {k: estimate.get(k) for k in (*_SPREADS, "n")}
        rows.append(row)
    frame = pd.DataFrame(rows)
    return frame.astype(dict.fromkeys(("ours", *_SPREADS), float) | {"n": "Int64"})


def comparison_tables(frame: pd.DataFrame) -> list[Table]:
    """Format the table of `compare`, one table per metric, rows and columns as in the paper.

    A cell reads `paper | ours`, with our 95 % interval below, and the paper's if it prints one. If
    it prints a standard deviation, both numbers have one.
    """
    tables = []
    for metric, cells in frame.groupby("metric", sort=False):
        targets = list(dict.fromkeys(cells["target"]))
        rows = []
        for name, of_row in cells.groupby("row", sort=False):
            by_target = {cell["target"]: cell for cell in of_row.to_dict("records")}
            texts = (_cell(by_target[t]) if t in by_target else "" for t in targets)
            rows.append((str(name), *texts))
        header = ("", *map(short_title, targets))
        title = f"{METRIC_TITLES[str(metric)]}: paper | ours"
        tables.append(Table(title, header, tuple(rows)))
    return tables


def comparison_section(
    names: Iterable[str], results: Results, remarks: Sequence[str] = ()
) -> Section:
    """Make the section of a run's report that compares its numbers with the paper's tables.

    Args:
        names: Names of tables, such as `oarsi/2`.
        results: Results of the run.
        remarks: Remarks on the origin of the numbers.
    """
    notes, tables = [*remarks, ABBREVIATIONS], []
    for name in names:
        paper = papers.read(name)
        notes += [f"{paper.source}: {note}" for note in paper.notes]
        found = compare(paper, results)
        # Of rows and columns in which we have no number, the paper tells more.
        ours = found["state"] == "run"
        found = found[
            found["row"].isin(found.loc[ours, "row"])
            & found["target"].isin(found.loc[ours, "target"])
            & found["metric"].isin(found.loc[ours, "metric"])
        ]
        for table in comparison_tables(found):
            tables.append(
                Table(f"{paper.source}. {table.title} [95 % interval]", table.header, table.rows)
            )
    return Section("Beside the paper", notes, tables)


def write_comparison(
    path: Path, paper: PaperTable, frame: pd.DataFrame, remarks: Sequence[str]
) -> str:
    """Write the table as `.txt`, `.csv` (one number per row) and `.html`.

    Args:
        path: Path of the files, without suffix.
        paper: Table.
        frame: Table of `compare`.
        remarks: Remarks on the origin of the numbers.

    Returns:
        Text of the table.
    """
    tables = comparison_tables(frame)
    title = f"{paper.source}: {paper.title}"
    notes = [*remarks, ABBREVIATIONS, *(f"Paper: {note}" for note in paper.notes)]
    text = "\n\n".join([title, *(table.text() for table in tables), "\n".join(notes)])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path.with_suffix(".txt"), text + "\n")
    write_text(path.with_suffix(".csv"), frame.to_csv(index=False, float_format="%.6g"))
    sections = [Section("Paper and ours", notes, tables)]
    write_page(path.with_suffix(".html"), title, sections, Front())
    return text


def _cell(cell: Mapping[Any, Any]) -> str:
    state, paper = cell["state"], cell["paper"]
    if cell["paper_std"]:
        paper += f" ± {cell['paper_std']}"
    if state == "run":
        low, high, std = (None if pd.isna(cell[k]) else cell[k] for k in _SPREADS)
        estimate = Estimate(value=cell["ours"], low=low, high=high, std=std, n=cell["n"])
        ours = format_deviation(estimate) if cell["paper_std"] else format_value(estimate)
        lines = [f"{paper} | {ours}", format_interval(estimate)]
    else:
        lines = [f"{paper} | {_STATES[state]}"]
    if cell["paper_low"]:
        lines.append(f"paper [{cell['paper_low']}, {cell['paper_high']}]")
    return "\n".join(line for line in lines if line)
