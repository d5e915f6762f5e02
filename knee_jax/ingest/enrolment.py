"""Subjects of a study at enrolment: site, sex, race, age and body mass index.

OAI's tables are `enrollees` and `allclinical00`, or `oai_enrollee01` and `oai_oarisk01` of the NIMH
Data Archive. MOST's is `mostv0enroll`, which has neither site nor race.
"""

import math
import pathlib

import pandas as pd

from knee_jax.errors import UserError
from knee_jax.ingest.tables import (
    codes,
    find_table,
    identifiers,
    look_for_table,
    named,
    numbers,
    read_table,
)

COLUMNS = ("subject", "site", "sex", "race", "age", "bmi")
"""Columns of the table of subjects, '' or NaN where unknown.

`sex` is M or F, `age` is in years, `bmi` in kg/m².
"""

ENROLLEES = ("enrollees", "oai_enrollee01")
"""OAI's table of subjects in the study's own release, and in the archive's."""

CLINICAL = ("allclinical00", "oai_oarisk01")
"""OAI's table of the first visit with the body mass index, in the same two releases."""

MOST_ENROLMENT = "mostv0enroll"

_SEXES = {"1": "M", "2": "F"}
_SEXES_OF_ARCHIVE = {"M": "M", "F": "F", "O": "", "NR": ""}
# The Oulu code bases take 1 for male in both studies; they do not give the code of women.
_SEXES_OF_MOST = {"1": "M", "0": "F", "2": "F"}
_RACES = {
    "0": "Other Non-white",
    "1": "White or Caucasian",
    "2": "Black or African American",
    "3": "Asian",
}


def read_oai(folder: pathlib.Path) -> pd.DataFrame:
    """Read OAI's subjects; age and body mass index are unknown where their table is missing.

    Args:
        folder: Folder of the tables.

    Returns:
        Table with `COLUMNS`, one row per subject, in the order of the file.

    Raises:
        UserError: There is no table of enrollees, there are tables of two releases, a column is
            missing, a value does not belong to its column, or a subject has two different rows.
    """
    people = _read_enrollees(find_table(folder, *ENROLLEES))
    if not any(look_for_table(folder, name) for name in CLINICAL):
        return people
    path = find_table(folder, *CLINICAL)
    if _is_archive(path):
        table = read_table(path, ["SUBJECTKEY", "VISIT", "BMI"])
        table = table[table["VISIT"].str.strip().str.upper() == "V00"]
        bmi = numbers(table["BMI"], path)
        # The archive's dictionary has negative codes for missing values.
        measured = pd.DataFrame({"subject": _subjects(table), "bmi": bmi.where(bmi > 0)})
    else:
        table = read_table(path, ["ID", "V00AGE", "P01BMI"])
        measured = pd.DataFrame(
            {
                "subject": _subjects(table),
                "age": numbers(table["V00AGE"], path),
                "bmi": numbers(table["P01BMI"], path),
            }
        )
    people = people.drop(columns=measured.columns.drop("subject"))
    return people.merge(_one_row_each(measured, path), how="left", on="subject")[list(COLUMNS)]


def read_sites(folder: pathlib.Path) -> dict[str, str]:
    """Read the clinical site (A to E) of each subject of OAI.

    Raises:
        UserError: There is no table of enrollees, there are tables of two releases, or a column is
            missing.
    """
    path = find_table(folder, *ENROLLEES)
    subject, site = ("SUBJECTKEY", "SITE") if _is_archive(path) else ("ID", "V00SITE")
    table = read_table(path, [subject, site])
    return dict(zip(_subjects(table), codes(table[site]).astype(str)))


def read_most(folder: pathlib.Path) -> pd.DataFrame:
    """Read MOST's subjects; the table is empty where the file is missing.

    Args:
        folder: Folder of the tables.

    Returns:
        Table with `COLUMNS`, one row per subject, in the order of the file.

    Raises:
        UserError: A column is missing, a value does not belong to its column, or a subject has two
            different rows.
    """
    if not (path := look_for_table(folder, MOST_ENROLMENT)):
        return pd.DataFrame(columns=COLUMNS)
    table = read_table(path, ["MOSTID", "SEX", "AGE", "V0BMI"])
    people = {
        "subject": identifiers(table["MOSTID"]).str.upper(),
        "sex": named(table["SEX"], _SEXES_OF_MOST, path),
        "age": numbers(table["AGE"], path),
        "bmi": numbers(table["V0BMI"], path),
    }
    return _one_row_each(_table(people), path)


LOADERS = {"oai": read_oai, "most": read_most}
"""Functions that read the subjects, by study (a key of `knee_jax.ingest.study.LAYOUTS`)."""


def _read_enrollees(path: pathlib.Path) -> pd.DataFrame:
    if _is_archive(path):
        table = read_table(path, ["SUBJECTKEY", "SITE", "SEX", "RACE", "AGEYEARS"])
        people = {
            "site": table["SITE"].str.strip(),
            "sex": named(table["SEX"], _SEXES_OF_ARCHIVE, path),
            "race": table["RACE"].str.strip(),
            "age": numbers(table["AGEYEARS"], path),
        }
    else:
        table = read_table(path, ["ID", "V00SITE", "P02SEX", "P02RACE"])
        people = {
            "site": codes(table["V00SITE"]).astype(str),
            "sex": named(table["P02SEX"], _SEXES, path),
            "race": named(table["P02RACE"], _RACES, path),
        }
    return _one_row_each(_table({"subject": _subjects(table)} | people), path)


def _is_archive(path: pathlib.Path) -> bool:
    return path.name.lower().startswith("oai_")


def _subjects(table: pd.DataFrame) -> pd.Series:
    """Return the study's ids, which the films have; the archive adds its own keys."""
    names = ("ID", "SRC_SUBJECT_ID", "SUBJECTKEY")
    return identifiers(table[next(name for name in names if name in table)])


def _table(people: dict) -> pd.DataFrame:
    """Return the table with all columns, filling in missing ones as unknown."""
    unknown = {name: math.nan if name in ("age", "bmi") else "" for name in COLUMNS}
    return pd.DataFrame(people).assign(
        **{name: value for name, value in unknown.items() if name not in people}
    )[list(COLUMNS)]


def _one_row_each(people: pd.DataFrame, path: pathlib.Path) -> pd.DataFrame:
    """Reduce the table to one row per subject."""
    people = people.drop_duplicates()
    again = people["subject"].duplicated()
    if again.any():
        subject = people["subject"][again].iloc[0]
        raise UserError(f"{path}: subject {subject} has two rows that differ; leave the right one")
    return people.reset_index(drop=True)
