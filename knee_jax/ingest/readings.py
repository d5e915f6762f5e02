"""Semi-quantitative reading tables of OAI (`kxr_sq_bu*`) → seven grades a knee and visit.

One table a visit, as SAS file or as its '|'-separated twin; a row is a subject, a side and a
reading project. Facts on columns and codes: the Oulu code bases and the public OAI_summary.csv.
"""

import pathlib
import re

import numpy as np
import pandas as pd
import pyreadstat

from knee_jax.errors import UserError
from knee_jax.grades import GRADES, MISSING, NUM_CLASSES
from knee_jax.ingest.inventory import DEFAULT_RULES, Reading, Rules

VISITS = {0: "00", 12: "01", 24: "03", 36: "05", 48: "06", 72: "08", 96: "10"}
"""Month of a visit → its code in file and column names. No table exists for other months."""

_SIDES = {1: "R", 2: "L"}
_SUFFIXES = ("sas7bdat", "txt", "csv")
_PROSTHESIS = ("prosthesis", "read as .P: the joint has been replaced")
# Blank, SAS's '.', or a special missing code: .P prosthesis, .T poor image, .A not expected.
_MISSING = re.compile(r"\.?[A-Z]?")


def read_readings(
    folder: pathlib.Path, visit: int, rules: Rules = DEFAULT_RULES
) -> tuple[dict[tuple[str, str], Reading], dict[str, int]]:
    """Reads the table of one visit.

    Of several rows of a knee that with a KL grade counts before one without, then the project in
    the order of the rules, then the first in the file. Grades are never mixed across rows. Project
    15 read months 0 to 48 only; months 72 and 96 were read by the projects 37 and 42.

    Args:
        folder: where the tables lie.
        visit: months since baseline, a key of `VISITS`.
        rules: which project counts, and what becomes of decimals.

    Returns:
        The reading of every (subject, side), and counts of `duplicate_readings` (rows of the same
        knee and project), `other_projects` (rows of a knee that another project's row stands for)
        and `grades_out_of_range` (values such as 8 or 9, which become missing).

    Raises:
        UserError: no table, a column is missing, or a value is neither a number nor a code.
    """
    code = VISITS[visit]
    path = find_table(folder, f"kxr_sq_bu{code}")
    columns = {grade: f"V{code}XR{grade.upper()}" for grade in GRADES}
    table = read_table(path, ["ID", "SIDE", "READPRJ", *columns.values()])
    rows = pd.DataFrame({"subject": identifiers(table["ID"])})
    rows["side"] = numbers(table["SIDE"], path).map(_SIDES)
    if rows["side"].isna().any():
        line = int(rows["side"].isna().to_numpy().argmax()) + 1
        raise UserError(f"{path}: SIDE of row {line} is neither 1 (right) nor 2 (left)")
    project = numbers(table["READPRJ"], path)
    order = {project: place for place, project in enumerate(rules.projects)}
    values = np.column_stack([numbers(table[columns[grade]], path) for grade in GRADES])
    grades, out_of_range = round_grades(values, rules.rounding)
    rows["prosthesis"] = codes(table[columns["kl"]]).eq("P")
    rows["unread"] = (grades[:, 0] == MISSING) & ~rows["prosthesis"]
    rows["priority"] = project.map(order).fillna(len(order))
    knee = ["subject", "side"]
    duplicates = int(rows.assign(project=project).duplicated([*knee, "project"]).sum())
    chosen = rows.sort_values(["unread", "priority"], kind="stable").drop_duplicates(knee)
    readings = {
        (str(subject), str(side)): Reading(grades[row], *_PROSTHESIS * bool(prosthesis))
        for row, subject, side, prosthesis in zip(
            chosen.index, chosen["subject"], chosen["side"], chosen["prosthesis"]
        )
    }
    counts = {
        "duplicate_readings": duplicates,
        "other_projects": len(rows) - len(chosen) - duplicates,
        "grades_out_of_range": out_of_range,
    }
    return readings, counts


def round_grades(values: np.ndarray, rounding: str = "floor") -> tuple[np.ndarray, int]:
    """Makes whole grades of readings.

    A decimal says that a knee changed within its grade: JSN 1.5 has not reached grade 2. So it is
    cut off ('floor', and so counts Table 1 of Tiulpin & Saarakkala 2020). The published training
    code rounds half to even ('half_even': 0.5 → 0, 1.5 → 2, 2.5 → 2), which splits such knees
    between the grades.

    Args:
        values: float [rows, 7] in the order of `GRADES`, NaN where missing.
        rounding: 'floor' or 'half_even'.

    Returns:
        int8 [rows, 7], -1 where missing or beyond the scale; and how many were beyond it.
    """
    whole = {"floor": np.floor, "half_even": np.rint}[rounding](values)
    beyond = (whole < 0) | (whole >= [NUM_CLASSES[grade] for grade in GRADES])
    return np.where(beyond | np.isnan(whole), MISSING, whole).astype(np.int8), int(beyond.sum())


def read_sites(folder: pathlib.Path) -> dict[str, str]:
    """Reads the clinical site (A to E) of every subject from the table `enrollees`.

    Raises:
        UserError: no table, or it lacks a column.
    """
    table = read_table(find_table(folder, "enrollees"), ["ID", "V00SITE"])
    sites = table["V00SITE"].astype(str).str.split(":").str[0].str.strip()
    return dict(zip(identifiers(table["ID"]), sites))


def find_table(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Finds `{name}.sas7bdat`, `{name}.txt` or `{name}.csv`, in whatever case.

    Raises:
        UserError: none is there.
    """
    files = {path.name.lower(): path for path in folder.glob("*")}
    for suffix in _SUFFIXES:
        if found := files.get(f"{name}.{suffix}"):
            return found
    raise UserError(f"{folder}: the table {name}.sas7bdat or {name}.txt is missing; copy it here")


def read_table(path: pathlib.Path, columns: list[str]) -> pd.DataFrame:
    """Reads a table as it is, with upper-case column names.

    Args:
        path: a SAS file or a text file, separated by '|' or, if its header has none, by commas.
        columns: upper-case names of the columns that must be there.

    Raises:
        UserError: the file cannot be read as a table, or a column is missing.
    """
    try:
        if path.suffix.lower() == ".sas7bdat":
            # user_missing keeps SAS's special codes, as letters.
            table, _ = pyreadstat.read_sas7bdat(str(path), user_missing=True)
        else:
            with path.open(encoding="latin-1") as file:
                separator = "|" if "|" in file.readline() else ","
            table = pd.read_csv(
                path, sep=separator, dtype=str, keep_default_na=False, encoding="latin-1"
            )
    except (pyreadstat.ReadstatError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"{path}: not a table ({error}); copy it again from the study") from error
    table.columns = table.columns.str.strip().str.upper()
    for column in columns:
        if column not in table.columns:
            raise UserError(f"{path}: the column {column} is missing; use the study's own table")
    return table


def identifiers(column: pd.Series) -> pd.Series:
    """Subject ids as text; SAS stores them as text or as numbers."""
    return column.astype(str).str.strip().str.removesuffix(".0")


def codes(column: pd.Series) -> pd.Series:
    """What stands before the colon of coded values: '1: Right' → '1', '.P: Prosthetic' → 'P'."""
    text = column.astype("string").fillna("").str.split(":").str[0].str.strip()
    return text.where(~text.str.fullmatch(_MISSING), text.str.removeprefix("."))


def numbers(column: pd.Series, path: pathlib.Path) -> pd.Series:
    """Values of a column as floats, NaN where it is blank or holds a missing code.

    Args:
        column: as `read_table` gives it.
        path: of the table, for the message.

    Raises:
        UserError: a value is neither a number nor a code.
    """
    text = codes(column)
    missing = text.str.fullmatch(_MISSING)
    numbers = pd.to_numeric(text.mask(missing), errors="coerce").astype("float64")
    wrong = numbers.isna() & ~missing
    if wrong.any():
        value = column[wrong].iloc[0]
        raise UserError(f"{path}: column {column.name} holds {value!r}, not a grade or code")
    return numbers
