"""A study tree of phantom knees that looks like OAI on disk: films, landmarks, reading tables."""

import concurrent.futures
import dataclasses
import datetime
import itertools
import multiprocessing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from knee_jax.grades import GRADES
from knee_jax.phantom import dicom, film, severity
from knee_jax.phantom.anatomy import WIDTH_MM, WIDTH_SD, make_knee

VISIT_CODES = dict(zip(severity.SCHEDULE, ("00", "01", "03", "05", "06", "08", "10")))
"""OAI's exam code per month of visit."""

_SITES = ("A", "B", "C", "D", "E")
_MISSING_CODES = {"P": ".P: Prosthetic", "T": ".T: Technical problems", "A": ".A: Not expected"}
# The columns of a reading table that carry the visit's code.
_READ = ("BARCDBU", *(f"XR{name.upper()}" for name in GRADES), "XRSCFL", "XRSCFM", "XRSCTL",
         "XRSCTM", "XRATTL", "XRATTM")  # fmt: skip
_LANDMARK_ERROR_MM = 0.25
# Per site: machine, height of the film in mm, columns per row, stored bits, MONOCHROME1.
_MACHINES = {
    "A": ("Phantom CR", 352.0, 1.22, 12, False),
    "B": ("Phantom CR", 348.0, 1.22, 10, True),
    "C": ("Phantom DX", 300.0, 1.36, 14, False),
    "D": ("Phantom DX", 330.0, 1.26, 12, True),
    "E": ("Phantom CR", 280.0, 1.45, 12, False),
}


class _Film(NamedTuple):
    """One film to be made, with its two knees (right, left) as rows of `severity.simulate`."""

    path: Path
    number: int
    subject: str
    site: str
    visit: int
    barcode: str
    date: str
    knees: list[dict]
    rows: int
    seed: int


def subject_id(number: int) -> str:
    """OAI-like seven digits, scattered and unique below a million subjects."""
    return str(9_000_000 + (number * 100_003 + 99) % 1_000_000)


def write_study(
    root: str | Path,
    *,
    num_subjects: int,
    visits: Sequence[int] = (0, 12, 24),
    seed: int = 0,
    rows: int = 2048,
    workers: int = 1,
    progress: bool = True,
) -> pd.DataFrame:
    """Writes the films, landmarks and tables of a cohort.

    `<root>/00m/0.C.2/<subject>/<date>/<barcode>/001` is a film; `001.pts` and `001_f.pts` beside it
    hold the landmarks of the left knee, and of the right one on the mirrored film, in mm from the
    film's corner. `<root>/tables/` holds `kxr_sq_bu<code>.txt` per visit and `enrollees.txt`.

    Args:
        root: folder, made if need be.
        num_subjects: of the cohort.
        visits: months, of `severity.SCHEDULE`.
        seed: every file is a function of it and of the other arguments, but not of `workers`.
        rows: of a film. Its field of view stays, so fewer rows make coarser pixels.
        workers: processes.
        progress: show a bar.

    Returns:
        What the tree does not tell: `severity.simulate`'s table with `subject`, `site`, `barcode`,
        `source` (the film's path under `root`).

    Raises:
        UserError: there are no subjects, or a visit is not of the schedule.
    """
    root = Path(root)
    knees = severity.simulate(num_subjects, visits=visits, seed=seed)
    films = [
        _describe(root, seed, rows, group.to_dict("records"))
        for _, group in knees.groupby(["number", "visit"])
    ]
    # Both are in order of subject and visit, two knees a film.
    knees.insert(0, "subject", np.repeat([f.subject for f in films], 2))
    knees["site"] = np.repeat([f.site for f in films], 2)
    knees["barcode"] = np.repeat([f.barcode for f in films], 2)
    knees["source"] = np.repeat([f.path.relative_to(root).as_posix() for f in films], 2)
    _write_tables(root / "tables", knees, seed)
    with tqdm(total=len(films), desc="phantom films", unit="film", disable=not progress) as bar:
        for _ in _each(films, workers):
            bar.update()
    return knees


def _each(films: list[_Film], workers: int) -> Iterator[None]:
    if workers <= 1:
        yield from map(_make, films)
        return
    # Not fork: the parent may run threads.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)
    ) as pool:
        yield from pool.map(_make, films, chunksize=4)


def _describe(root: Path, seed: int, rows: int, knees: list[dict]) -> _Film:
    """Names the film of two knees (right, left; rows of `severity.simulate`) and its folder."""
    number, visit = knees[0]["number"], knees[0]["visit"]
    rng = np.random.default_rng([seed, number, 1])
    site, release = _SITES[rng.integers(len(_SITES))], "CE"[rng.integers(2)]
    first = datetime.date(2004, 2, 1) + datetime.timedelta(int(rng.integers(800)))
    date = (first + datetime.timedelta(round(visit * 30.44))).strftime("%Y%m%d")
    subject = subject_id(number)
    barcode = f"0{1_234_501 + 7 * number + severity.SCHEDULE.index(visit)}"
    folder = f"{visit:02d}m/{int(VISIT_CODES[visit])}.{release}.1/{subject}/{date}/{barcode}"
    path = root / folder / "001"
    return _Film(path, number, subject, site, visit, barcode, date, knees, rows, seed)


def _make(spec: _Film) -> None:
    """Makes one film and its landmark files."""
    maker, height, aspect, bits, inverted = _MACHINES[spec.site]
    person = np.random.default_rng([spec.seed, spec.number, 2])
    width = float(np.clip(WIDTH_MM + WIDTH_SD * person.standard_normal(), 63, 98))
    bulk = float(np.exp(0.07 * person.standard_normal()) * (width / WIDTH_MM) ** 0.7)
    rng = np.random.default_rng([spec.seed, spec.number, 3, spec.visit])
    geometry = film.place(rng, spec.rows, height, aspect)

    knees, looks = [], []
    for side, row in enumerate(spec.knees):
        look = np.random.default_rng([spec.seed, spec.number, 4, side])
        spurs = np.array([row[f"spur_{name}"] for name in severity.OSTEOPHYTES])
        lost = np.array([row["lost_jsl"], row["lost_jsm"]])
        own = width * (1 + 0.02 * look.standard_normal())
        knee = make_knee(look, spurs, lost, own, 0.25 * rng.standard_normal())
        knees.append(dataclasses.replace(knee, replaced=row["code"] == "P"))
        looks.append(look)
    poor = any(row["code"] == "T" for row in spec.knees)
    shown = film.expose(geometry, knees, looks, rng, bulk=bulk, poor=poor)

    spec.path.parent.mkdir(parents=True, exist_ok=True)
    syntax = dicom.SYNTAXES[rng.choice(len(dicom.SYNTAXES), p=dicom.SHARES)]
    header = dicom.Header(
        spec.subject, spec.barcode, spec.date, maker, geometry.spacing, bits, inverted, syntax
    )
    dicom.write_film(spec.path, shown, header)
    for side, (knee, row) in enumerate(zip(knees, spec.knees)):
        if row["code"] == "P":
            continue  # Nobody places bone landmarks on a prosthesis.
        error = rng.normal(0, _LANDMARK_ERROR_MM, knee.landmarks.shape)
        marks = geometry.on_film(side, knee.landmarks + error)
        if side == 0:
            marks[:, 0] = geometry.columns * geometry.spacing - marks[:, 0]
        write_points(spec.path.with_name(("001_f.pts", "001.pts")[side]), marks)


def write_points(path: Path, points: np.ndarray) -> None:
    """Writes landmarks [n, 2] in mm as a BoneFinder `.pts` file."""
    lines = [f"{x:.6f} {y:.6f}" for x, y in points]
    text = "\n".join(["version: 1", f"n_points:  {len(points)}", "{", *lines, "}"])
    path.write_text(text + "\n")


def _write_tables(folder: Path, knees: pd.DataFrame, seed: int) -> None:
    """Writes the reading table of each visit, and the enrollees."""
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
    draws = [np.random.default_rng([seed, number, 5]).random(2) for number in people["number"]]
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
    rng = np.random.default_rng([seed, row["number"], 6, row["visit"], side])
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
