"""Quantitative joint space width of OAI's films, from the tables `kxr_qjsw_duryea*`.

The study's own release has one table per visit, as a SAS file or as text, with one row per knee.
Its column V{visit}MCMJSW is the minimum width of the medial compartment in mm. Facts on names and
columns: public code that reads these tables. The table of the NIMH Data Archive is not read.
"""

import pathlib

import numpy as np
import pandas as pd

from knee_jax.errors import UserError
from knee_jax.ingest.inventory import KneeVisit
from knee_jax.ingest.readings import SIDES, VISITS
from knee_jax.ingest.tables import (
    codes,
    identifiers,
    is_missing,
    look_for_table,
    numbers,
    read_table,
)

COLUMN = "jsw_medial"
"""Name of the label."""


def read_widths(folder: pathlib.Path) -> tuple[dict[KneeVisit, float], dict[str, int]]:
    """Read the minimum medial joint space widths of all visits that have a table.

    Args:
        folder: Folder of the tables.

    Returns:
        Widths in mm of the knees that were measured, by subject, side and visit; and counts of
        rows: `joint_space_widths_unusable` (the width is negative or not a number) and
        `joint_space_widths_repeated` (an earlier row of the same knee has a width).

    Raises:
        UserError: A column is missing, or SIDE is neither right nor left.
    """
    widths: dict[KneeVisit, float] = {}
    notes = {"joint_space_widths_unusable": 0, "joint_space_widths_repeated": 0}
    for visit, code in VISITS.items():
        if not (path := look_for_table(folder, f"kxr_qjsw_duryea{code}")):
            continue
        table = read_table(path, ["ID", "SIDE", f"V{code}MCMJSW"])
        side = numbers(table["SIDE"], path).map(SIDES)
        if side.isna().any():
            line = side.index[side.isna()][0] + 1
            raise UserError(f"{path}: SIDE of row {line} is neither 1 (right) nor 2 (left)")
        cells = codes(table[f"V{code}MCMJSW"])
        width = pd.to_numeric(cells, errors="coerce").astype("float64")
        usable = np.isfinite(width) & (width >= 0)
        notes["joint_space_widths_unusable"] += int((~usable & ~is_missing(cells)).sum())
        measured = pd.DataFrame(
            {"subject": identifiers(table["ID"]), "side": side, "width": width}
        )[usable]
        repeated = measured.duplicated(["subject", "side"])
        notes["joint_space_widths_repeated"] += int(repeated.sum())
        widths |= {
            (subject, side, visit): value
            for subject, side, value in measured[~repeated].itertuples(index=False, name=None)
        }
    return widths, notes
