"""Seven grades per knee and visit, from the semi-quantitative readings of OAI's films.

A table has one row per subject, side and reading project. The study's own release has one table per
visit, `kxr_sq_bu*`, as a SAS file or as text; the NIMH Data Archive has one table of all visits,
`oai_kxrsemiquant01`, whose columns have no visit in their names. Facts on columns and codes: the
Oulu code bases, the public OAI_summary.csv, and public code that reads the archive's tables.
"""

import collections
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from knee_jax.errors import UserError
from knee_jax.ingest.inventory import DEFAULT_RULES, UNREAD, KneeVisit, Reading, Rules
from knee_jax.ingest.tables import (
    check_columns,
    codes,
    find_table,
    identifiers,
    look_for_table,
    numbers,
    read_table,
)
from knee_jax.targets.grades import GRADES, MISSING, NUM_CLASSES

VISITS = {0: "00", 12: "01", 24: "03", 36: "05", 48: "06", 72: "08", 96: "10"}
"""Code of each visit in file and column names, by month. Films of other months were not read."""

ARCHIVE = "oai_kxrsemiquant01"
"""Name of the table of the NIMH Data Archive."""

CODES = {"P": "prosthesis", "T": "poor_film", "A": "not_expected", "M": "missing"}
"""Meaning of SAS's special missing values in OAI."""

OTHER_SIGNS = ("scfl", "scfm", "sctl", "sctm", "attl", "attm")
"""Signs that the same readers graded besides the seven grades: sclerosis and attrition."""

ORDERS = ("projects", "file")
"""Choices among several rows of a knee; see `Rules.order`."""

SIDES = {1: "R", 2: "L"}
"""Side of each code in OAI's tables."""

_PROSTHESIS = ("prosthesis", "read as .P: the joint has been replaced")
_KNEE = ["subject", "side"]


class _Table(NamedTuple):
    """Readings of one visit.

    Attributes:
        path: Path of the file.
        rows: Rows as returned by `read_table`.
        subject: Name of the column of ids.
        columns: Name of the column of each grade, and of each of `OTHER_SIGNS` if wanted.
        barcode: Name of the column of the film's barcode, which may be missing.
    """

    path: pathlib.Path
    rows: pd.DataFrame
    subject: str
    columns: dict[str, str]
    barcode: str


def read_readings(
    folder: pathlib.Path, visits: Sequence[int], rules: Rules = DEFAULT_RULES
) -> tuple[dict[KneeVisit, Reading], dict[str, int]]:
    """Read the grades of all visits that have a table.

    Only rows of the projects in the rules count; a knee without such a row has the unusable reading
    `other_project`. Project 15 read months 0 to 48 only; months 72 and 96 were read by projects 37
    and 42. Of several rows of a knee, one with a KL grade counts before one without, then the
    project that comes first in the rules, then the first row in the file. With the order 'file', as
    in the published code, the first row in the file counts. If the rules demand every sign, a row
    with all of them counts before one without. Grades are never mixed across rows.

    Args:
        folder: Folder of the tables.
        visits: Months since baseline whose table must be present; months whose films were never
            read are ignored.
        rules: Rules for projects, rows and decimals.

    Returns:
        The reading of every knee in the tables, and counts of rows: `duplicate_readings` (of the
        same knee and project), `other_projects` (another project's row stands for the knee),
        `readings_of_project_{n}_left_out`, `readings_of_another_version` (than most rows of their
        table), `readings_of_unknown_visits` (of the archive's table: none of `VISITS`); of knees:
        `readings_coded_{code}` (some grade has that value of `CODES`), `unread_{code}` and
        `unread_blank` (no grade is there; by the value of KL); and `grades_out_of_range` (values
        such as 8 or 9, which become missing).

    Raises:
        UserError: The table of a visit is missing or there are two releases of it, a column is
            missing, a value is neither a number nor a code, or a rule is unknown.
    """
    if rules.order not in ORDERS:
        raise UserError(f"readings: order = {rules.order!r}: choose {' or '.join(ORDERS)}")
    read: dict[KneeVisit, Reading] = {}
    notes: collections.Counter[str] = collections.Counter()
    signs = (*GRADES, *OTHER_SIGNS) if rules.fully_read else GRADES
    for visit, table in _tables(folder, [v for v in visits if v in VISITS], signs, notes):
        rows, values = _parse(table, notes)
        grades, out_of_range = round_grades(values[:, : len(GRADES)], rules.rounding)
        notes["grades_out_of_range"] += out_of_range
        complete = (grades != MISSING).all(axis=1) & ~np.isnan(values).any(axis=1)
        lacking = ~complete if rules.fully_read else grades[:, 0] == MISSING
        chosen = _choose(rows, lacking, rules, notes)
        columns = ("subject", "side", "project", "code", "barcode")
        for row, subject, side, project, code, barcode in zip(
            chosen.index, *(chosen[c] for c in columns)
        ):
            reading = Reading(grades[row], fully_read=bool(complete[row]), barcode=barcode)
            if project not in rules.projects:
                detail = f"read by project {project:g} alone, which the rules leave out"
                reading = Reading(UNREAD.grades, "other_project", detail)
            elif code == "P":
                reading = Reading(grades[row], *_PROSTHESIS)
            elif (reading.grades == MISSING).all():
                notes[f"unread_{CODES.get(code, 'blank')}"] += 1
            read[subject, side, visit] = reading
        for code, name in CODES.items():
            notes[f"readings_coded_{name}"] += int(
                chosen["codes"].astype(str).str.contains(code).sum()
            )
    return read, dict(notes)


def _tables(
    folder: pathlib.Path,
    visits: Sequence[int],
    signs: Sequence[str],
    notes: collections.Counter,
) -> Iterator[tuple[int, _Table]]:
    names = {visit: f"kxr_sq_bu{code}" for visit, code in VISITS.items()}
    needed = {visit: find_table(folder, names[visit], ARCHIVE) for visit in visits}
    if archive := look_for_table(folder, ARCHIVE):
        yield from _of_archive(archive, visits, signs, notes)
        return
    for visit, name in names.items():
        if path := needed.get(visit) or look_for_table(folder, name):
            yield visit, _of_visit(path, VISITS[visit], signs)


def _of_visit(path: pathlib.Path, code: str, signs: Sequence[str]) -> _Table:
    """Read the study's own table of one visit."""
    rows = read_table(path, ["ID", "SIDE", "READPRJ"])
    columns = {sign: f"V{code}XR{sign.upper()}" for sign in signs}
    others = rows.columns[rows.columns.str.fullmatch(r"V\d\dXRKL")]
    if columns["kl"] not in rows and len(others):
        raise UserError(
            f"{path}: its columns are of {others[0][:3]}, not V{code}: the table of another visit; "
            f"copy the study's own {path.name} here"
        )
    check_columns(rows, path, columns.values())
    return _Table(path, rows, "ID", columns, f"V{code}BARCDBU")


def _of_archive(
    path: pathlib.Path,
    visits: Sequence[int],
    signs: Sequence[str],
    notes: collections.Counter,
) -> Iterator[tuple[int, _Table]]:
    """Yield the visits in the archive's table of all visits, by the study's subject ids."""
    columns = {sign: f"XR{sign.upper()}" for sign in signs}
    table = read_table(path, ["SUBJECTKEY", "VISIT", "SIDE", "READPRJ", *columns.values()])
    subject = next(name for name in ("SRC_SUBJECT_ID", "SUBJECTKEY") if name in table)
    visit_of = table["VISIT"].str.strip().str.upper()
    for visit, code in VISITS.items():
        rows = table[visit_of == f"V{code}"]
        if not rows.empty:
            yield visit, _Table(path, rows, subject, columns, "BARCODE")
        elif visit in visits:
            raise UserError(f"{path}: no row is of V{code} (month {visit}); use the whole table")
    known = [f"V{code}" for code in VISITS.values()]
    notes["readings_of_unknown_visits"] += int((~visit_of.isin(known)).sum())


def _parse(table: _Table, notes: collections.Counter) -> tuple[pd.DataFrame, np.ndarray]:
    """Return a table of the rows' identity, codes and barcode; and the values of their signs.

    Its columns are `subject`, `side`, `project`, `code` (of KL), `codes` (of all grades) and
    `barcode`.
    """
    path, rows = table.path, table.rows
    side = numbers(rows["SIDE"], path).map(SIDES)
    if side.isna().any():
        line = side.index[side.isna()][0] + 1
        raise UserError(f"{path}: SIDE of row {line} is neither 1 (right) nor 2 (left)")
    if "VERSION" in rows:
        versions = rows["VERSION"].astype(str)
        notes["readings_of_another_version"] += int((versions != versions.mode()[0]).sum())
    cells = [rows[column] for column in table.columns.values()]
    barcode = identifiers(rows[table.barcode]) if table.barcode in rows else side.map(lambda _: "")
    parsed = pd.DataFrame(
        {
            "subject": identifiers(rows[table.subject]),
            "side": side,
            "project": numbers(rows["READPRJ"], path),
            "code": codes(cells[0]),
            "codes": ["".join(letters) for letters in zip(*map(codes, cells))],
            "barcode": barcode.where(barcode.str.isdecimal(), ""),
        }
    )
    values = np.column_stack([numbers(cell, path) for cell in cells])
    return parsed.reset_index(drop=True), values


def _choose(
    rows: pd.DataFrame, lacking: np.ndarray, rules: Rules, notes: collections.Counter
) -> pd.DataFrame:
    """Choose one row per knee, from a project outside the rules only if there is no other.

    Args:
        rows: Rows of `_parse`.
        lacking: Whether each row counts after others of its knee, bool [rows].
        rules: Rules with the projects that count.
        notes: Counter of rows that are not chosen, updated in place.
    """
    listed = rows["project"].isin(rules.projects)
    left_out = rows[~listed]
    for project, count in left_out["project"].value_counts(dropna=False).sort_index().items():
        notes[f"readings_of_project_{project:g}_left_out"] += int(count)
    place = {project: place for place, project in enumerate(rules.projects)}
    ranked = rows.assign(
        lacking=lacking & (rows["code"] != "P").to_numpy(bool), place=rows["project"].map(place)
    )[listed]
    if rules.order == "projects":
        ranked = ranked.sort_values(["lacking", "place"], kind="stable")
    chosen = ranked.drop_duplicates(_KNEE)
    again = int(ranked.duplicated([*_KNEE, "project"]).sum())
    notes["duplicate_readings"] += again
    notes["other_projects"] += len(ranked) - len(chosen) - again
    of_other_projects = pd.concat([chosen, left_out]).drop_duplicates(_KNEE)[len(chosen) :]
    return pd.concat([chosen, of_other_projects])


def round_grades(values: np.ndarray, rounding: str = "floor") -> tuple[np.ndarray, int]:
    """Round readings to whole grades.

    A decimal means that a knee changed within its grade: JSN 1.5 has not reached grade 2. It is
    therefore cut off ('floor', as in the counts of Table 1 of Tiulpin & Saarakkala 2020). The
    published training code rounds half to even ('half_even': 0.5 → 0, 1.5 → 2, 2.5 → 2), which
    divides such knees between the grades.

    Args:
        values: Readings, float [rows, 7] in the order of `GRADES`, NaN where missing.
        rounding: 'floor' or 'half_even'.

    Returns:
        Grades, int8 [rows, 7], -1 where missing or out of range; and the number out of range.
    """
    rounded = {"floor": np.floor, "half_even": np.rint}[rounding](values)
    beyond = (rounded < 0) | (rounded >= [NUM_CLASSES[grade] for grade in GRADES])
    return np.where(beyond | np.isnan(rounded), MISSING, rounded).astype(np.int8), int(beyond.sum())
