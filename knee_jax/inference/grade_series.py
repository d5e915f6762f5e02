"""Grades of the knees in MR series, by a model of volumes; rows and files are those of `grade`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import knee_jax
from knee_jax import pictures
from knee_jax.errors import UserError
from knee_jax.files import write_json
from knee_jax.inference import grade
from knee_jax.inference.predictor import Predictor
from knee_jax.ingest.knee_files import Knee, Refusal
from knee_jax.ingest.knee_series import SeriesJob, SeriesKnee
from knee_jax.ingest.pool import Failure, run_in_order
from knee_jax.ingest.sources import Source
from knee_jax.ingest.volume import Preparation, preparation_of
from knee_jax.landmarks import NUM_LANDMARKS

SECONDS = 300.0
"""Time limit for reading one series."""

PLACES = (0.3, 0.5, 0.7)
"""Slices of the picture, as shares of the way from lateral to medial."""

Row = grade.Row


def preparation_for(predictor: Predictor) -> Preparation:
    """Return how series are converted for a model.

    Raises:
        UserError: The models were trained on series of different kinds, or on none that is known.
    """
    each = predictor.facts.get("models", [predictor.facts])
    known = {preparation_of(str(facts.get("data", ""))) for facts in each}
    if len(known) > 1:
        raise UserError(f"{predictor.name}: the models read series differently: predict with each")
    (found,) = known
    if found is None:
        raise UserError(
            f"{predictor.name} was trained on volumes whose preparation is not known here; predict "
            "on arrays (docs/how-to/predict-on-arrays.md)"
        )
    return found


def settings_of(predictor: Predictor, side: str) -> dict[str, Any]:
    """Return what predictions depend on, as plain values."""
    return {
        "model": predictor.name,
        "facts": dict(predictor.facts),
        "knee_jax": knee_jax.__version__,
        "reading": {"series": True, "side": side},
    }


def rows_of(
    predictor: Predictor,
    sources: Sequence[Source],
    preparation: Preparation,
    side: str,
    workers: int,
    out: Path | None = None,
) -> Iterator[tuple[grade.Read, list[Row]]]:
    """Grade series one by one, and yield the rows of each, in order.

    Args:
        predictor: Model of volumes.
        sources: Series.
        preparation: Result of `preparation_for`.
        side: 'L' or 'R' of every knee; '' to read it from the headers.
        workers: Processes that read them.
        out: Folder of results, for one JSON file and one picture of each knee; None: none.
    """
    jobs = (SeriesJob(source, preparation, side) for source in sources)
    for source, found in zip(sources, run_in_order(jobs, workers, SECONDS), strict=True):
        if isinstance(found, Failure):
            found = [Refusal(source.name, "", found.reason, found.detail)]
        rows = [_row(predictor, each, out) for each in found]
        yield grade.Read(source, ()), rows


def _row(predictor: Predictor, found: SeriesKnee | Refusal, out: Path | None) -> Row:
    if isinstance(found, Refusal):
        return grade.refused(predictor, found)
    predicted = predictor.predict(found.volume[None])
    knee = Knee(
        source=found.source,
        side=found.side,
        image=found.volume[..., found.volume.shape[-1] // 2],
        landmarks=np.full((NUM_LANDMARKS, 2), np.nan, np.float32),
        located="series",
        notes=found.notes,
    )
    row = grade.row_of(predictor, knee, {name: value[0] for name, value in predicted.items()})
    if out is not None:
        name = grade.name_of(found.source, found.side)
        grade.write_picture(out / grade.PICTURES / f"{name}.png", picture(found.volume))
        write_json(out / grade.KNEES / f"{name}.json", {**row, "warning": grade.WARNING})
    return row


def picture(volume: np.ndarray) -> np.ndarray:
    """Draw three slices of a knee side by side, from lateral to medial, uint8 [h, w, 3].

    Args:
        volume: Voxels, uint8 [rows, columns, slices].
    """
    brightest = max(1, int(np.percentile(volume, 99.5)))
    titles = ("lateral", "middle", "medial")
    panels = []
    for title, place in zip(titles, PLACES, strict=True):
        piece = volume[..., int(place * volume.shape[-1])]
        drawn = pictures.knee(piece, grade.PANEL, sides=("A", "P"), brightest=brightest)
        panels.append((title, drawn))
    return pictures.row(panels)
