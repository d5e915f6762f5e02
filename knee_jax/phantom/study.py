"""Study tree of phantom knees that looks like a real one on disk: films, landmarks, tables."""

import concurrent.futures
import dataclasses
import math
import multiprocessing
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from knee_jax.errors import NOT_STARTED, UserError
from knee_jax.phantom import dicom, film, most, oai, severity
from knee_jax.phantom.anatomy import (
    WIDTH_MM,
    WIDTH_SD,
    Knee,
    joint_angle,
    make_knee,
    medial_joint_space,
    shaft_angle,
)
from knee_jax.phantom.layout import Film, Layout

STUDIES = {"oai": oai.LAYOUT, "most": most.LAYOUT}
_LANDMARK_ERROR_MM = 0.25

MEASURES = {
    "jsw_medial": medial_joint_space,
    "joint_angle": joint_angle,
    "shaft_angle": shaft_angle,
}
"""Measures of each knee by the phantom's own geometry."""


def layout(study: str) -> Layout:
    """Return the layout of a study.

    Raises:
        UserError: There is no such layout.
    """
    if study not in STUDIES:
        raise UserError(f"no study is called {study!r}; choose from {', '.join(STUDIES)}")
    return STUDIES[study]


def write_study(
    root: str | Path,
    *,
    num_subjects: int,
    visits: Sequence[int] | None = None,
    seed: int = 0,
    rows: int = 2048,
    workers: int = 1,
    progress: bool = True,
    study: str = "oai",
    release: str | None = None,
) -> pd.DataFrame:
    """Write the films, landmarks and tables of a cohort in the layout of a study.

    Beside a film, `<film>.pts` and `<film>_f.pts` hold the landmarks of the left knee, and of the
    right one on the mirrored film, in mm from the film's corner.

    Args:
        root: Folder of the study, created if missing.
        num_subjects: Number of subjects.
        visits: Months of the cohort's schedule; None: the layout's default.
        seed: Random seed; every file is a function of it and of the other arguments, but not of
            `workers`.
        rows: Height of a film, pixels; its field of view is fixed, so fewer make coarser pixels.
        workers: Number of processes.
        progress: Whether to show a progress bar.
        study: Name of the layout, 'oai' or 'most'.
        release: Form of the tables, one of the layout's; None: the first.

    Returns:
        True state of the knees: the table of `severity.simulate` with `subject`, `site`, `barcode`,
        `source` (the film's path under `root`), `jsw_medial` (minimum medial joint space width on
        that film in mm, NaN if the joint has been replaced), `joint_angle` and `shaft_angle`
        (`anatomy`, degrees, NaN likewise).

    Raises:
        UserError: There are no subjects, no such study or release of it, or a visit is not in its
            schedule.
    """
    root, shape = Path(root), layout(study)
    visits = shape.visits if visits is None else visits
    release = release or shape.releases[0]
    if release not in shape.releases:
        known = ", ".join(shape.releases)
        raise UserError(f"{study} has no release {release!r} of its tables; choose from {known}")
    knees = severity.simulate(num_subjects, visits=visits, seed=seed, cohort=shape.cohort)
    views = [
        shape.describe(root, seed, rows, group.to_dict("records"))
        for _, group in knees.groupby(["number", "visit"])
    ]
    # Both are in order of subject and visit, two knees per film.
    read = [first for first, *_ in views]
    knees.insert(0, "subject", np.repeat([f.subject for f in read], 2))
    knees["site"] = np.repeat([f.site for f in read], 2)
    knees["barcode"] = np.repeat([f.barcode for f in read], 2)
    knees["source"] = np.repeat([f.path.relative_to(root).as_posix() for f in read], 2)
    films = [each for of_visit in views for each in of_visit]
    measured = {}
    with tqdm(total=len(films), desc="phantom films", unit="film", disable=not progress) as bar:
        for each, of_film in zip(films, _make_all(films, workers)):
            measured[each.path] = of_film
            bar.update()
    for name in MEASURES:
        knees[name] = [row[name] for each in read for row in measured[each.path]]
    shape.write_tables(root, knees, films, seed, release)
    return knees


def _make_all(films: list[Film], workers: int) -> Iterator[list[dict[str, float]]]:
    if workers <= 1:
        yield from map(_make, films)
        return
    # Not fork: the parent may run threads.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)
    ) as pool:
        try:
            yield from pool.map(_make, films, chunksize=4)
        except concurrent.futures.process.BrokenProcessPool as error:
            raise UserError(NOT_STARTED) from error


def _make(spec: Film) -> list[dict[str, float]]:
    """Make one film and its landmark files; return the measures of its knees."""
    machine = spec.machine
    person = spec.cohort.rng(spec.seed, spec.number, 2)
    width = person_width(person)
    bulk = float(np.exp(0.07 * person.standard_normal()) * (width / WIDTH_MM) ** 0.7)
    rng = spec.cohort.rng(spec.seed, spec.number, 3, *spec.exposure)
    geometry = film.place(rng, spec.rows, machine.height_mm, machine.aspect)

    knees, looks = [], []
    for side, row in enumerate(spec.knees):
        look = spec.cohort.rng(spec.seed, spec.number, 4, side)
        knee = draw_knee(width, look, row, 0.25 * rng.standard_normal())
        knees.append(dataclasses.replace(knee, replaced=row["code"] == "P"))
        looks.append(look)
    poor = any(row["code"] == "T" for row in spec.knees)
    shown = film.expose(
        geometry, knees, looks, rng, bulk=bulk, poor=poor, processing=machine.processing
    )

    spec.path.parent.mkdir(parents=True, exist_ok=True)
    header = dicom.Header(
        subject=spec.subject,
        barcode=spec.barcode,
        date=spec.date,
        maker=machine.maker,
        spacing=geometry.spacing,
        bits=machine.bits,
        inverted=machine.inverted,
        syntax=dicom.SYNTAXES[rng.choice(len(dicom.SYNTAXES), p=machine.shares)],
        study=spec.study,
        series=spec.series,
    )
    dicom.write_film(spec.path, shown, header)
    for side, (knee, row) in enumerate(zip(knees, spec.knees)):
        if row["code"] == "P" or not spec.has_landmarks:
            continue  # A prosthesis has no bone landmarks.
        error = rng.normal(0, _LANDMARK_ERROR_MM, knee.landmarks.shape)
        points = geometry.on_film(side, knee.landmarks + error)
        if side == 0:
            points[:, 0] = geometry.columns * geometry.spacing - points[:, 0]
        suffix = ("_f.pts", ".pts")[side]
        write_points(spec.path.with_name(spec.path.name + suffix), points)
    return [
        {name: math.nan if knee.replaced else measure(knee) for name, measure in MEASURES.items()}
        for knee in knees
    ]


def person_width(person: np.random.Generator) -> float:
    """Draw the width of a subject's tibial plateaus, mm."""
    return float(np.clip(WIDTH_MM + WIDTH_SD * person.standard_normal(), 63, 98))


def draw_knee(width: float, look: np.random.Generator, row: dict, flexion: float) -> Knee:
    """Draw the bones of one knee.

    Args:
        width: Width of the subject's plateaus, mm; see `person_width`.
        look: Random numbers of the subject and side.
        row: Row of the knee in `severity.simulate`.
        flexion: Change of the joint space by positioning, mm; see `make_knee`.
    """
    spurs = np.array([row[f"spur_{name}"] for name in severity.OSTEOPHYTES])
    lost = np.array([row["lost_jsl"], row["lost_jsm"]])
    own = width * (1 + 0.02 * look.standard_normal())
    return make_knee(look, spurs, lost, own, flexion)


def write_points(path: Path, points: np.ndarray) -> None:
    """Write landmarks [n, 2] in mm as a BoneFinder `.pts` file."""
    lines = [f"{x:.6f} {y:.6f}" for x, y in points]
    text = "\n".join(["version: 1", f"n_points:  {len(points)}", "{", *lines, "}"])
    path.write_text(text + "\n")


def read_points(path: Path) -> np.ndarray:
    """Read landmarks written by `write_points`."""
    return np.array([line.split() for line in path.read_text().splitlines()[3:-1]], float)
