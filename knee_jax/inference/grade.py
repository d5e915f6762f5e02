"""Grades of the knees in any files."""

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

import knee_jax
from knee_jax import pictures
from knee_jax.errors import UserError
from knee_jax.files import atomic_write, write_json
from knee_jax.inference import locate, measures, models, placing
from knee_jax.inference import novelty as novelties
from knee_jax.inference.predictor import BATCH_SIZE, Predictor
from knee_jax.ingest.knee_files import (
    ROI_MM,
    Knee,
    KneeFileJob,
    Reading,
    Refusal,
    Unplaced,
)
from knee_jax.ingest.pool import Failure, run_in_order
from knee_jax.ingest.sources import Source, find
from knee_jax.landmarks import PLATEAU
from knee_jax.metrics import calibration
from knee_jax.targets.kinds import Classes, Ordinal, Target
from knee_jax.targets.places import Places

SECONDS = 120.0
"""Time limit for reading one file."""

UNKNOWN_SIDE = 350
"""Side of the images that are made for a run that does not say how large its own were, pixels."""

CROPS_DATASET = "kneekl224"
"""Data set of tight crops: a model that was trained on it knows no more of a knee than these."""

KNEES, PICTURES = "knees", "pictures"

DOUBT = "unlike most training knees"
"""Note on a knee whose grade has no confidence."""

WARNING = "For research only, not a medical device."

PANEL = 320
"""Width of the picture of a knee, and of its evidence, pixels."""

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Read:
    """One file and what was read from it."""

    source: Source
    found: Sequence[Knee | Refusal | Unplaced]


def grade(predictor: Predictor, paths: Sequence[str | Path], **reading: Any) -> pd.DataFrame:
    """Grade the knees in some files, folders and archives, in this process.

    Args:
        predictor: Model.
        paths: Files, folders and archives.
        **reading: Fields of `knee_files.Reading`, such as `side`. The localiser finds the knees of
            films without landmark files, unless `localise=False` or `middle=True`.

    Returns:
        Table with one row per knee, or per refused file, as `predictions.csv` has them.

    Raises:
        UserError: The model reads MR volumes.
        FileNotFoundError: A path does not exist.
    """
    localise = not reading.get("middle", False)
    how = reading_for(predictor, **({"localise": localise} | reading))
    sources = find([Path(path).expanduser() for path in paths])
    reads: Iterable[Read] = (Read(source, KneeFileJob(source, how)()) for source in sources)
    if how.localise:
        reads = placed(reads, how)
    return table_of([row for _, rows in rows_of(predictor, reads) for row in rows])


def reading_for(predictor: Predictor, **fields: Any) -> Reading:
    """Return how files are read for a model.

    Raises:
        UserError: The model reads MR volumes, or finds landmarks; or several know knees that are
            cut differently.
    """
    if any(isinstance(target, Places) for target in predictor.targets):
        raise UserError(
            f"{predictor.name} finds landmarks, and grades nothing: it is for `knee-jax locate`; "
            f"choose from {', '.join(models.graders())}, or a run of your own"
        )
    if predictor.reads != "image":
        raise UserError(
            f"{predictor.name} reads MR volumes, not films: MR series are graded by it, by "
            "`knee-jax predict`"
        )
    each = predictor.facts.get("models", [predictor.facts])
    known = {str(facts.get("data", "")).partition("/")[0] == CROPS_DATASET for facts in each}
    if len(known) > 1:
        raise UserError(
            f"{predictor.name}: some know crops as those of {CROPS_DATASET}, others regions of "
            f"{ROI_MM:g} mm, and no region suits both: predict with one after the other"
        )
    return Reading(pixels=predictor.side or UNKNOWN_SIDE, like_crops=known == {True}, **fields)


def table_of(rows: Sequence[Row]) -> pd.DataFrame:
    """Return rows as a table, with the columns in the order of the longest row."""
    columns = sorted({name for row in rows for name in row}, key=_order(rows))
    table = pd.DataFrame(rows, columns=columns)
    # A refused row has no grade, which must not turn those of others into 2.0.
    for name in columns:
        if any(type(row.get(name)) is int for row in rows):
            table[name] = table[name].astype("Int64")
    return table


def read_all(sources: Sequence[Source], reading: Reading, workers: int) -> Iterator[Read]:
    """Read files in worker processes, in order; a file that breaks its reader is refused alone."""
    jobs = (KneeFileJob(source, reading) for source in sources)
    for source, found in zip(sources, run_in_order(jobs, workers, SECONDS), strict=True):
        yield Read(source, kept(found, source))


def kept(
    found: list[Knee | Refusal | Unplaced] | Failure, source: Source
) -> list[Knee | Refusal | Unplaced]:
    """Return what was read from a file; one whose reading failed is refused."""
    if isinstance(found, Failure):
        return [Refusal(source.name, "", found.reason, found.detail)]
    return found


def placed(reads: Iterable[Read], reading: Reading) -> Iterator[Read]:
    """Let the localiser find the knees of films without landmarks, and the landmarks of crops."""
    for read in reads:
        found = placing.place(read.source, read.found, reading, locate.shipped())
        yield dataclasses.replace(read, found=found)


def rows_of(
    predictor: Predictor, reads: Iterable[Read], out: Path | None = None
) -> Iterator[tuple[Read, list[Row]]]:
    """Grade knees in batches, and yield the rows of each file, in order.

    With a folder `out`, one JSON file and one picture of each knee are written to it.
    """
    waiting: list[Read] = []
    for read in reads:
        waiting.append(read)
        if sum(len(each.found) for each in waiting) >= BATCH_SIZE:
            yield from _graded(predictor, waiting, out)
            waiting = []
    if waiting:
        yield from _graded(predictor, waiting, out)


def _graded(
    predictor: Predictor, reads: Sequence[Read], out: Path | None
) -> Iterator[tuple[Read, list[Row]]]:
    knees = [found for read in reads for found in read.found if isinstance(found, Knee)]
    rows = rows_of_knees(predictor, knees) if knees else []
    if out is not None and knees:
        for knee, row, heat in zip(knees, rows, evidence(predictor, knees), strict=True):
            if row["status"] == "graded":
                name = name_of(knee.source, knee.side)
                write_picture(out / PICTURES / f"{name}.png", picture(predictor, knee, row, heat))
                write_json(out / KNEES / f"{name}.json", {**row, "warning": WARNING})
    graded = {id(knee): row for knee, row in zip(knees, rows, strict=True)}
    for read in reads:
        yield (
            read,
            [
                graded[id(each)] if isinstance(each, Knee) else refused(predictor, each)
                for each in read.found
                if not isinstance(each, Unplaced)
            ],
        )


def rows_of_knees(predictor: Predictor, knees: Sequence[Knee]) -> list[Row]:
    """Grade one knee or more, and return the row of each.

    A knee of unknown side is read as it is and mirrored, and the predictions are averaged.
    """
    images, points = _arrays(knees)
    predicted, novelty = predictor.read(images, points)
    unknown = np.array([not knee.side for knee in knees])
    if unknown.any():
        mirrored = predictor.read(
            np.ascontiguousarray(images[unknown][:, :, ::-1]), points[unknown]
        )
        for name, values in predicted.items():
            values[unknown] = (values[unknown] + mirrored.decoded[name]) / 2
        if novelty is not None and mirrored.novelty is not None:
            novelty[unknown] = np.minimum(novelty[unknown], mirrored.novelty)
    return [
        row_of(
            predictor,
            knee,
            {name: value[i] for name, value in predicted.items()},
            None if novelty is None else float(novelty[i]),
        )
        for i, knee in enumerate(knees)
    ]


def evidence(predictor: Predictor, knees: Sequence[Knee]) -> list[np.ndarray | None]:
    """Return where the evidence in each knee lay, float32 [size, size], 0 to 1; None if unknown."""
    return list(predictor.explain(*_arrays(knees))) if predictor.heat else [None] * len(knees)


def _arrays(knees: Sequence[Knee]) -> tuple[np.ndarray, np.ndarray]:
    """Return the images and landmarks of some knees."""
    images = np.stack([knee.image for knee in knees])
    return images, np.stack([knee.landmarks for knee in knees])


def name_of(source: str, side: str) -> str:
    """Return the name of a knee's files: its source's path, made unique by a checksum of it."""
    parts = [part for part in Path(source).with_suffix("").parts if part not in ("/", "..")]
    # Of a long path the end tells most.
    plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in "_".join(parts))[-60:]
    digest = hashlib.sha256(source.encode()).hexdigest()[:8]
    return "_".join(part for part in (plain, digest, side) if part)


def row_of(
    predictor: Predictor,
    knee: Knee,
    predicted: Mapping[str, np.ndarray],
    novelty: float | None = None,
) -> Row:
    """Return the row of a knee, refused if it is too unlike those that the model was trained on.

    Args:
        predictor: Model.
        knee: Knee.
        predicted: Decoded outputs of the knee by target.
        novelty: How unlike the training knees it is; None if the model does not know.
    """
    # Landmarks vouch that there is a knee; nothing does for a loose crop or the middle of a half.
    vouched = knee.located in ("landmarks", "localiser")
    if novelty is not None and novelty > novelties.REFUSED and not vouched:
        detail = (
            f"its novelty is {novelty:.2f}, above {novelties.REFUSED}: {predictor.name} was "
            "trained on nothing like it; is it a front view of one knee, upright and not clipped?"
        )
        return refused(predictor, Refusal(knee.source, knee.side, "unlike_training_knees", detail))
    doubtful = novelty is not None and novelty > novelties.DOUBTFUL
    notes = [*knee.notes, *([DOUBT] if doubtful else [])]
    row: Row = {
        "file": knee.source,
        "side": knee.side,
        "status": "graded",
        "reason": "",
        "detail": "",
        "located_by": knee.located,
        "landmarks_by": _source_of_landmarks(knee),
        "landmark_error": None
        if math.isnan(knee.landmark_error)
        else round(knee.landmark_error, 4),
        "notes": "; ".join(notes),
    }
    row |= _widths(knee) | _angles(knee)
    if novelty is not None:
        row["novelty"] = round(novelty, 3)
    for target in predictor.targets:
        row |= _columns(predictor, target, predicted[target.name])
        if doubtful and isinstance(target, Classes):
            row |= {f"{target.name}_confidence": None, f"{target.name}_calibrated": False}
    return row | _origin(predictor)


def _widths(knee: Knee) -> Row:
    """Return the joint space widths in mm, None where landmarks or the spacing are unknown."""
    names = ("jsw_lateral_mm", "jsw_medial_mm", "jsw_error_mm")
    widths = measures.joint_space_widths(knee.landmarks)
    if math.isnan(knee.spacing_mm) or math.isnan(widths[0]):
        return dict.fromkeys(names)
    plateau = knee.landmarks[PLATEAU[-1]] - knee.landmarks[PLATEAU[0]]
    error = measures.width_error(knee.landmark_error * float(np.linalg.norm(plateau)))
    values = [round(knee.spacing_mm * value, 3) for value in (*widths, error)]
    return dict(zip(names, [None if math.isnan(v) else v for v in values], strict=True))


def _angles(knee: Knee) -> Row:
    """Return the angles of the bones, degrees, None where the picture does not show enough."""
    # A film shows more than the region that is cut of it; a crop does not.
    points = knee.landmarks.astype(np.float64)
    if knee.located == "crop":
        points = placing.within(points, knee.image)
    error = knee.landmark_error * float(np.linalg.norm(points[PLATEAU[-1]] - points[PLATEAU[0]]))
    values = {
        "joint_angle_deg": measures.joint_angle(points),
        "joint_angle_error_deg": measures.joint_angle_error(points, error),
        "axis_angle_deg": measures.axis_angle(points),
        "axis_angle_error_deg": measures.axis_angle_error(points, error),
    }
    return {name: None if math.isnan(v) else round(v, 2) for name, v in values.items()}


def _source_of_landmarks(knee: Knee) -> str:
    """Return where a knee's landmarks came from: 'files', 'localiser', or '' without any."""
    if not np.isfinite(knee.landmarks).any():
        return ""
    return "files" if knee.located == "landmarks" else "localiser"


def refused(predictor: Predictor, refusal: Refusal) -> Row:
    """Return the row of a file or knee that was refused."""
    return {
        "file": refusal.source,
        "side": refusal.side,
        "status": "refused",
        "reason": refusal.reason,
        "detail": refusal.detail,
        "located_by": "",
        "landmarks_by": "",
        "landmark_error": None,
        "notes": "",
    } | _origin(predictor)


def _columns(predictor: Predictor, target: Target, decoded: np.ndarray) -> Row:
    columns = {
        name: np.asarray(values)[0].item()
        for name, values in target.predictions(np.asarray(decoded)[None]).items()
    }
    if isinstance(target, Ordinal):
        columns[f"{target.name}_expected"] = float(decoded @ np.arange(target.num_outputs))
    if isinstance(target, Classes):
        temperature = predictor.temperatures.get(target.name)
        calibrated = np.asarray(decoded, np.float64)
        if temperature is not None:
            calibrated = calibration.temper(calibrated[None], temperature)[0]
        columns[f"{target.name}_confidence"] = float(calibrated.max())
        columns[f"{target.name}_calibrated"] = temperature is not None
    return {
        name: round(value, 6) if isinstance(value, float) else value
        for name, value in columns.items()
    }


def _answer(target: Target, row: Row) -> str:
    """Return the class that heat speaks for in words; of a continuous target, a high value."""
    if isinstance(target, Classes):
        return target.class_label(row[f"{target.name}_pred"])
    return f"a high {target.title}"


def _origin(predictor: Predictor) -> Row:
    return {"model": predictor.name, "knee_jax": knee_jax.__version__}


def picture(predictor: Predictor, knee: Knee, row: Row, heat: np.ndarray | None) -> np.ndarray:
    """Draw the region, with landmarks, and beside it where the evidence for the answer lay.

    It is shown as it lies on the film: networks see left knees mirrored, people do not.

    Returns:
        Picture, uint8 [rows, columns, 3], red, green, blue.
    """
    image, points = knee.image, knee.landmarks
    sides = pictures.FILM_SIDES if knee.side else ("", "")
    if knee.side == "L":
        image = np.ascontiguousarray(image[:, ::-1])
        points = points * [-1, 1] + [image.shape[1], 0]
        heat = None if heat is None else np.ascontiguousarray(heat[:, ::-1])
        sides = sides[::-1]
    read = pictures.knee(image, PANEL, keypoints=points, sides=sides, mm_per_pixel=knee.spacing_mm)
    panels = [("region read, as on the film", read)]
    if heat is not None:
        seen = pictures.evidence(image, heat, PANEL, sides=sides, mm_per_pixel=knee.spacing_mm)
        panels.append((f"evidence for {_answer(predictor.targets[0], row)}", seen))
    return pictures.row(panels, bar=heat is not None)


def write_picture(path: Path, drawn: np.ndarray) -> None:
    """Write a picture, uint8 [rows, columns, 3], as PNG."""
    good, data = cv2.imencode(".png", drawn[..., ::-1])
    assert good
    with atomic_write(path) as unfinished:
        unfinished.write_bytes(data.tobytes())


def _order(rows: Sequence[Row]) -> Any:
    """Order columns as the longest row has them."""
    longest = list(max(rows, key=lambda row: len(list(row)), default={}))
    return lambda name: longest.index(name) if name in longest else len(longest)
