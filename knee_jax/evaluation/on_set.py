"""Predictions of a finished network for any prepared set, scored and reported.

Neither the network's training set nor code of training is needed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from knee_jax.config.schema import Evaluation
from knee_jax.data.prepared import PreparedSet
from knee_jax.errors import UserError
from knee_jax.files import write_json
from knee_jax.inference.predictor import BATCH_SIZE, Predictor
from knee_jax.metrics import bootstrap
from knee_jax.metrics.predictions import first_visit, make_table, targets_in, write_predictions
from knee_jax.metrics.summary import Summary, summarise, write_metrics
from knee_jax.report.confidence import confidence_section
from knee_jax.report.examples import Example, choose_examples, show
from knee_jax.report.operating import operating_table
from knee_jax.report.page import write_report
from knee_jax.report.sections import Section
from knee_jax.report.tables import Table, beside
from knee_jax.targets import of_kind
from knee_jax.targets.kinds import Classes
from knee_jax.targets.places import Places

PART, FACTS = "test", "evaluation.json"

_CHUNK = 8 * BATCH_SIZE


def predict(predictor: Predictor, prepared: PreparedSet, rows: np.ndarray) -> pd.DataFrame:
    """Make the predictions table of some knees of a set.

    Images of another size than the network was trained on are resized.

    Args:
        predictor: Network.
        prepared: Set.
        rows: Rows of its index, int64 [n].

    Raises:
        UserError: The network reads something else than the set holds.
    """
    if any(isinstance(target, Places) for target in predictor.targets):
        raise UserError(
            f"{predictor.name} finds landmarks, and is not scored here: `knee-jax locate` uses it, "
            "and benchmarks/landmarks.py measures it"
        )
    if predictor.reads != prepared.pixels:
        raise UserError(
            f"{predictor.name} reads {predictor.reads}s, and {prepared.name} has "
            f"{prepared.pixels}s: choose another set"
        )
    found: dict[str, list[np.ndarray]] = {target.name: [] for target in predictor.targets}
    chunks = np.array_split(rows, -(-len(rows) // _CHUNK))
    for chunk in tqdm(chunks, desc=predictor.name, unit="batch", mininterval=1):
        knees = prepared.load(chunk)
        pixels, points = knees[predictor.reads], None
        if predictor.reads == "image":
            pixels, points = _resized(pixels, knees["keypoints"], predictor.side)
        for name, values in predictor.predict(pixels, points).items():
            found[name].append(values)
    decoded = {name: np.concatenate(values) for name, values in found.items()}
    table = make_table(prepared.index.iloc[rows], decoded)
    for place, (column, value) in enumerate(
        {"split": PART, "model": predictor.name, "dataset": prepared.name}.items(), start=5
    ):
        table.insert(place, column, value)
    return table


def _resized(images: np.ndarray, points: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images and landmarks at a network's size; 0 leaves them as they are."""
    have = images.shape[1]
    if side in (0, have):
        return images, points
    how = cv2.INTER_AREA if side < have else cv2.INTER_LINEAR
    made = [cv2.resize(image, (side, side), interpolation=how) for image in images]
    # The centre of the first pixel is at 0.5, so that landmarks are plainly scaled.
    return np.stack(made), points * np.float32(side / have)


def write(
    out: Path,
    table: pd.DataFrame,
    *,
    title: str,
    settings: Evaluation,
    notes: Sequence[str],
    facts: Mapping[str, Any],
    own: Summary | None = None,
    prepared: PreparedSet | None = None,
) -> Summary:
    """Score a predictions table; write table, metrics and report.

    Several visits of a knee are scored again at the first alone, as `test_first_visit`.

    Args:
        out: Folder to write to.
        table: Predictions table.
        title: Title of the report.
        settings: Resampling of the intervals.
        notes: What a reader must know first, one sentence each.
        facts: What was scored, as plain values.
        own: Metrics of the run's own test knees, to stand beside.
        prepared: Set that the knees are of, whose pictures the report shows.

    Returns:
        Metrics of all knees of the table.
    """
    tables = {PART: table}
    first = first_visit(table)
    if 0 < len(first) < len(table):
        tables["test_first_visit"] = first
    (out / "predictions").mkdir(parents=True, exist_ok=True)
    for name, each in tables.items():
        write_predictions(out / "predictions" / f"{name}.csv", each)
    metrics = {
        name: summarise(each, settings.num_resamples, scheme=settings.scheme)
        for name, each in tables.items()
    }
    if not metrics[PART]:
        raise UserError(f"{title}: no knee has a label of {', '.join(targets_in(table))}")
    write_metrics(out / "metrics.json", metrics)
    write_json(out / FACTS, {**facts, "notes": list(notes)})
    sections = []
    if own:
        beside_own = compare(metrics[PART], own)
        sections.append(Section("Beside the run's own test knees", tables=(beside_own,)))
    points = operating_table(tables, PART, metrics[PART], settings.num_resamples, settings.scheme)
    if points:
        sections.append(Section("Points of decision", tables=(points,)))
    if of_kind(targets_in(table), Classes):
        sections.append(confidence_section(table))
    write_report(
        out,
        _examples(table, prepared),
        title=title,
        intervals=bootstrap.describe(settings.num_resamples, scheme=settings.scheme),
        extra_sections=sections,
        notes=notes,
    )
    return metrics[PART]


def compare(here: Summary, own: Summary | None) -> Table:
    """Put the metrics of another set beside those of a run's own test knees."""
    return beside({"This set": here, "Own test knees": own or {}})


def _examples(table: pd.DataFrame, prepared: PreparedSet | None) -> list[Example]:
    if prepared is None:
        return []
    names = targets_in(table)
    return show(prepared, table.iloc[choose_examples(table, names[0], num_each=8)], names)
