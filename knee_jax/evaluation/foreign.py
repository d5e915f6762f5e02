"""Predictions of other software, joined with the labels of a prepared set."""

from pathlib import Path

import numpy as np
import pandas as pd

from knee_jax import targets
from knee_jax.data.prepared import PreparedSet
from knee_jax.errors import UserError
from knee_jax.foreign_tables import identifiers, is_missing, numbers, read_table
from knee_jax.metrics.predictions import parse_predictions
from knee_jax.targets.kinds import Classes

SIDES = {"l": "L", "left": "L", "r": "R", "right": "R"}


def read(
    path: Path, prepared: PreparedSet, encoding: str | None = None
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Read predictions that other software has made for knees of a set.

    Of the columns of a predictions table (`metrics.predictions`) it needs `subject`, `side` and, of
    each target, the probabilities or the value; `visit` where the set has several. Labels come from
    the set, and the predicted class, if the table has none, is the most probable one.

    Args:
        path: Table.
        prepared: Set with the labels.
        encoding: Encoding of the table.

    Returns:
        Checked predictions table of the knees that the set has, and notes for the report.

    Raises:
        UserError: The table cannot be read, contradicts the labels of the set, or names none of its
            knees.
    """
    text = read_table(path, encoding)
    index = prepared.index
    if absent := [name for name in ("subject", "side") if name not in text]:
        raise UserError(f"{path}: lacks the column {absent[0]}")
    if "visit" not in text:
        visits = index["visit"].unique()
        if len(visits) > 1:
            raise UserError(
                f"{path}: lacks the column visit, and {prepared.name} has {len(visits)} visits"
            )
        text["visit"] = str(visits[0])
    text["subject"] = identifiers(text["subject"])
    text["side"] = text["side"].str.strip().str.lower().map(SIDES).fillna(text["side"])
    visit = numbers(text["visit"])
    asked = pd.MultiIndex.from_arrays([text["subject"], text["side"], visit.fillna(-1)])
    identity = index[["subject", "side", "visit"]].astype({"visit": float})
    if (twice := identity.duplicated()).any():
        raise UserError(
            f"{prepared.name} has {int(twice.sum())} knees of equal subject, side and visit in "
            "several cohorts: predictions cannot be joined by these"
        )
    at = pd.MultiIndex.from_frame(identity).get_indexer(asked)
    if not (at >= 0).any():
        raise UserError(
            f"{path}: none of its {len(text):,} rows is a knee of {prepared.name}: subject, side "
            "and visit must be those of the set"
        )
    unknown = int((at < 0).sum())
    text, knees = text[at >= 0].copy(), index.iloc[at[at >= 0]]
    for name, target in targets.all_targets().items():
        if not set(target.output_columns()) <= set(text):
            continue
        if isinstance(target, Classes) and f"{name}_pred" not in text:
            values = text[target.output_columns()].apply(numbers).to_numpy()
            text[f"{name}_pred"] = np.nan_to_num(values, nan=-1.0).argmax(axis=1).astype(str)
        labels = target.labels(knees)
        if name in text:
            _check_same(text[name], labels, name, path, prepared)
        known = target.is_known(labels)
        said = [f"{label:g}" for label in labels]
        text[name] = np.where(known, said, "-1" if isinstance(target, Classes) else "")
    notes = []
    if unknown:
        notes.append(f"{unknown:,} rows are of knees that {prepared.name} does not have; left out.")
    if missing := len(index) - len(knees.drop_duplicates(["subject", "side", "visit"])):
        notes.append(f"{missing:,} of {len(index):,} knees of {prepared.name} have no prediction.")
    return parse_predictions(text, path), tuple(notes)


def _check_same(
    column: pd.Series, labels: np.ndarray, name: str, path: Path, prepared: PreparedSet
) -> None:
    """Raise UserError if a label of the table is not that of the set."""
    given = numbers(column).to_numpy()
    stated = ~is_missing(column).to_numpy() & (given != -1)
    differs = stated & ~np.isclose(given, labels.astype(float), atol=1e-3)
    if differs.any():
        line = column.index[differs.argmax()]
        raise UserError(
            f"{path}: line {line}: {name} is not that of {prepared.name}, and so in "
            f"{int(differs.sum())} rows; leave the column out, or choose the set it is of"
        )
