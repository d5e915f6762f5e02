"""Tables of the positions of knees on their films: keypoints, or bounding boxes.

`tables/keypoints.csv` or `tables/boxes.csv` under the study's root are comma-separated, with one
row per knee. Their columns, beside others that are ignored:

    side                      L or R, the patient's
    source                    the film's path relative to the root; or, instead of it,
    subject, visit            the study's id, and months since baseline

and of keypoints

    tibia_mm, femur_mm        "x,y,x,y,..." from lateral to medial; 9 and 7 points as KNEEL finds
                              them, or 37 and 37, all of BoneFinder's

and of boxes

    centre_x_mm, centre_y_mm  the middle of the joint
    width_mm, height_mm       50 to 300 mm; checked only: the region of interest has its own size

In all these names `_px` instead of `_mm` stands for the film's own pixels. Coordinates count from
the upper left corner of the film as it is, where a right knee is at its left. The table that the
KNEEL code publishes (`subject_id, side, kl, tibia, femur, bbox, center`; OAI's baseline) can also
be read as `keypoints.csv`.

Landmarks that a table does not have are NaN. A box gives landmark 55 only, and its knee is not
rotated.
"""

import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np
import pandas as pd

from knee_jax import foreign_tables
from knee_jax.errors import UnusableKnee, UserError
from knee_jax.ingest import archives
from knee_jax.ingest.inventory import SIDES
from knee_jax.landmarks import FEMUR, NUM_LANDMARKS, PLATEAU_CENTRE, PRESETS, TIBIA

_UNITS = ("mm", "px")
_KNEEL = PRESETS["kneel16"]
_POINTS = {
    "tibia": (tuple(TIBIA), tuple(i for i in _KNEEL if i in TIBIA)),
    "femur": (tuple(FEMUR), tuple(i for i in _KNEEL if i in FEMUR)),
}
"""Landmarks that the columns of a bone may hold."""

_BOX_RANGE_MM = (50.0, 300.0)

_KNEEL_COLUMNS = ("subject_id", "side", "tibia", "femur", "bbox")
# The film is shrunk to this pixel size and padded; the points are counted in its crop `bbox`, which
# is mirrored for a left knee. (Facts from the KNEEL code.)
_KNEEL_SPACING_MM, _KNEEL_PADDING = 0.3, 100


@dataclasses.dataclass(frozen=True)
class KneeLocation:
    """Position of one knee on its film.

    Attributes:
        points: Landmarks, float64 [74, 2], (x, y) from the film's upper left corner, NaN where
            unknown.
        size: Width and height of the box, None if there is none.
        unit: Unit of both, 'mm' or 'px' of the film.
    """

    points: np.ndarray
    size: tuple[float, float] | None
    unit: str

    def on_film(self, spacing_mm: tuple[float, float]) -> np.ndarray:
        """Return the points in mm.

        Args:
            spacing_mm: Pixel width and height of the film, mm.

        Raises:
            UnusableKnee: box_implausible.
        """
        scale = np.array(spacing_mm if self.unit == "px" else (1.0, 1.0))
        if self.size is not None:
            width, height = scale * self.size
            low, high = _BOX_RANGE_MM
            if not (low <= width <= high and low <= height <= high):
                detail = f"a box of {width:.0f} x {height:.0f} mm; are its numbers in {self.unit}?"
                raise UnusableKnee("box_implausible", detail)
        return self.points * scale


FilmKey = str | tuple[str, int]
"""Path relative to the study's root, or subject and months since baseline."""

KneeLocations = dict[str, KneeLocation | UnusableKnee]
"""Position of the knee of each side, or the problem of its row."""


def read_locations(root: pathlib.Path, kind: str) -> dict[FilmKey, KneeLocations]:
    """Read the table of a study.

    Args:
        root: Root folder of the study.
        kind: 'keypoints' or 'boxes'.

    Returns:
        Positions of the knees of every film in the table; landmarks_count, landmarks_unreadable or
        landmarks_nan in place of one that cannot be used.

    Raises:
        UserError: There is no table, a column is missing, a row names no film or side, or two rows
            name the same knee.
    """
    path = root / "tables" / f"{kind}.csv"
    lines: dict[tuple[FilmKey, str], int] = {}
    table: dict[FilmKey, KneeLocations] = {}
    rows = _read(path)
    columns = list(rows.columns)
    name_film = _film_key(columns, path)
    parse_row = _row_parser(kind, columns, path)
    for line, cells in zip(rows.index.tolist(), rows.to_numpy().tolist()):
        row: dict[str, str] = dict(zip(columns, cells))
        where = f"{path}, line {line}"
        side = row["side"].upper()
        if side not in SIDES:
            raise UserError(f"{where}: side {row['side']!r} is neither L nor R; correct it")
        film = name_film(row, where)
        if not film or not film[0]:
            raise UserError(f"{where}: it names no film; fill it in, or delete the row")
        if earlier := lines.get((film, side)):
            raise UserError(f"{path}: lines {earlier} and {line} are of the same knee; leave one")
        lines[film, side] = line
        try:
            found: KneeLocation | UnusableKnee = parse_row(row)
        except UnusableKnee as error:
            detail = f"{path.name}, line {line}: {error.detail}"
            found = UnusableKnee(error.reason, detail)
        table.setdefault(film, {})[side] = found
    return table


def _read(path: pathlib.Path) -> pd.DataFrame:
    """Read the cells as text without blanks around them, by line."""
    if not archives.exists(path):
        raise UserError(
            f"{path}: there is no such table; copy it here, or prepare another config of the set"
        )
    table = foreign_tables.read_table(path, remedy="save it as UTF-8", data=archives.read(path))
    return table.apply(lambda column: column.str.strip())


def _film_key(columns: list[str], path: pathlib.Path) -> Callable[[dict[str, str], str], FilmKey]:
    """Return the function that reads the film's key from a row."""
    if "source" in columns:
        return lambda row, where: row["source"].replace("\\", "/").removeprefix("./")
    if _is_kneel(columns):
        return lambda row, where: (row["subject_id"], 0)
    _check_columns(("subject", "visit"), columns, path)
    return _subject_and_visit


def _subject_and_visit(row: dict[str, str], where: str) -> FilmKey:
    if not row["visit"].isdecimal():
        raise UserError(f"{where}: visit {row['visit']!r} is not a number of months; correct it")
    return row["subject"], int(row["visit"])


def _row_parser(
    kind: str, columns: list[str], path: pathlib.Path
) -> Callable[[dict[str, str]], KneeLocation]:
    """Return the function that reads the knee's position from a row."""
    if kind == "keypoints" and _is_kneel(columns):
        return _parse_kneel
    names = {"keypoints": _POINTS, "boxes": ("centre_x", "centre_y", "width", "height")}[kind]
    unit = next((u for u in _UNITS if f"{next(iter(names))}_{u}" in columns), "mm")
    _check_columns(["side", *(f"{name}_{unit}" for name in names)], columns, path)
    read = {"keypoints": _parse_keypoints, "boxes": _parse_box}[kind]
    return lambda row: read([row[f"{name}_{unit}"] for name in names], unit)


def _is_kneel(columns: list[str]) -> bool:
    return set(_KNEEL_COLUMNS) <= set(columns)


def _check_columns(names, columns: list[str], path: pathlib.Path) -> None:
    if missing := [name for name in names if name not in columns]:
        raise UserError(
            f"{path}: the column {missing[0]} is missing; see "
            "knee_jax/ingest/landmark_tables.py for the columns"
        )


def _parse_keypoints(cells: list[str], unit: str) -> KneeLocation:
    points = np.full((NUM_LANDMARKS, 2), np.nan)
    for (bone, choices), cell in zip(_POINTS.items(), cells):
        values = _numbers(cell.split(","))
        indices = next((each for each in choices if 2 * len(each) == len(values)), None)
        if indices is None:
            known = " or ".join(str(2 * len(each)) for each in choices)
            detail = f"{len(values)} numbers instead of {known} of the {bone}"
            raise UnusableKnee("landmarks_count", detail)
        points[list(indices)] = values.reshape(-1, 2)
    return KneeLocation(points, None, unit)


def _parse_kneel(row: dict[str, str]) -> KneeLocation:
    location = _parse_keypoints([row["tibia"], row["femur"]], "mm")
    box = _numbers(row["bbox"].split(","))
    if len(box) != 4:
        raise UnusableKnee("landmarks_count", f"{len(box)} numbers instead of 4 of the bbox")
    in_crop = location.points
    if row["side"].upper() == "L":
        in_crop = in_crop * (-1, 1) + (box[2] - box[0], 0)
    return dataclasses.replace(
        location, points=(in_crop + box[:2] - _KNEEL_PADDING) * _KNEEL_SPACING_MM
    )


def _parse_box(cells: list[str], unit: str) -> KneeLocation:
    x, y, width, height = _numbers(cells)
    points = np.full((NUM_LANDMARKS, 2), np.nan)
    points[PLATEAU_CENTRE] = x, y
    return KneeLocation(points, (width, height), unit)


def _numbers(cells: list[str]) -> np.ndarray:
    try:
        values = np.array([float(cell) for cell in cells])
    except ValueError as error:
        raise UnusableKnee("landmarks_unreadable", "a cell is no number") from error
    if not np.isfinite(values).all():
        raise UnusableKnee("landmarks_nan", "a coordinate is not a number")
    return values
