"""Study of phantom MR series on disk: baseline volumes, and readings of all later visits.

The subjects, sites and reading tables are those of `oai` for the same seed, so that films and
volumes of one tree show the same knees. The pace at which a knee worsens is not visible on films; a
marrow lesion on the MR is an imperfect sign of it. The rest is chance and reader error: from
everything that is drawn, progression can be predicted with an area under the ROC curve of about
0.83 (0.74 from films, 0.66 from KL alone), where 45 % of the knees progress
(tests/phantom/test_mri.py).
"""

import functools
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from scipy.stats import norm
from tqdm import tqdm

from knee_jax.errors import UserError
from knee_jax.ingest import pool
from knee_jax.phantom import dess, dicom, oai, severity
from knee_jax.phantom.layout import Film
from knee_jax.phantom.study import draw_knee, person_width

SHAPE = (384, 384, 160)
"""Rows, columns and slices of OAI's series."""

BASELINE = 0

# Scanner of each site, in OAI's range of brightness.
_SCANNERS = {
    "A": dess.Scanner(gain=0.92, noise=24, shading=0.10, blur_mm=0.25),
    "B": dess.Scanner(gain=0.80, noise=30, shading=0.14, blur_mm=0.30),
    "C": dess.Scanner(gain=0.98, noise=20, shading=0.08, blur_mm=0.22),
    "D": dess.Scanner(gain=0.86, noise=36, shading=0.18, blur_mm=0.38),
    "E": dess.Scanner(gain=1.00, noise=27, shading=0.12, blur_mm=0.28),
}
# Correlation of a lesion with the pace.
_LESION_CORRELATION = 0.8
# Share of series most of whose slices were lost, as in six of OAI's.
_CUT_SHORT, _SLICES_LEFT = 0.005, 0.18


def write_mri_study(
    root: str | Path,
    *,
    num_subjects: int,
    seed: int = 0,
    shape: tuple[int, int, int] = SHAPE,
    workers: int = 1,
    progress: bool = True,
    release: str | None = None,
) -> pd.DataFrame:
    """Write the baseline series of a cohort, and the tables of all its visits.

    A series is a folder of slices beside that of the film:
    {month}m/{release}/{subject}/{date}/{barcode}/{001, 002, ...}.

    Args:
        root: Folder of the study, created if missing.
        num_subjects: Number of subjects, with two knees each.
        seed: Random seed; every file is a function of it and of the other arguments, but not of
            `workers`.
        shape: Rows, columns and slices of the fixed field of view; fewer make coarser voxels.
        workers: Number of processes.
        progress: Whether to show a progress bar.
        release: Form of the tables, as in `study.write_study`.

    Returns:
        Table with one row per knee: that of `severity.simulate` at baseline with `subject`, `site`,
        `source` (the folder under `root`), `lesion_mm`, `medial`, `effusion`, `cut_short`.

    Raises:
        UserError: There are no subjects.
    """
    root = Path(root)
    knees = severity.simulate(num_subjects, seed=seed, cohort=oai.COHORT)
    # In order of subject and visit, two knees each; these films are described, but never made.
    films = [
        oai.LAYOUT.describe(root, seed, 0, pair.to_dict("records"))[0]
        for _, pair in knees.groupby(["number", "visit"])
    ]
    for name in ("subject", "site", "barcode"):
        knees[name] = np.repeat([getattr(film, name) for film in films], 2)
    oai.LAYOUT.write_tables(root, knees, films, seed, release or oai.LAYOUT.releases[0])

    examined = [film for film in films if film.knees[0]["visit"] == BASELINE]
    found = knees[knees["visit"] == BASELINE].drop(columns="barcode").reset_index(drop=True)
    found = found.join(findings(found, seed))
    folders = [_folder(film, side) for film in examined for side in range(2)]
    found["source"] = [folder.relative_to(root).as_posix() for folder in folders]
    jobs = [
        functools.partial(_make, examined[i // 2], i % 2, folder, row, shape)
        for i, (folder, row) in enumerate(zip(folders, found.to_dict("records")))
    ]
    with tqdm(total=len(jobs), desc="phantom MR", unit="knee", disable=not progress) as bar:
        for made in pool.run_in_order(jobs, workers):
            if isinstance(made, pool.Failure):
                raise UserError(f"{made.detail} ({made.reason}): try again with fewer --workers")
            bar.update()
    return found


def findings(knees: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Draw the findings of each knee besides its bones, and whether its series is complete.

    Args:
        knees: Rows of `severity.simulate`.
        seed: Random seed of the cohort.

    Returns:
        Table with the index of `knees`: `lesion_mm` (radius of the marrow lesion, 0 none), `medial`
        (whether it lies there), `effusion` (0..1), `cut_short` (whether slices were lost).
    """
    sides = knees["side"].map(severity.SIDES.index)
    streams = [oai.COHORT.rng(seed, *key, 8) for key in zip(knees["number"], sides)]
    draws = np.stack([stream.standard_normal(3) for stream in streams])
    lesion = _LESION_CORRELATION * knees["pace"] + np.sqrt(1 - _LESION_CORRELATION**2) * draws[:, 0]
    lost = knees[["lost_jsl", "lost_jsm"]].to_numpy()
    return pd.DataFrame(
        {
            "lesion_mm": (3.5 + 3 * lesion).clip(0, 11).where(lambda radius: radius >= 1, 0.0),
            "medial": lost[:, 1] >= lost[:, 0],
            "effusion": (0.15 + 0.6 * lost.max(axis=1) + 0.15 * draws[:, 1]).clip(0, 1),
            "cut_short": norm.cdf(draws[:, 2]) < _CUT_SHORT,
        },
        index=knees.index,
    )


def _folder(film: Film, side: int) -> Path:
    """Return the folder of the series of the right (0) or left (1) knee."""
    return film.path.parent.with_name(f"{film.barcode}{side + 1}")


def _make(film: Film, side: int, folder: Path, row: dict, shape: tuple[int, int, int]) -> None:
    """Write one series."""
    cv2.setNumThreads(1)
    rng = film.cohort.rng(film.seed, film.number, 9, side)
    # The same random numbers as those of the bones on the film.
    person = film.cohort.rng(film.seed, film.number, 2)
    look = film.cohort.rng(film.seed, film.number, 4, side)
    knee = draw_knee(person_width(person), look, row, flexion=0.0)
    scanner = _SCANNERS[film.site]
    shown = dess.Findings(row["lesion_mm"], row["medial"], row["effusion"])
    volume = dess.render(knee, shown, scanner, shape, rng)
    if row["cut_short"]:
        volume = volume[: max(2, round(_SLICES_LEFT * len(volume)))]
    rows_mm, columns_mm, slices_mm = np.divide(dess.FIELD_MM, shape).tolist()
    header = dicom.SeriesHeader(
        subject=film.subject,
        barcode=folder.name,
        date=film.date,
        maker="Phantom MR",
        side=severity.SIDES[side],
        spacing_mm=(rows_mm, columns_mm, slices_mm),
        turn=float(np.deg2rad(rng.normal(0, 3))),
    )
    dicom.write_series(folder, volume, header)
