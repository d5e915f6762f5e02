"""Landmarks of the knees in any files as a table, and pictures to check them by."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from knee_jax.files import write_text
from knee_jax.inference import grade, placing
from knee_jax.inference.locate import Localiser
from knee_jax.ingest import contact_sheet
from knee_jax.ingest.knee_files import Knee, Reading, Refusal
from knee_jax.ingest.report import example
from knee_jax.ingest.sources import Source
from knee_jax.landmarks import NUM_LANDMARKS
from knee_jax.targets.grades import GRADES

TABLE, SHEET, LEAST_CERTAIN = "landmarks.csv", "contact_sheet.png", "least_certain.png"
SHOWN, LEAST_SHOWN = 64, 32
"""Knees on the two sheets."""


def find(
    sources: Sequence[Source], reading: Reading, localiser: Localiser, workers: int
) -> Iterator[Knee | Refusal]:
    """Find the knees in files, in order.

    Args:
        sources: Files.
        reading: How they are read.
        localiser: Finder of knees.
        workers: Number of processes that read.
    """
    for read in grade.read_all(sources, reading, workers):
        yield from placing.place(read.source, read.found, reading, localiser)


def write(out: Path, found: Iterable[Knee | Refusal], number: int) -> pd.DataFrame:
    """Write the table and the sheets; return the table.

    Args:
        out: Folder; made if it is missing.
        found: Knees and refusals.
        number: Number of files, for the bar.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    shown: list[Knee] = []
    unsure: list[Knee] = []
    step = max(1, number // SHOWN)
    for each in tqdm(found, desc="locating", unit="knee"):
        rows.append(row_of(each))
        if isinstance(each, Knee) and np.isfinite(each.landmark_error):
            if len(rows) % step == 0 and len(shown) < SHOWN:
                shown.append(each)
            unsure.append(each)
            unsure.sort(key=lambda knee: -knee.landmark_error)
            del unsure[LEAST_SHOWN:]
    table = pd.DataFrame(rows)
    write_text(out / TABLE, table.to_csv(index=False, float_format="%.6g"))
    for name, knees in ((SHEET, shown), (LEAST_CERTAIN, unsure)):
        if knees:
            contact_sheet.write(out / name, [_example(knee) for knee in knees])
    return table


def row_of(found: Knee | Refusal) -> dict[str, Any]:
    """Return the row of a knee or refusal; landmarks in pixels of the region of interest."""
    if isinstance(found, Refusal):
        return dataclasses.asdict(found) | {"status": "refused"}
    places = {
        f"{axis}{i}": value
        for i, point in enumerate(found.landmarks)
        for axis, value in zip("xy", point, strict=True)
    }
    return {
        "source": found.source,
        "side": found.side,
        "status": "located" if np.isfinite(found.landmarks).any() else "not_located",
        "reason": "",
        "detail": "",
        "located_by": found.located,
        "landmark_error": found.landmark_error,
        "notes": "; ".join(found.notes),
        "pixels": len(found.image),
        **places,
    }


def account(table: pd.DataFrame) -> str:
    """Say in one line how many knees were found, and how many not, by reason."""
    counts = table["status"].value_counts()
    reasons = table["reason"][table["status"] == "refused"].value_counts()
    refused = ", ".join(f"{number:,} {reason}" for reason, number in reasons.items())
    words = [f"{counts.get('located', 0):,} knees located"]
    if number := counts.get("not_located", 0):
        words.append(f"{number:,} without landmarks")
    words.append(f"{counts.get('refused', 0):,} refused" + (f" ({refused})" if refused else ""))
    return ", ".join(words)


def _example(knee: Knee) -> dict[str, Any]:
    grades = np.full(len(GRADES), -1, np.int8)
    points = knee.landmarks if knee.landmarks.shape == (NUM_LANDMARKS, 2) else None
    return example(
        knee.image,
        grades,
        subject=Path(knee.source).stem[:14],
        side=knee.side or "?",
        visit=0,
        cohort="",
        source=knee.source,
        keypoints=points,
    )
