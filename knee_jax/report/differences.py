"""Paired comparison of models: the text of the terminal, and a page."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from knee_jax import targets
from knee_jax.metrics.bootstrap import subjects_of
from knee_jax.metrics.comparison import Difference, Pair
from knee_jax.metrics.predictions import IDENTITY, targets_in
from knee_jax.report import runs
from knee_jax.report.front import Front, Headline
from knee_jax.report.page import title_of_split, write_page
from knee_jax.report.sections import Section
from knee_jax.report.tables import METRIC_TITLES, Table, target_title
from knee_jax.targets.kinds import Classes, Ordinal

MOST_CHANGED = 40
"""Number of changed knees that a page lists."""

INTERVALS = (
    "Differences are the second minus the first. Intervals are 95 %, of a bootstrap by subject in "
    "which both are scored on the same resamples. McNemar's and DeLong's tests take knees for "
    "independent, which the two knees of a subject are not."
)


class Compared(NamedTuple):
    """Two models on the same knees.

    Attributes:
        first, second: Names of the models.
        pair: Their predictions, row by row.
        differences: Result of `comparison.compare`.
    """

    first: str
    second: str
    pair: Pair
    differences: Sequence[Difference]


def differences_text(found: Compared) -> str:
    """Return tables of the differences, one per target, and what they stand on."""
    tables = differences_tables(found)
    return "\n\n".join([_heading(found), *(table.text() for table in tables), INTERVALS])


def differences_tables(found: Compared) -> list[Table]:
    """Return a table of the differences for each target or endpoint."""
    header = ("", found.first, found.second, "difference", "95 % interval", "test")
    return [
        Table(
            target_title(target),
            header,
            tuple(_row(each) for each in found.differences if each.target == target),
        )
        for target in dict.fromkeys(each.target for each in found.differences)
    ]


def changed_tables(found: Compared) -> list[Table]:
    """Count the knees that one, both or none predicts right, and list those that changed most."""
    first, second = found.pair.first, found.pair.second
    name = next(name for name in targets_in(first) if name in targets_in(second))
    target = targets.get(name)
    truth = first[name].to_numpy(np.float64)
    known = np.asarray(target.is_known(truth))
    predicted = [t[f"{name}_pred"].to_numpy(np.float64) for t in (first, second)]
    right = [np.asarray(target.agrees(truth, each)) & known for each in predicted]
    counts = (
        ("Both right", (right[0] & right[1]).sum()),
        (f"Only {found.first} right", (right[0] & ~right[1]).sum()),
        (f"Only {found.second} right", (~right[0] & right[1]).sum()),
        ("Both wrong", (known & ~right[0] & ~right[1]).sum()),
    )
    title = target_title(name)
    tables = [
        Table(
            f"{title}: knees that both predicted",
            ("", "Knees"),
            tuple((words, f"{number:,}") for words, number in counts),
        )
    ]
    ordered = isinstance(target, Ordinal) or not isinstance(target, Classes)
    change = np.abs(predicted[1] - predicted[0])
    if not ordered:
        change = (change > 0).astype(float)
    places = [i for i in np.argsort(-change, kind="stable") if change[i] > 0]
    rows = tuple(
        (
            *(str(first[column].iloc[i]) for column in IDENTITY),
            target.format(first[name].iloc[i]) if known[i] else "-",
            *(target.format(t[f"{name}_pred"].iloc[i]) for t in (first, second)),
        )
        for i in places[:MOST_CHANGED]
    )
    if rows:
        header = (*(c.capitalize() for c in IDENTITY), "Read", found.first, found.second)
        note = f"{len(places):,} knees are predicted differently" + (
            f"; the {MOST_CHANGED} that differ most." if len(places) > MOST_CHANGED else "."
        )
        tables.append(Table(f"{title}: knees that changed", header, rows, (note,)))
    return tables


def write_differences(
    path: Path, found: Sequence[Compared], known: Sequence[runs.Found], part: str
) -> None:
    """Write the page of a comparison.

    Args:
        path: Path of the page.
        found: Comparison of the first model with each of the others.
        known: Runs among the models, whose first screens are shown side by side.
        part: Part of the knees.
    """
    sections = []
    if known:
        tables = [runs.first_screens(known)]
        if len(known) > 1 and (differing := runs.config_differences(known)):
            tables.append(differing)
        sections.append(Section("Side by side", tables=tables))
    for each in found:
        title = f"{each.second} minus {each.first}"
        sections.append(Section(title, (_heading(each), INTERVALS), differences_tables(each)))
        if f"{targets_in(each.pair.first)[0]}_pred" in each.pair.first:
            changed = (
                f"Knees that changed: {each.second}" if len(found) > 1 else "Knees that changed"
            )
            sections.append(Section(changed, tables=changed_tables(each)))
    first = found[0]
    others = ", ".join(each.second for each in found)
    write_page(
        path,
        f"{others} against {first.first}",
        sections,
        Front(" ".join(f"{_heading(each)}." for each in found)),
        headlines(first),
        f"{title_of_split(part).capitalize()} knees, {first.second} minus {first.first}",
    )


def headlines(found: Compared) -> list[Headline]:
    """Return three differences that stand for all: of the metrics that head a report."""
    wanted = [
        each
        for each in found.differences
        if each.metric in _headed(each.target) and not math.isnan(each.difference)
    ]
    # One of each target comes before a second, and plain accuracy last.
    wanted.sort(key=lambda each: each.metric == "accuracy")
    counted: Counter[str] = Counter()
    ranks = []
    for each in wanted:
        counted[each.target] += 1
        ranks.append(counted[each.target])
    wanted = [wanted[i] for i in np.argsort(ranks, kind="stable")]
    return [
        Headline(
            target_title(each.target),
            METRIC_TITLES.get(each.metric, each.metric),
            f"{each.difference:+.3f}",
            f"[{each.low:+.3f}, {each.high:+.3f}]",
        )
        for each in (wanted or found.differences)[:3]
    ]


def _headed(name: str) -> tuple[str, ...]:
    known = targets.all_targets()
    headed = known[name].headlines if name in known else ()
    if not headed and name in targets.dichotomies():
        headed = targets.dichotomies()[name].headlines
    return tuple(headed)


def _heading(found: Compared) -> str:
    number = len(found.pair.first)
    words = (
        f"{found.second} minus {found.first}, on {number:,} knees of "
        f"{len(set(subjects_of(found.pair.first))):,} subjects that both predicted"
    )
    for count, name in (
        (found.pair.only_first, found.first),
        (found.pair.only_second, found.second),
    ):
        if count:
            words += f"; {count:,} more by {name} alone"
    return words


def _row(each: Difference) -> tuple[str, ...]:
    test = "" if not each.test or math.isnan(each.p) else f"{each.test} p = {each.p:.3g}"
    return (
        METRIC_TITLES.get(each.metric, each.metric),
        *(_number(value, "") for value in (each.first, each.second)),
        _number(each.difference, "+"),
        f"[{_number(each.low, '+')}, {_number(each.high, '+')}]",
        test,
    )


def _number(value: float, sign: str) -> str:
    return "undefined" if pd.isna(value) else f"{value:{sign}.3f}"
