"""Progression of osteoarthritis, whether and how soon, from KL readings of a knee over visits.

This is the target of Panfilov et al. 2022, section 2.2, who took it from Tiulpin et al. 2019
("Multimodal machine learning-based knee osteoarthritis progression prediction"). Their text puts 72
months into fast; their code, and so the labels they trained on, puts the visit of month 72 into
slow.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from knee_jax.errors import UserError
from knee_jax.ingest.inventory import KneeVisit, Reading
from knee_jax.ingest.report import Exclusion
from knee_jax.ingest.tables import find_table, identifiers, numbers, read_table
from knee_jax.targets.grades import MISSING

VISITS = (0, 12, 24, 36, 72, 96)
"""Months whose readings count; the first is the baseline. The published code leaves out 48."""

FAST_UNTIL = 60
"""Month up to which a progression is fast."""

COLUMN = "progression"
"""Name of the label."""

NONE, FAST, SLOW, UNKNOWN = 0, 1, 2, -1
"""Values of the label."""


REASONS = {
    "no_baseline": "no reading of the baseline visit",
    "prosthesis": "the joint had been replaced at baseline",
    "baseline_unread": "KL is missing at baseline",
    "baseline_kl4": "KL is 4 at baseline: the grade cannot grow",
    "lost_to_follow_up": "no progression was seen, and the last visit was missed",
}
"""Reasons why a knee has no label, in the order in which they are checked."""

OUTCOMES = ("outcomes99", "oai_outcome01")
"""OAI's table of outcomes in the study's own release, and in the NIMH Data Archive's."""

RULES = ("coded", "published")
FOLLOW_UPS = ("subject", "knee")

_KNEE = ["subject", "side"]
_COLUMNS = [*_KNEE, "visit", "kl", "prosthesis"]
# Month of each visit number in `outcomes99`. Visits of odd months were telephone calls.
_MONTHS = {1: 12, 2: 18, 3: 24, 4: 30, 5: 36, 6: 48, 7: 60, 8: 72, 9: 84, 10: 96, 11: 108}


def label_progression(
    readings: pd.DataFrame,
    *,
    replacements: pd.DataFrame | None = None,
    rule: str = "coded",
    visits: Sequence[int] = VISITS,
    fast_until: int = FAST_UNTIL,
    follow_up: str = "subject",
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Label every knee by the first visit at which it was worse than at baseline.

    Worse is a higher KL grade, except 1 after 0, or a joint that has been replaced. A knee that was
    never worse has not progressed if it was seen at the last visit; otherwise its label is unknown.

    Args:
        readings: Table with columns `subject`, `side`, `visit` (months), `kl` (int, -1 missing) and
            `prosthesis` (bool); of several rows of a knee and visit the first one counts.
        replacements: Table with columns `subject`, `side`, `visit` (month by which the joint had
            been replaced, not necessarily one of `visits`), as returned by `read_replacements`.
        rule: 'coded': replacements are those of a code or of `replacements`, and a reading that is
            missing for another reason does not count as a visit. 'published': every missing reading
            after baseline is a replacement, as in the published code (43 of its 4,928 knees
            progressed in this way), and a row without a reading counts as a visit.
        visits: Months whose readings count, ascending; the first is the baseline.
        fast_until: Month up to which a progression is fast.
        follow_up: Who must have been seen at the last visit if there was no progression: the
            'subject' (either knee, as published) or the same 'knee'.

    Returns:
        Table with one row per knee, in order of subject and side: `subject`, `side`, `kl` (at
        baseline, -1 missing), `progression` (0 none, 1 fast, 2 slow, -1 excluded), `month` (of the
        progression, -1 if there is none), `reason` (key of `REASONS`, '' if the knee has a label).
        And counts of knees by label and by reason, and of rows that were not used.

    Raises:
        UserError: A column is missing, a KL grade is out of range, or an argument is unknown.
    """
    _check(readings, replacements, rule, visits, follow_up)
    published = rule == "published"
    baseline, last = visits[0], visits[-1]
    of_visits = readings[readings["visit"].isin(visits)]
    rows = of_visits.drop_duplicates([*_KNEE, "visit"])
    known = (rows["kl"] != MISSING) | rows["prosthesis"]
    if replacements is None:
        replacements = pd.DataFrame({name: [] for name in [*_KNEE, "visit"]})

    first = rows.loc[rows["visit"] == baseline, [*_KNEE, "kl", "prosthesis"]]
    later = rows[rows["visit"] > baseline].merge(
        first[[*_KNEE, "kl"]], on=_KNEE, suffixes=("", "_before")
    )
    grown = (later["kl"] > later["kl_before"]) & (later["kl"] != 1)
    gone = later["prosthesis"] | (published & (later["kl"] == MISSING))
    replaced = replacements[replacements["visit"].between(baseline, last, inclusive="right")]
    events = pd.concat([later.loc[grown | gone, [*_KNEE, "visit"]], replaced])
    at_last = rows[(rows["visit"] == last) & (known | published)]
    who = ["subject"] if follow_up == "subject" else _KNEE

    knees = readings[_KNEE].drop_duplicates().sort_values(_KNEE).merge(first, how="left", on=_KNEE)
    month = _lookup(events.groupby(_KNEE)["visit"].min(), knees, _KNEE)
    was_seen = _is_in(knees, at_last, who)
    replaced_before = _is_in(knees, replacements[replacements["visit"] <= baseline], _KNEE)
    progressed = month.notna()
    reason = np.select(
        [
            knees["kl"].isna(),
            knees["prosthesis"].eq(True) | replaced_before,
            knees["kl"].eq(MISSING),
            knees["kl"].eq(4),
            ~progressed & ~was_seen,
        ],
        list(REASONS),
        "",
    )
    speed = np.select([~progressed, month <= fast_until], [NONE, FAST], SLOW)
    labelled = reason == ""
    table = knees[_KNEE].assign(
        kl=knees["kl"].fillna(MISSING).astype("int8"),
        progression=np.where(labelled, speed, UNKNOWN).astype("int8"),
        month=month.where(labelled).fillna(-1).astype("int16"),
        reason=reason,
    )
    counts = {
        "knees": len(table),
        **{name: int((table["progression"] == value).sum()) for name, value in _NAMES.items()},
        **{name: int((reason == name).sum()) for name in REASONS},
        "duplicate_readings": len(of_visits) - len(rows),
        "readings_of_other_visits": len(readings) - len(of_visits),
        "replacements_after_the_last_visit": int((replacements["visit"] > last).sum()),
        "replacements_of_other_knees": int((~_is_in(replacements, knees, _KNEE)).sum()),
    }
    return table, counts


_NAMES = {"none": NONE, "fast": FAST, "slow": SLOW}


def _lookup(values: pd.Series, rows: pd.DataFrame, keys: list[str]) -> pd.Series:
    """Return the value of each row's keys, NaN if there is none."""
    return rows[keys].merge(values.rename("value"), how="left", on=keys)["value"].astype("float64")


def _is_in(rows: pd.DataFrame, others: pd.DataFrame, keys: list[str]) -> np.ndarray:
    """Return for each row whether its keys are in a row of the others."""
    return pd.MultiIndex.from_frame(rows[keys]).isin(pd.MultiIndex.from_frame(others[keys]))


def _check(
    readings: pd.DataFrame,
    replacements: pd.DataFrame | None,
    rule: str,
    visits: Sequence[int],
    follow_up: str,
) -> None:
    for name, value, choices in (("rule", rule, RULES), ("follow_up", follow_up, FOLLOW_UPS)):
        if value not in choices:
            raise UserError(f"progression: {name} = '{value}': choose {' or '.join(choices)}")
    if len(visits) < 2 or any(np.diff(visits) <= 0):
        raise UserError(f"progression: visits {tuple(visits)} are not two or more ascending months")
    for table, columns in ((readings, _COLUMNS), (replacements, [*_KNEE, "visit"])):
        if table is not None and (missing := set(columns) - set(table.columns)):
            raise UserError(
                f"progression: the table lacks the columns {', '.join(sorted(missing))}"
            )
    if replacements is not None and rule == "published":
        raise UserError("progression: the published rule knows no table of replacements; leave it")
    strange = readings.loc[~readings["kl"].isin(range(MISSING, 5)), "kl"]
    if len(strange):
        raise UserError(f"progression: KL {strange.iloc[0]} is not of the scale -1 (missing), 0..4")


def tidy(readings: Mapping[KneeVisit, Reading]) -> pd.DataFrame:
    """Return the readings of an inventory as the table that `label_progression` takes."""
    rows = [
        (*knee, int(reading.grades[0]), reading.unusable == "prosthesis")
        for knee, reading in readings.items()
    ]
    types = {"visit": "int64", "kl": "int64", "prosthesis": "bool"}
    return pd.DataFrame(rows, columns=_COLUMNS).astype(types)


def read_replacements(folder: Path) -> pd.DataFrame:
    """Read from OAI's `OUTCOMES` the visit at which each replaced joint was first reported.

    Args:
        folder: Folder of the tables.

    Returns:
        Table with columns `subject`, `side`, `visit` (months), one row per replaced joint.

    Raises:
        UserError: There is no table, or a column or the number of a visit is not OAI's.
    """
    path = find_table(folder, *OUTCOMES)
    columns, subject = {"L": "V99ELKVSRP", "R": "V99ERKVSRP"}, "ID"
    if path.name.lower().startswith("oai_"):
        columns, subject = {"L": "LKVSRP", "R": "RKVSRP"}, "SRC_SUBJECT_ID"
    table = read_table(path, [subject, *columns.values()])
    of_sides = []
    for side, column in columns.items():
        visit = numbers(table[column], path).dropna()
        month = visit.map(_MONTHS)
        if month.isna().any():
            number = visit[month.isna()].iloc[0]
            raise UserError(f"{path}: {column} holds {number:g}, not a visit's number 1..11")
        who = identifiers(table[subject])[visit.index]
        of_sides.append(pd.DataFrame({"subject": who, "side": side, "visit": month.astype(int)}))
    return pd.concat(of_sides).sort_values(_KNEE, ignore_index=True)


def read_labels(path: Path) -> dict[tuple[str, str], tuple[int, int]]:
    """Read labels as published by Panfilov et al. 2022: `ID, Side, KL, Progressor`.

    Args:
        path: Path of the table; other columns are ignored.

    Returns:
        KL at baseline and progression, by (subject, side).

    Raises:
        UserError: The file is not a table, a column is missing, a value is out of range, or a knee
            has several rows.
    """
    table = read_table(path, ["ID", "SIDE", "KL", "PROGRESSOR"])
    subject, side = identifiers(table["ID"]), table["SIDE"].str.strip().str.upper()
    scales = {"KL": range(5), "PROGRESSOR": (NONE, FAST, SLOW)}
    values = [numbers(table[column], path) for column in scales]
    wrong = ~side.isin(["L", "R"])
    for value, scale in zip(values, scales.values()):
        wrong |= ~value.isin(scale)
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        found = ", ".join(f"{name} {table[name][row]}" for name in ("SIDE", *scales))
        raise UserError(
            f"{path}: row {row + 1} has {found}; Side must be L or R, KL 0 to 4, and Progressor 0 "
            "(none), 1 (fast) or 2 (slow)"
        )
    again = pd.DataFrame({"subject": subject, "side": side}).duplicated()
    if again.any():
        row = int(again.to_numpy().argmax())
        raise UserError(f"{path}: {subject[row]} {side[row]} has several rows; leave the right one")
    kl, progression = (value.astype(int) for value in values)
    return dict(zip(zip(subject, side), zip(kl.tolist(), progression.tolist())))


def exclusions(labels: pd.DataFrame, visit: int = VISITS[0]) -> list[Exclusion]:
    """Return the knees without a label as exclusions.

    Args:
        labels: Table of `label_progression`.
        visit: Month of the baseline.
    """
    return [
        Exclusion(subject, side, visit, "", reason, REASONS[reason])
        for subject, side, reason in labels[[*_KNEE, "reason"]].itertuples(index=False)
        if reason
    ]
