"""The localiser: radial errors on phantom windows never trained on, non-knees, and real knees.

    python benchmarks/landmarks.py [--model=landmarks] [--crops=KNEEKL224 --annotations=CSV]

Real knees are crops of `kneekl224` (folders train and val) that KNEEL's published table of
annotations (Tiulpin et al. 2019) has as well, by subject and side: 16 landmarks in mm, of which the
place in the crop and the crop's spacing are not known. They are laid on the found ones by a
translation and a scale, without rotation; the rest is the error. Rows are appended to
benchmarks/results/landmarks.csv.
"""

import argparse
import collections
import datetime
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from knee_jax.errors import UnusableKnee
from knee_jax.inference import locate, measures, placing
from knee_jax.inference.found import Found
from knee_jax.ingest import dicom
from knee_jax.ingest.film import intensity_window
from knee_jax.ingest.knee_files import picture_of
from knee_jax.landmarks import FEMUR, PLATEAU, PRESETS, TIBIA
from knee_jax.phantom import clutter, windows
from knee_jax.phantom.study import read_points, write_study
from knee_jax.targets.knee_shown import RIGHT

RESULTS = Path(__file__).parent / "results" / "landmarks.csv"
LIMITS_MM = (1.0, 1.5, 2.0, 2.5)
KNEEL_MM = 0.3
POINTS = [i for i in PRESETS["kneel16"] if i in TIBIA] + [
    i for i in PRESETS["kneel16"] if i in FEMUR
]


def shares(errors: np.ndarray) -> dict[str, float]:
    """Mean, median and shares of radial errors [knees, points], mm; NaN where unknown."""
    known = errors[np.isfinite(errors)]
    found = {"mean_mm": known.mean(), "median_mm": np.median(known)}
    found |= {f"within_{limit:g}mm": (known <= limit).mean() for limit in LIMITS_MM}
    return found | {"knees_within_2.5mm": (np.nanmean(errors, axis=1) <= 2.5).mean()}


def reliability(name: str, errors: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """Print mean errors of fifths of knees by what was expected, twice the localiser's number.

    The loss has its least where that number is half of the mean distance.

    Args:
        name: Set of knees.
        errors: Radial errors [knees, points], mm; NaN where unknown.
        expected: Errors that the localiser expects [knees, points], mm.
    """
    expected = np.where(np.isfinite(errors), 2 * expected, np.nan)
    of_knees = pd.DataFrame(
        {"expected_mm": np.nanmean(expected, 1), "found_mm": np.nanmean(errors, 1)}
    )
    fifths = of_knees.groupby(pd.qcut(of_knees["expected_mm"], 5), observed=True)
    table = fifths.agg(["mean", "max"]).drop(columns=[("expected_mm", "max")])
    print(f"{name}: expected and found, by fifths of {len(of_knees)} knees\n{table.round(2)}")
    return {
        "expected_mm": of_knees["expected_mm"].mean(),
        "error_correlation": of_knees.corr().iloc[0, 1],
    }


def phantom(localiser: locate.Localiser, films: int) -> dict[str, float]:
    """Near windows of films of a seed that nothing was trained on, through the whole search."""
    errors, refused, number = [], 0, 0
    for film in range(films):
        for window in windows.draw(10_007, film, 256):
            width = np.linalg.norm(window.points[63] - window.points[47]) / 256
            if window.shown != RIGHT or not 0.4 < width < 0.9:
                continue
            number += 1
            try:
                (knee,) = localiser.find(window.image, most=1, looks="R")
            except UnusableKnee:
                refused += 1
                continue
            inside = ((window.points > 0) & (window.points < 256)).all(1)
            distance = np.linalg.norm(knee.points - window.points, axis=1) * window.spacing_mm
            errors.append(np.where(inside, distance, np.nan))
    return {"n": number, "refused": refused / number} | shares(np.array(errors))


def films(localiser: locate.Localiser, subjects: int) -> list[dict[str, float]]:
    """Both knees of films of two cohorts, of machines and subjects that nothing was trained on."""
    rows = []
    for cohort in ("oai", "most"):
        errors, expected, number, seconds, measured = [], [], 0, [], []
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            knees = write_study(
                root, num_subjects=subjects, visits=(0,), rows=1024, seed=77, study=cohort,
                progress=False,
            )  # fmt: skip
            # Of two films of a visit, both have the same knees.
            geometry = knees.drop_duplicates(["source", "side"]).set_index(["source", "side"])
            for points in sorted(root.rglob("*_f.pts")):
                path = points.with_name(points.name.removesuffix("_f.pts"))
                if not (left := path.with_name(path.name + ".pts")).exists():
                    continue
                start = time.perf_counter()
                radiograph = dicom.read_film(path)
                picture, spacing = picture_of(radiograph, intensity_window(radiograph.pixels))
                try:
                    found = localiser.find(picture)
                except UnusableKnee:
                    found = []
                seconds.append(time.perf_counter() - start)
                width_mm = radiograph.pixels.shape[1] * radiograph.spacing_mm[0]
                true = {"R": read_points(points), "L": read_points(left)}
                true["R"][:, 0] = width_mm - true["R"][:, 0]
                number += 2
                for knee in placing.sided(picture, found, localiser):
                    in_mm = knee.points * spacing
                    errors.append(np.linalg.norm(in_mm - true[knee.looks], axis=1))
                    expected.append(knee.errors * spacing[0])
                    measured.append(
                        against_geometry(
                            in_mm,
                            knee,
                            spacing[0],
                            geometry.loc[path.relative_to(root).as_posix(), knee.looks],
                        )
                    )
        off = np.array(measured)
        rows.append(
            {
                "set": f"phantom films, {cohort}",
                "n": number,
                "refused": 1 - len(errors) / number,
                **agreement("jsw", "mm", off[:, 0]),
                **agreement("joint_angle", "deg", off[:, 1]),
                **agreement("axis_angle", "deg", off[:, 2]),
                "films_a_second": 1 / np.median(seconds),
            }
            | shares(np.array(errors))
            | reliability(f"phantom films, {cohort}", np.array(errors), np.array(expected))
        )
    return rows


def against_geometry(
    points: np.ndarray, knee: Found, spacing: float, true: pd.Series
) -> list[tuple[float, float]]:
    """Difference from the drawn knee, and its standard error: medial width and both angles."""
    if knee.looks == "L":
        points = points * [-1, 1]
    error = knee.error * knee.width * spacing
    return [
        (measures.joint_space_widths(points)[1] - true.jsw_medial, measures.width_error(error)),
        (measures.joint_angle(points) - true.joint_angle,
         measures.joint_angle_error(points, error)),
        (measures.axis_angle(points) - true.shaft_angle, measures.axis_angle_error(points, error)),
    ]  # fmt: skip


def agreement(name: str, unit: str, off: np.ndarray) -> dict[str, float]:
    """Bias, half the width of the limits of agreement, and differences in standard errors."""
    difference, error = off[np.isfinite(off[:, 0])].T
    scaled = (difference - difference.mean()) / error
    return {
        f"{name}_bias_{unit}": difference.mean(),
        f"{name}_limits_{unit}": 1.96 * difference.std(),
        f"{name}_errors": float(np.sqrt(np.square(scaled).mean())),
    }


def non_knees(localiser: locate.Localiser, number: int) -> dict[str, float]:
    """Accepted share of pictures of other things, drawn unlike those of the training."""
    rng = np.random.default_rng(5)
    accepted: collections.Counter[str] = collections.Counter()
    for i in range(number):
        name, paint = list(PAINTERS.items())[i % len(PAINTERS)]
        picture = paint(rng).astype(np.float32)
        picture = (picture - picture.min()) / max(np.ptp(picture), 1e-6)
        grey = np.rint(255 * (1 - picture if rng.random() < 0.5 else picture)).astype(np.uint8)
        try:
            localiser.find(grey, most=1)
            accepted[name] += 1
        except UnusableKnee:
            pass
    print("accepted non-knees:", dict(accepted))
    return {"n": number, "accepted": sum(accepted.values()) / number}


def _chest(rng: np.random.Generator) -> np.ndarray:
    picture = np.full((260, 240), 0.5, np.float32)
    for side in (-1, 1):
        centre = (120 + side * 55, 130)
        cv2.ellipse(picture, centre, (int(rng.integers(35, 48)), 95), 0, 0, 360, 0.15, -1)
        for rib in range(8):
            middle = (120 + side * 20, 40 + 24 * rib + int(rng.integers(4)))
            cv2.ellipse(picture, middle, (80, 24), side * 15, 0, 180, 0.55, 4)
    cv2.rectangle(picture, (108, 0), (132, 260), 0.9, -1)
    return cv2.GaussianBlur(picture, (0, 0), 2) + 0.02 * rng.standard_normal(picture.shape)


def _hip(rng: np.random.Generator) -> np.ndarray:
    picture = np.full((240, 300), 0.3, np.float32)
    for side in (-1, 1):
        head = (150 + side * 75, 100 + int(rng.integers(-6, 6)))
        cv2.ellipse(picture, (150 + side * 90, 60), (60, 45), 0, 0, 360, 0.7, 10)
        cv2.circle(picture, head, 26, 0.85, -1)
        neck = (head[0] + side * 35, head[1] + 40)
        cv2.line(picture, head, neck, 0.8, 24)
        cv2.line(picture, neck, (neck[0] + side * 5, 240), 0.9, 34)
    return cv2.GaussianBlur(picture, (0, 0), 2) + 0.02 * rng.standard_normal(picture.shape)


def _hand(rng: np.random.Generator) -> np.ndarray:
    return clutter._hand() + 0.02 * rng.standard_normal((384, 320))


def _lateral(rng: np.random.Generator) -> np.ndarray:
    return clutter._lateral_knee() + 0.02 * rng.standard_normal((384, 320))


def _text(rng: np.random.Generator) -> np.ndarray:
    page = np.full((240, 240), 255, np.uint8)
    for line in range(15):
        word = "".join(rng.choice(list("REPORT OF FILM no 0123456789"), 28))
        cv2.putText(page, word, (6, 14 + 16 * line), cv2.FONT_HERSHEY_PLAIN, 0.9, 0)
    return page


def _smooth(rng: np.random.Generator) -> np.ndarray:
    cells = rng.standard_normal((int(rng.integers(2, 30)),) * 2).astype(np.float32)
    return cv2.resize(cells, (224, 224), interpolation=cv2.INTER_CUBIC)


def _blank(rng: np.random.Generator) -> np.ndarray:
    return np.full((224, 224), 0.5) + 0.002 * rng.standard_normal((224, 224))


def _grain(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((224, 224))


PAINTERS = {
    "chest": _chest,
    "hip": _hip,
    "hand": _hand,
    "lateral knee": _lateral,
    "text": _text,
    "smooth noise": _smooth,
    "blank": _blank,
    "grain": _grain,
}


def annotated(path: Path) -> dict[str, np.ndarray]:
    """KNEEL's 16 annotated landmarks of each knee, mm."""
    table = pd.read_csv(path, dtype=str)
    found = {}
    for row in table.itertuples():
        numbers = np.array(f"{row.tibia},{row.femur}".split(","), float)
        found[f"{row.subject_id}{row.side}"] = KNEEL_MM * numbers.reshape(-1, 2)
    return found


def aligned(found: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, float]:
    """Distances, mm, after the translation and scale that make them least, and the scale."""
    weights = np.ones(len(found))
    distance, scale = weights, 1.0
    for _ in range(10):
        a, b = (x - np.average(x, axis=0, weights=weights) for x in (found, true))
        scale = float((weights[:, None] * a * b).sum() / (weights[:, None] * a * a).sum())
        distance = np.linalg.norm(scale * a - b, axis=1)
        weights = 1 / np.maximum(distance, 0.5)
    return distance, scale


def _tilt(points: np.ndarray) -> float:
    across = points[PLATEAU[-1]] - points[PLATEAU[0]]
    return float(np.degrees(np.arctan2(across[1], across[0])))


def real(localiser: locate.Localiser, crops: Path, annotations: Path) -> list[dict[str, float]]:
    """Errors on annotated knees; refusals, shape and speed over 600 crops of the training part."""
    known = annotated(annotations)
    rows, errors, expected, tilts, grades = [], [], [], [], []
    files = {path.stem: path for path in sorted(crops.glob("*/[0-4]/*.png"))}
    refused: collections.Counter[str] = collections.Counter()
    chosen = sorted(set(files) & set(known))
    start = time.perf_counter()
    for name in chosen:
        grey = cv2.imread(str(files[name]), cv2.IMREAD_GRAYSCALE)
        grey = np.ascontiguousarray(grey[:, ::-1]) if name.endswith("L") else grey
        try:
            (knee,) = localiser.find(grey, most=1, looks="R")
        except UnusableKnee as error:
            refused[error.reason] += 1
            continue
        distances, scale = aligned(knee.points[POINTS], known[name])
        errors.append(distances)
        expected.append(knee.errors[POINTS] * scale)
        full = np.full((74, 2), np.nan)
        full[POINTS] = known[name]
        tilts.append((_tilt(knee.points), _tilt(full)))
        grades.append(files[name].parent.name)
    seconds = (time.perf_counter() - start) / len(chosen)
    of_knees, tilt = np.array(errors), np.array(tilts)
    d = tilt[:, 0] - tilt[:, 1]
    print("refused:", dict(refused))
    medians = np.median(of_knees, axis=0).round(2).tolist()
    print("median by point, mm:", dict(zip(POINTS, medians)))
    of_grade = {
        grade: round(float(np.median(of_knees[np.array(grades) == grade])), 2)
        for grade in sorted(set(grades))
    }
    print("median by KL grade, mm:", of_grade)
    for name, each in (("found", tilt[:, 0]), ("annotated", tilt[:, 1]), ("difference", d)):
        print(f"tilt, degrees, {name}: {each.mean():.2f} +- {each.std():.2f}")
    rows.append(
        {
            "set": "real, annotated",
            "n": len(chosen),
            "refused": sum(refused.values()) / len(chosen),
            "seconds_a_knee": seconds,
        }
        | shares(of_knees)
        | reliability("real, annotated", of_knees, np.array(expected))
    )
    return rows


def main() -> None:
    """Measure, print, and append to the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=locate.MODEL)
    parser.add_argument("--films", type=int, default=30)
    parser.add_argument("--subjects", type=int, default=10)
    parser.add_argument("--others", type=int, default=504)
    parser.add_argument("--crops", type=Path)
    parser.add_argument("--annotations", type=Path)
    options = parser.parse_args()
    localiser = locate.load(options.model)
    rows: list[dict] = [{"set": "phantom windows"} | phantom(localiser, options.films)]
    rows += films(localiser, options.subjects)
    rows.append({"set": "non-knees"} | non_knees(localiser, options.others))
    if options.crops and options.annotations:
        rows += real(localiser, options.crops, options.annotations)
    name = Path(options.model).name
    table = pd.DataFrame(rows)
    table.insert(0, "date", datetime.datetime.now(datetime.UTC).date().isoformat())
    table.insert(1, "model", name)
    print(table.round(4).to_string(index=False))
    RESULTS.parent.mkdir(exist_ok=True)
    before = [pd.read_csv(RESULTS)] if RESULTS.exists() else []
    pd.concat([*before, table]).to_csv(RESULTS, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
