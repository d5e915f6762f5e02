"""Keypoints, boxes or ready crops of a study tree, for researchers without BoneFinder.

All are made from the landmark files of the tree, and placed where `knee_jax.ingest` expects them.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom

from knee_jax.landmarks import PLATEAU, PLATEAU_CENTRE, PRESETS, TIBIA

_BOX_MM = 120.0
_CROP_MM, _CROP_SPACING_MM = 140.0, 0.2


def write_keypoints(root: Path, knees: pd.DataFrame) -> None:
    """Write `tables/keypoints.csv` by subject and visit: KNEEL's 16 points in mm on the film.

    Args:
        root: Tree of `study.write_study`.
        knees: Table that it returned.
    """
    tibia = [i for i in PRESETS["kneel16"] if i in TIBIA]
    femur = [i for i in PRESETS["kneel16"] if i not in TIBIA]
    rows = [
        {
            "subject": row["subject"],
            "visit": row["visit"],
            "side": row["side"],
            "tibia_mm": _text(points[tibia]),
            "femur_mm": _text(points[femur]),
        }
        for row, points, _ in _with_landmarks(root, knees)
    ]
    pd.DataFrame(rows).to_csv(root / "tables" / "keypoints.csv", index=False)


def write_boxes(root: Path, knees: pd.DataFrame) -> None:
    """Write `tables/boxes.csv` by film: boxes of 120 mm in pixels of the film.

    Args:
        root: Tree of `study.write_study`.
        knees: Table that it returned.
    """
    rows = []
    for row, points, film in _with_landmarks(root, knees):
        spacing = film.ImagerPixelSpacing[0]
        x, y = points[PLATEAU_CENTRE] / spacing
        size = round(_BOX_MM / spacing, 3)
        rows.append(
            {
                "source": row["source"],
                "side": row["side"],
                "centre_x_px": round(x, 3),
                "centre_y_px": round(y, 3),
                "width_px": size,
                "height_px": size,
            }
        )
    pd.DataFrame(rows).to_csv(root / "tables" / "boxes.csv", index=False)


def write_crops(root: Path, knees: pd.DataFrame) -> None:
    """Write `crops/{subject}_{month}_{L|R}.png`: 700 px of 0.2 mm, the plateau horizontal.

    Left knees are not mirrored. As in the published pipeline the film is clipped at percentiles 5
    and 99 and resampled to 0.2 mm with a cubic spline.

    Args:
        root: Tree of `study.write_study`.
        knees: Table that it returned.
    """
    folder = root / "crops"
    folder.mkdir(exist_ok=True)
    size = round(_CROP_MM / _CROP_SPACING_MM)
    for row, points, film in _with_landmarks(root, knees):
        grey = _window(film)
        along = (points[PLATEAU[-1]] - points[PLATEAU[0]]) * (1 if row["side"] == "R" else -1)
        tilt = math.degrees(math.atan2(along[1], along[0]))
        scale = film.ImagerPixelSpacing[0] / _CROP_SPACING_MM
        # OpenCV counts from the first pixel's centre.
        centre = points[PLATEAU_CENTRE] / film.ImagerPixelSpacing[0] - 0.5
        matrix = cv2.getRotationMatrix2D(centre.tolist(), tilt, scale)
        matrix[:, 2] += (size - 1) / 2 - centre
        crop = cv2.warpAffine(grey, matrix, (size, size), flags=cv2.INTER_CUBIC)
        name = f"{row['subject']}_{row['visit']:02d}_{row['side']}.png"
        cv2.imwrite(str(folder / name), crop)


WRITERS = {"keypoints": write_keypoints, "boxes": write_boxes, "crops": write_crops}


def _with_landmarks(
    root: Path, knees: pd.DataFrame
) -> Iterator[tuple[dict, np.ndarray, pydicom.FileDataset]]:
    """Yield rows of the knees with landmarks, the landmarks in mm on the film, and the film."""
    for row in knees.to_dict("records"):
        path = root / row["source"]
        file = path.with_name(path.name + {"L": ".pts", "R": "_f.pts"}[row["side"]])
        if not file.exists():
            continue
        film = pydicom.dcmread(path)
        points = np.loadtxt(file, skiprows=3, comments="}")
        if row["side"] == "R":
            points[:, 0] = film.Columns * film.ImagerPixelSpacing[1] - points[:, 0]
        yield row, points, film


def _text(points: np.ndarray) -> str:
    return ",".join(f"{value:.6f}" for value in points.ravel())


def _window(film: pydicom.FileDataset) -> np.ndarray:
    grey = film.pixel_array.astype(np.float64)
    if film.PhotometricInterpretation == "MONOCHROME1":
        grey = grey.max() - grey
    low, high = np.percentile(grey, (5, 99))
    return ((grey.clip(low, high) - low) * (255 / (high - low))).astype(np.uint8)
