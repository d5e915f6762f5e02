"""Knees that a set holds more than once, by identity or by pixels."""

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from knee_jax.ingest.report import Exclusion

Row = Mapping[str, Any]

KEPT_FIRST = ("test", "val", "train")
"""Splits in the order in which they keep a knee that several of them hold: a knee that is held out
must not be trained on.
"""


def find(rows: Sequence[Row], labels: Iterable[str]) -> dict[int, Exclusion]:
    """Find the knees that must not be kept, since the set holds them again.

    - `two_readings`: the knee is there several times with different labels, none of which can be
      believed: every copy is excluded.
    - `pixels_of_another_knee`: the same pixels are there as another knee's, and one of the two must
      be wrong: every copy is excluded.
    - `repeated_knee`: the knee is there again with the same labels: one copy is kept, that of the
      split that is held out to the last.

    Args:
        rows: Rows of the index of all splits.
        labels: Names of the columns of labels.

    Returns:
        Exclusion by the number of its row.
    """
    labels = tuple(labels)
    found: dict[int, Exclusion] = {}
    for same in _groups(rows, range(len(rows)), ("cohort", "subject", "side", "visit")):
        if len({tuple(rows[i][name] for name in labels) for i in same}) > 1:
            found |= _all_of(rows, same, "two_readings", "another reading of this knee is")
            continue
        kept, *others = sorted(same, key=lambda i: _rank(rows[i]))
        for i in others:
            detail = f"this knee is also {_place(rows[kept])}, which is kept"
            found[i] = _exclusion(rows[i], "repeated_knee", detail)
    rest = (i for i in range(len(rows)) if i not in found)
    for same in _groups(rows, rest, ("checksum",)):
        found |= _all_of(rows, same, "pixels_of_another_knee", "the same pixels are")
    return found


def _groups(rows: Sequence[Row], of: Iterable[int], columns: Sequence[str]) -> list[list[int]]:
    """Return the numbers of rows that agree in the columns, where there are several."""
    groups = collections.defaultdict(list)
    for i in of:
        groups[tuple(rows[i][name] for name in columns)].append(i)
    return [same for same in groups.values() if len(same) > 1]


def _all_of(
    rows: Sequence[Row], same: Sequence[int], reason: str, what: str
) -> dict[int, Exclusion]:
    others = {i: next(j for j in same if j != i) for i in same}
    return {i: _exclusion(rows[i], reason, f"{what} {_place(rows[j])}") for i, j in others.items()}


def _rank(row: Row) -> tuple[int, str]:
    split = row["split"]
    place = KEPT_FIRST.index(split) if split in KEPT_FIRST else len(KEPT_FIRST)
    return place, row["source"]


def _place(row: Row) -> str:
    knee = f"{row['subject']} {row['side']} at month {row['visit']}"
    return f"{row['source']} ({knee}, split {row['split']})"


def _exclusion(row: Row, reason: str, detail: str) -> Exclusion:
    knee = (row["subject"], row["side"], row["visit"], row["source"])
    return Exclusion(*knee, reason, detail)
