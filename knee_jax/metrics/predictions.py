"""Predictions table: its columns, and the check of their values.

The table has one row per knee and visit. Columns: `subject, side, visit` (any other identity, such
as `cohort, site, split, model, fold`, may follow), then those of each target t that was predicted
(`knee_jax.targets`). For classes: `t` (the true class, -1 if there is none), `t_pred` (the
predicted class) and `t_p0 ... t_p{C-1}` (the probabilities). For a continuous value: `t` (empty if
there is none) and `t_pred`. Columns of other names are kept; only `metrics.subgroups` reads any of
them, those of `DESCRIPTION`. Other software can also write such a table.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from knee_jax import targets
from knee_jax.errors import UserError
from knee_jax.files import write_text
from knee_jax.metrics.bootstrap import subjects_of
from knee_jax.targets.kinds import Binary, Ordinal

IDENTITY = ("subject", "side", "visit")

DESCRIPTION = ("kl_baseline", "sex", "age", "bmi")
"""Optional columns on a knee and its subject, written if the prepared set has them.

The KL grade read at the visit of the image, if the table does not predict it but a target starts
from it; sex, `M` or `F`; age, years; body mass index, kg/m².
"""


def make_table(knees: pd.DataFrame, decoded: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Make the predictions table of some knees.

    Args:
        knees: Rows of the index of a prepared set.
        decoded: Decoded outputs [n, ...] of each target, such as class probabilities.
    """
    columns = {name: knees[name].to_numpy() for name in (*IDENTITY, "cohort", "site")}
    known = {name: name for name in DESCRIPTION if name in knees}
    if "kl" in knees and not all(isinstance(targets.get(t), Ordinal | Binary) for t in decoded):
        # The starting point of a target that is not derived from a grade.
        known = {"kl_baseline": "kl"} | known
    columns |= {name: knees[column].to_numpy() for name, column in known.items()}
    for name, outputs in decoded.items():
        target = targets.get(name)
        columns[name] = target.labels(knees)
        columns |= target.predictions(outputs)
    return pd.DataFrame(columns)


def targets_in(table: pd.DataFrame) -> list[str]:
    """Return the targets in a table, in the usual order."""
    columns = set(table.columns)
    return [name for name, t in targets.all_targets().items() if columns & set(t.columns())]


def first_visit(table: pd.DataFrame) -> pd.DataFrame:
    """Return the knees at their first visit, month 0; later visits of a knee are left out.

    Tiulpin & Saarakkala 2020 (Discussion) also score these alone, since visits of one subject are
    not independent (their `--only_first_fu`).

    Args:
        table: Predictions table, or an index of knees.

    Returns:
        Rows whose visit is 0, with a new index; empty if there are none.
    """
    return table[_numbers(table["visit"]) == 0].reset_index(drop=True)


def write_predictions(path: Path | str, table: pd.DataFrame) -> None:
    """Write a predictions table as CSV, atomically; numbers with six digits."""
    write_text(path, table.to_csv(index=False, float_format="%.6g"))


def read_predictions(path: Path | str) -> pd.DataFrame:
    """Read and check a predictions table.

    Raises:
        UserError: The file is missing, is not a CSV table, or fails `check_predictions`.
    """
    try:
        table = pd.read_csv(path, dtype={"subject": str, "side": str})
    except FileNotFoundError:
        raise UserError(f"{path}: no such predictions table; run the evaluation first") from None
    except (ValueError, OSError) as error:  # pandas' own errors are ValueErrors
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: cannot be read as a CSV table ({reason})") from None
    check_predictions(table, str(path))
    return table


def check_predictions(table: pd.DataFrame, name: str = "predictions") -> None:
    """Check that a predictions table is complete and consistent.

    Args:
        table: Predictions table.
        name: Name of the table in messages: its file, if it has one.

    Raises:
        UserError: A column is missing, a probability is not in [0, 1] or those of a knee do not sum
            to 1, a grade is not among its classes, or a knee occurs twice. The message names the
            column and the first row at fault, counted from 1 below the header.
    """
    if table.empty:
        raise UserError(f"{name}: has no rows; nothing can be scored")
    names = targets_in(table)
    if not names:
        raise UserError(f"{name}: has no target; expected columns such as kl, kl_pred, kl_p0")
    found = targets.get_all(names)
    needed = [*IDENTITY, *(column for target in found for column in target.columns())]
    if absent := [column for column in needed if column not in table.columns]:
        raise UserError(f"{name}: lacks the column {', '.join(absent)}")
    for column in IDENTITY:
        _refuse(table[column].isna().to_numpy(), name, column, "is empty")
    _check_unique(table, name)
    for target in found:
        for fault in target.faults(table):
            _refuse(
                fault.wrong,
                name,
                fault.column,
                fault.problem,
                table if fault.shows_value else None,
            )


def _check_unique(table: pd.DataFrame, name: str) -> None:
    knees = pd.DataFrame({"owner": subjects_of(table)}, index=table.index)
    repeated = knees.join(table[["side", "visit"]]).duplicated().to_numpy()
    if repeated.any():
        knee = table.iloc[int(repeated.argmax())]
        raise UserError(
            f"{name}: row {int(repeated.argmax()) + 1} repeats the knee subject {knee['subject']}, "
            f"side {knee['side']}, visit {knee['visit']}; every knee and visit counts once"
        )


def _numbers(column: pd.Series) -> pd.Series:
    return pd.to_numeric(column, errors="coerce")


def _refuse(
    wrong: np.ndarray, name: str, column: str, problem: str, table: pd.DataFrame | None = None
) -> None:
    if wrong.any():
        row = int(wrong.argmax())
        found = "" if table is None else f" (found {table[column].iloc[row]})"
        more = f", and {wrong.sum() - 1} more" if wrong.sum() > 1 else ""
        raise UserError(f"{name}: {column} {problem} in row {row + 1}{more}{found}")
