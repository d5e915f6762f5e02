"""OAI's layout of a study tree: folders by visit, one reading table a visit, the enrollees.

`<root>/00m/0.C.1/<subject>/<date>/<barcode>/001` is a film. `<root>/tables/` holds
`kxr_sq_bu<code>.txt` per visit and `enrollees.txt`.
"""

import datetime
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from knee_jax.grades import GRADES
from knee_jax.phantom import severity
from knee_jax.phantom.layout import Film, Layout, Machine

COHORT = severity.OAI
VISIT_CODES = dict(zip(COHORT.schedule, ("00", "01", "03", "05", "06", "08", "10")))
"""OAI's exam code per month of visit."""

_MISSING_CODES = {"P": ".P: Prosthetic", "T": ".T: Technical problems", "A": ".A: Not expected"}
# The columns of a reading table that carry the visit's code.
_READ = ("BARCDBU", *(f"XR{name.upper()}" for name in GRADES), "XRSCFL", "XRSCFM", "XRSCTL",
         "XRSCTM", "XRATTL", "XRATTM")  # fmt: skip
# Per site.
_MACHINES = {
    "A": Machine("Phantom CR", 352.0, 1.22, 12, False),
    "B": Machine("Phantom CR", 348.0, 1.22, 10, True),
    "C": Machine("Phantom DX", 300.0, 1.36, 14, False),
    "D": Machine("Phantom DX", 330.0, 1.26, 12, True),
    "E": Machine("Phantom CR", 280.0, 1.45, 12, False),
}
_SITES = tuple(_MACHINES)


def subject_id(number: int) -> str:
    """OAI-like seven digits, scattered and unique below a million subjects."""
    return str(9_000_000 + (number * 100_003 + 99) % 1_000_000)


def _describe(root: Path, seed: int, rows: int, knees: list[dict]) -> list[Film]:
    """Names the film of two knees (right, left; rows of `severity.simulate`) and its folder."""
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


def _write_tables(root: Path, knees: pd.DataFrame, films: list[Film], seed: int) -> None:
    """Writes the reading table of each visit, and the enrollees."""
    folder = root / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    for visit in knees["visit"].unique():
        code = VISIT_CODES[visit]
        readings = itertools.chain.from_iterable(
            _readings(row, seed) for row in knees[knees["visit"] == visit].to_dict("records")
        )
        table = pd.DataFrame(readings, columns=["ID", "SIDE", "READPRJ", "VERSION", *_READ])
        table = table.rename(columns={name: f"V{code}{name}" for name in _READ})
        if code in ("01", "06"):
            table.columns = table.columns.str.lower()
        table.to_csv(folder / f"kxr_sq_bu{code}.txt", sep="|", index=False)
    people = knees.drop_duplicates("subject")
    draws = [COHORT.rng(seed, number, 5).random(2) for number in people["number"]]
    sex, race = np.array(draws).T
    enrollees = pd.DataFrame({"ID": people["subject"], "V00SITE": people["site"]})
    enrollees["P02SEX"] = np.where(sex < 0.42, "1: Male", "2: Female")
    enrollees["P02RACE"] = np.where(
        race < 0.8, "1: White or Caucasian", "2: Black or African American"
    )
    enrollees.to_csv(folder / "enrollees.txt", sep="|", index=False)


def _readings(row: dict, seed: int) -> Iterator[dict]:
    """The rows of the table about one knee: none, one, or one of each of two projects."""
    if row["code"] == "U":
        return
    side = severity.SIDES.index(row["side"])
    rng = COHORT.rng(seed, row["number"], 6, row["visit"], side)
    grades = {name: int(row[f"read_{name}"]) for name in GRADES}
    # Sclerosis and attrition come with narrowing; nobody here learns from them.
    for compartment in "lm":
        narrowing = grades[f"js{compartment}"]
        for bone in "ft":
            grades[f"sc{bone}{compartment}"] = max(narrowing - 1, min(narrowing, 0))
        grades[f"att{compartment}"] = max(narrowing - 2, min(narrowing, 0))
    absent = _MISSING_CODES.get(row["code"], "")

    # Project 15 read the visits to month 48; 37 (mild knees) and 42 the later ones and a part of
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
    found="films (DICOM, named 001) and landmarks: {root}/*m/*/*/*/*/, readings: {root}/tables/",
)
