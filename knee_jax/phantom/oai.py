"""Layout of a study tree as OAI's: folders by visit, one reading table per visit, the enrollees.

`<root>/00m/0.C.1/<subject>/<date>/<barcode>/001` is a film. `<root>/tables/` holds, as released by
the study itself, `kxr_sq_bu<code>.txt` per visit, `kxr_qjsw_duryea<code>.txt` per visit with films,
`enrollees.txt`, `AllClinical00.txt` and `outcomes99.txt`; or as released by the NIMH Data Archive,
`oai_kxrsemiquant01.txt` and three more.
"""

import csv
import datetime
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from knee_jax.phantom import severity
from knee_jax.phantom.layout import Film, Layout, Machine
from knee_jax.targets.grades import GRADES

COHORT = severity.OAI
VISIT_CODES = dict(zip(COHORT.schedule, ("00", "01", "03", "05", "06", "08", "10")))
"""OAI's code of each visit, by month."""

_MISSING_CODES = {"P": ".P: Prosthetic", "T": ".T: Technical problems", "A": ".A: Not expected"}
_BLANK = ".: Missing Form/Incomplete Workbook"
_REPLACED = {"L": "V99ELKVSRP", "R": "V99ERKVSRP"}
# Columns of a reading table that carry the visit's code.
_READ = ("BARCDBU", *(f"XR{name.upper()}" for name in GRADES), "XRSCFL", "XRSCFM", "XRSCTL",
         "XRSCTM", "XRATTL", "XRATTM")  # fmt: skip
# Machine of each site.
_MACHINES = {
    "A": Machine("Phantom CR", 352.0, 1.22, 12, False),
    "B": Machine("Phantom CR", 348.0, 1.22, 10, True),
    "C": Machine("Phantom DX", 300.0, 1.36, 14, False),
    "D": Machine("Phantom DX", 330.0, 1.26, 12, True),
    "E": Machine("Phantom CR", 280.0, 1.45, 12, False),
}
_SITES = tuple(_MACHINES)


def subject_id(number: int) -> str:
    """Return seven digits like OAI's, unique below a million subjects."""
    return str(9_000_000 + (number * 100_003 + 99) % 1_000_000)


def _describe(root: Path, seed: int, rows: int, knees: list[dict]) -> list[Film]:
    """Describe the film of two knees (right, left; rows of `severity.simulate`)."""
    number, visit = knees[0]["number"], knees[0]["visit"]
    rng = COHORT.rng(seed, number, 1)
    site, release = _SITES[rng.integers(len(_SITES))], "CE"[rng.integers(2)]
    first = datetime.date(2004, 2, 1) + datetime.timedelta(int(rng.integers(800)))
    date = (first + datetime.timedelta(round(visit * 30.44))).strftime("%Y%m%d")
    subject = subject_id(number)
    barcode = f"0{1_234_501 + 7 * number + COHORT.schedule.index(visit)}"
    folder = f"{visit:02d}m/{int(VISIT_CODES[visit])}.{release}.1/{subject}/{date}/{barcode}"
    film = Film(
        cohort=COHORT,
        machine=_MACHINES[site],
        path=root / folder / "001",
        number=number,
        subject=subject,
        site=site,
        barcode=barcode,
        date=date,
        study="OAI^KNEE",
        series="Bilateral PA Fixed Flexion Knee",
        knees=knees,
        rows=rows,
        seed=seed,
        exposure=(visit,),
    )
    return [film]


def _write_tables(
    root: Path, knees: pd.DataFrame, films: list[Film], seed: int, release: str
) -> None:
    """Write the tables of readings and subjects, in the form of the release."""
    folder = root / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    {"study": _write_study, "archive": _write_archive}[release](folder, knees, seed)


def _write_study(folder: Path, knees: pd.DataFrame, seed: int) -> None:
    """Write the study's own text tables; no free library writes the equivalent SAS files."""
    for visit in knees["visit"].unique():
        code = VISIT_CODES[visit]
        table = _readings_of(knees, visit, seed)
        table = table.rename(columns={name: f"V{code}{name}" for name in _READ})
        if code in ("01", "06"):
            table.columns = table.columns.str.lower()
        table.to_csv(folder / f"kxr_sq_bu{code}.txt", sep="|", index=False)
        # Only known for films that were made.
        if "jsw_medial" in knees:
            _write_widths(folder, knees[knees["visit"] == visit], code)
    people = _people(knees, seed)
    enrollees = people[["ID", "V00SITE", "P02SEX", "P02RACE"]]
    enrollees.to_csv(folder / "enrollees.txt", sep="|", index=False)
    clinical = people[["ID", "V00AGE", "P01BMI"]]
    clinical.to_csv(folder / "AllClinical00.txt", sep="|", index=False, na_rep=_BLANK)
    outcomes = people[["ID", *_REPLACED.values()]].rename(columns={"ID": "id"})
    outcomes.to_csv(folder / "outcomes99.txt", sep="|", index=False, na_rep=_BLANK)


def _write_widths(folder: Path, knees: pd.DataFrame, code: str) -> None:
    """Write the joint space widths of one visit; unread knees have no row."""
    measured = knees[knees["code"] != "U"]
    widths = measured["jsw_medial"].where(measured["code"].isin(["", "A"]))
    table = pd.DataFrame(
        {
            "ID": measured["subject"],
            "SIDE": measured["side"].map({"R": "1: Right", "L": "2: Left"}),
            f"V{code}BARCDJD": measured["barcode"],
            f"V{code}MCMJSW": widths.map("{:.3f}".format, na_action="ignore"),
        }
    )
    if code in ("01", "06"):
        table.columns = table.columns.str.lower()
    table.to_csv(folder / f"kxr_qjsw_duryea{code}.txt", sep="|", index=False)


def _write_archive(folder: Path, knees: pd.DataFrame, seed: int) -> None:
    """Write the tables of the NIMH Data Archive, where special missing codes are blank."""
    visits = []
    for visit in knees["visit"].unique():
        table = _readings_of(knees, visit, seed)
        grades = [name for name in _READ if name != "BARCDBU"]
        table[grades] = table[grades].astype("string").replace(r"^\..*", "", regex=True)
        table["SIDE"] = table["SIDE"].str[0]
        visits.append(table.assign(visit=f"V{VISIT_CODES[visit]}"))
    readings = pd.concat(visits).rename(columns={"BARCDBU": "barcode"})
    _write_described(folder / "oai_kxrsemiquant01.txt", readings)
    people = _people(knees, seed)
    coded = people["P02SEX"].str[0].map({"1": "M", "2": "F"})
    enrollees = pd.DataFrame({"ID": people["ID"], "visit": "V00", "ageyears": people["V00AGE"]})
    enrollees["sex"], enrollees["race"] = coded, people["P02RACE"].str[3:]
    enrollees["site"] = people["V00SITE"]
    _write_described(folder / "oai_enrollee01.txt", enrollees)
    risks = pd.DataFrame({"ID": people["ID"], "visit": "V00", "bmi": people["P01BMI"]})
    # The real table also has later visits.
    _write_described(folder / "oai_oarisk01.txt", pd.concat([risks.assign(visit="V01"), risks]))
    outcomes = people[["ID"]].assign(visit="V99")
    for side, column in _REPLACED.items():
        outcomes[f"{side.lower()}kvsrp"] = people[column].str.split(":").str[0]
    _write_described(folder / "oai_outcome01.txt", outcomes)


def _write_described(path: Path, table: pd.DataFrame) -> None:
    """Write a table of the archive: its own keys, lower-case names, and a line describing them."""
    table = table.rename(columns={"ID": "src_subject_id"})
    table.insert(0, "subjectkey", "NDAR_INV" + table["src_subject_id"].str[::-1])
    table.columns = table.columns.str.lower()
    words = pd.DataFrame([{name: f"What {name} is, in words" for name in table}])
    described = pd.concat([words, table.astype(object)])
    described.to_csv(path, sep="\t", index=False, na_rep="", quoting=csv.QUOTE_ALL)


def _readings_of(knees: pd.DataFrame, visit: int, seed: int) -> pd.DataFrame:
    """Return the readings of one visit, in columns without its code."""
    readings = itertools.chain.from_iterable(
        _readings(row, seed) for row in knees[knees["visit"] == visit].to_dict("records")
    )
    return pd.DataFrame(readings, columns=["ID", "SIDE", "READPRJ", "VERSION", *_READ])


def _people(knees: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return the subjects in the columns of the study's tables."""
    people = knees.drop_duplicates("subject")
    draws = [COHORT.rng(seed, number, 5).random(2) for number in people["number"]]
    sex, race = np.array(draws).T
    described = severity.describe(COHORT, seed, people["number"])
    table = pd.DataFrame({"ID": people["subject"].to_numpy()})
    table["V00SITE"] = people["site"].to_numpy()
    table["P02SEX"] = np.where(sex < 0.42, "1: Male", "2: Female")
    table["P02RACE"] = np.where(race < 0.8, "1: White or Caucasian", "2: Black or African American")
    table["V00AGE"], table["P01BMI"] = described["age"], described["bmi"]
    replaced = severity.replacements(knees)
    for side, column in _REPLACED.items():
        number = {month: f"{int(code)}: {month}-month" for month, code in VISIT_CODES.items()}
        table[column] = table["ID"].map(replaced[side].map(number)).astype("string")
    return table


def _readings(row: dict, seed: int) -> Iterator[dict]:
    """Yield the rows of one knee: none, one, or one of each of two projects."""
    if row["code"] == "U":
        return
    side = severity.SIDES.index(row["side"])
    rng = COHORT.rng(seed, row["number"], 6, row["visit"], side)
    grades = {name: int(row[f"read_{name}"]) for name in GRADES}
    # Sclerosis and attrition come with narrowing; they are not used for training.
    for compartment in "lm":
        narrowing = grades[f"js{compartment}"]
        for bone in "ft":
            grades[f"sc{bone}{compartment}"] = max(narrowing - 1, min(narrowing, 0))
        grades[f"att{compartment}"] = max(narrowing - 2, min(narrowing, 0))
    absent = _MISSING_CODES.get(row["code"], "")

    # Project 15 read the visits to month 48; 37 (mild knees) and 42 read the later ones and some of
    # the earlier ones again, with which they agree in 97 % (counted in a public table of OAI).
    second = 37 if grades["kl"] < 2 else 42
    projects = [second] if row["visit"] > 48 else [15]
    if row["visit"] <= 48 and not row["code"] and rng.random() < 0.15:
        projects.append(second)
    for project in projects:
        if len(projects) == 2 and project == second and rng.random() < 0.03:
            grades["kl"] = min(max(grades["kl"] + int(rng.choice([-1, 1])), 0), 4)
        cells = {
            f"XR{name.upper()}": absent if grades[name] < 0 else grades[name] for name in grades
        }
        yield cells | {
            "ID": row["subject"],
            "SIDE": ("1: Right", "2: Left")[side],
            "READPRJ": project,
            "VERSION": "0.8",
            "BARCDBU": row["barcode"],
        }


LAYOUT = Layout(
    COHORT,
    visits=(0, 12, 24),
    describe=_describe,
    write_tables=_write_tables,
    places="films (DICOM, named 001) and landmarks: {root}/*m/*/*/*/*/, readings: {root}/tables/",
    releases=("study", "archive"),
)
