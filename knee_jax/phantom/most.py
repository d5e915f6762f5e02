"""Layout of a study tree as MOST's: one wide reading table, a list of films, views in paths.

`<root>/<MOSTID>_XRAY/V<visit>_<date>/<view>/001` is a film; of the views, PA10 is the one that is
read. `<root>/tables/` holds `mostv01235xray.txt`, with one row per subject and columns
`V<visit>X<leg><grade>`; `MOST_names.csv`, which lists the films; `mostv<visit>enroll.txt` per visit
and `mostoutcomes.txt`. Lateral views are listed but not drawn.
"""

import datetime
from pathlib import Path

import numpy as np
import pandas as pd

from knee_jax.phantom import severity
from knee_jax.phantom.film import Processing
from knee_jax.phantom.layout import Film, Layout, Machine
from knee_jax.targets.grades import GRADES

COHORT = severity.MOST
VISIT_NUMBERS = dict(zip(COHORT.schedule, (0, 1, 2, 3, 5)))
"""Number of each visit, by month; no films were taken at visit 4."""

# Digitised screen-film: soft, contrasty, coarse grain. And strongly edge-enhanced plates of few
# bits. No machine of the other phantom looks like either.
_MACHINES = (
    Machine(
        "Phantom FD",
        height_mm=356.0,
        aspect=1.21,
        bits=12,
        inverted=True,
        processing=Processing(
            scatter=(0.3, 0.5),
            quanta=(8.4, 0.25),
            edges=(-0.4, -0.15),
            window=(0.85, 1.0),
            gamma=(0.28, 0.12),
            grain=1.0,
        ),
        shares=(0.5, 0.3, 0.2, 0, 0, 0),
    ),
    Machine(
        "Phantom PL",
        height_mm=430.0,
        aspect=1.0,
        bits=10,
        inverted=False,
        processing=Processing(
            quanta=(8.9, 0.3), edges=(1.1, 1.7), window=(1.1, 1.35), gamma=(-0.45, 0.1)
        ),
        shares=(0.5, 0.3, 0.2, 0, 0, 0),
    ),
)
# Beam angles of further PA views, their probability, and the factor by which they are coarser.
_OTHER_ANGLES, _OTHER_SHARE, _OTHER_COARSER = (5, 15), 0.3, 4


def subject_id(number: int) -> str:
    """Return the letter M and five digits like MOST's, unique below 100,000 subjects."""
    return f"M{(number * 7919 + 137) % 100_000:05d}"


def _describe(root: Path, seed: int, rows: int, knees: list[dict]) -> list[Film]:
    """Describe the films of a visit: the view PA10 and, at some visits, others."""
    number, month = knees[0]["number"], knees[0]["visit"]
    rng = COHORT.rng(seed, number, 1)
    machine = _MACHINES[int(rng.random() < 0.4)]
    first = datetime.date(2003, 4, 1) + datetime.timedelta(int(rng.integers(730)))
    date = (first + datetime.timedelta(round(month * 30.44))).strftime("%Y%m%d")
    subject, visit = subject_id(number), VISIT_NUMBERS[month]
    taken = COHORT.rng(seed, number, 5, month).random(len(_OTHER_ANGLES)) < _OTHER_SHARE
    films = []
    for angle in (10, *(a for a, yes in zip(_OTHER_ANGLES, taken) if yes)):
        view = f"PA{angle:02d}"
        film = Film(
            cohort=COHORT,
            machine=machine,
            path=root / f"{subject}_XRAY" / f"V{visit}_{date}" / view / "001",
            number=number,
            subject=subject,
            site="",
            barcode=f"{subject}V{visit}{view}",
            date=date,
            study="MOST^KNEE",
            series=f"Bilateral PA Fixed Flexion Knee {angle} degrees",
            knees=knees,
            rows=rows if angle == 10 else max(rows // _OTHER_COARSER, 64),
            seed=seed,
            exposure=(month, angle),
            has_landmarks=angle == 10,
        )
        films.append(film)
    return films


def _write_tables(
    root: Path, knees: pd.DataFrame, films: list[Film], seed: int, release: str
) -> None:
    """Write the readings of all visits, the list of films, and the tables of the subjects."""
    folder = root / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    columns = [
        f"V{visit}X{side}{name.upper()}"
        for visit in VISIT_NUMBERS.values()
        for side in severity.SIDES
        for name in GRADES
    ]
    rows = {subject: dict.fromkeys(columns, "") for subject in knees["subject"].unique()}
    for row in knees.to_dict("records"):
        prefix = f"V{VISIT_NUMBERS[row['visit']]}X{row['side']}"
        rows[row["subject"]] |= {f"{prefix}{name.upper()}": _cell(row, name) for name in GRADES}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    table.to_csv(folder / "mostv01235xray.txt", sep="|", index_label="MOSTID")

    listed = []
    for film in films:
        path = film.path.relative_to(root).as_posix()
        listed.append(path)
        if film.has_landmarks:
            listed += [path.replace("/PA10/", f"/LAT{side}/") for side in severity.SIDES]
    (folder / "MOST_names.csv").write_text("".join(f"{path}\n" for path in listed))
    _write_enrolment(folder, knees, seed)
    _write_outcomes(folder, knees)


def _write_enrolment(folder: Path, knees: pd.DataFrame, seed: int) -> None:
    """Write one table per visit: who came, and whether the film was taken."""
    people = knees.drop_duplicates("subject")
    described = severity.describe(COHORT, seed, people["number"])
    baseline = pd.DataFrame({"MOSTID": people["subject"].to_numpy()})
    baseline["AGE"] = described["age"].to_numpy()
    draws = [COHORT.rng(seed, number, 11).random() for number in people["number"]]
    baseline["SEX"] = np.where(np.array(draws) < 0.4, 1, 0)
    baseline["V0BMI"] = described["bmi"].to_numpy()
    for month, visit in VISIT_NUMBERS.items():
        table = baseline if visit == 0 else baseline[["MOSTID", "SEX"]]
        filmed = knees.loc[knees["visit"] == month, "subject"]
        table = table.assign(**{f"V{visit}PA": table["MOSTID"].isin(filmed).astype(int)})
        table.to_csv(folder / f"mostv{visit}enroll.txt", sep="|", index=False)


def _write_outcomes(folder: Path, knees: pd.DataFrame) -> None:
    """Write the visit by which each joint was replaced; blank if it was not."""
    table = pd.DataFrame({"MOSTID": knees["subject"].unique(), "V99EDINDEX": ""})
    replaced = severity.replacements(knees)
    for side in severity.SIDES:
        visits = replaced[side].map(VISIT_NUMBERS)
        table[f"V99E{side}KRINDEX"] = table["MOSTID"].map(visits).astype("Int64").astype("string")
    table.fillna("").to_csv(folder / "mostoutcomes.txt", sep="|", index=False)


def _cell(row: dict, name: str) -> str:
    """Return a cell of the table: a grade, a decimal if the next one is near, or a code.

    Code 8 stands for a prosthesis or a film that cannot be read, 9 for missing; an unread knee is
    blank.
    """
    if row["code"] in ("P", "T", "M"):
        return "9" if row["code"] == "M" else "8"
    grade = row[f"read_{name}"]
    if grade < 0:
        return ""
    if name == "kl":
        return "1.9" if row["nearly_kl"] else str(grade)
    # Narrowing within a grade is judged against the earlier films.
    narrower = row.get(f"nearly_{name}", False) and row["visit"] > 0
    return f"{grade}.5" if narrower else str(grade)


LAYOUT = Layout(
    COHORT,
    visits=(0, 15, 30),
    describe=_describe,
    write_tables=_write_tables,
    places="films (DICOM, named 001) and landmarks: {root}/*_XRAY/*/*/, list and readings: "
    "{root}/tables/",
)
