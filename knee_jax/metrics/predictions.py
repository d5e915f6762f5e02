"""Predictions table: its columns, and the check of their values.

The table has one row per knee and visit. Columns: `subject, side, visit` (any other identity, such
as `cohort, site, split, model, fold`, may follow), then those of each target t that was predicted
(`knee_jax.targets`). For classes: `t` (the true class, -1 if there is none), `t_pred` (the
predicted class) and `t_p0 ... t_p{C-1}` (the probabilities). For a continuous value: `t` (empty if
there is none) and `t_pred`. Columns of other names are kept; only `metrics.subgroups` reads any of
them, those of `DESCRIPTION`. Other software can also write such a table.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from knee_jax import targets
from knee_jax.errors import UserError
from knee_jax.files import write_text
from knee_jax.foreign_tables import decimals, is_missing, numbers, read_table
from knee_jax.metrics.bootstrap import subjects_of
from knee_jax.targets.kinds import Binary, Classes, Ordinal

IDENTITY = ("subject", "side", "visit")

_NAMES = ("subject", "side", "cohort", "site", "split", "model", "source")
"""Columns that are text, whatever they look like."""

_NOT_ROUNDED = 1e-5
"""Deviation of a sum that the six digits of our own tables explain."""
_MOST_ROUNDED = 0.05
"""Deviation of a sum beyond which rounding leaves no probabilities."""
_log = logging.getLogger(__name__)

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


def read_predictions(path: Path | str, encoding: str | None = None) -> pd.DataFrame:
    """Read and check a predictions table.

    Other software rounds probabilities. Those of a knee that sum to 1 within what their digits
    explain are divided by their sum, and the log says so once.

    Args:
        path: Path of the table.
        encoding: Encoding of the file; see `foreign_tables.read_table`.

    Raises:
        UserError: The file is missing, is not a CSV table, or fails `check_predictions`.
    """
    if not Path(path).exists():
        raise UserError(f"{path}: no such predictions table; run the evaluation first")
    return parse_predictions(read_table(path, encoding), path)


def parse_predictions(text: pd.DataFrame, path: Path | str) -> pd.DataFrame:
    """Parse and check a predictions table of text, as `read_predictions` does.

    Args:
        text: Cells as `foreign_tables.read_table` gives them.
        path: Name of the table in messages.

    Raises:
        UserError: It fails `check_predictions`.
    """
    table = text.apply(_typed).reset_index(drop=True)
    _renormalise(table, text, path)
    check_predictions(table, str(path))
    return table


def _typed(column: pd.Series) -> pd.Series:
    """Return a column of text as numbers if it holds nothing else; names stay text."""
    missing = is_missing(column)
    if column.name in _NAMES:
        return column.str.strip().mask(column.str.strip() == "")
    values = numbers(column)
    if (values.isna() & ~missing).any():
        return column.mask(missing)
    whole = not missing.any() and values.mod(1).eq(0).all() and (values.abs() < 2**53).all()
    return values.astype("int64") if whole else values


def _renormalise(table: pd.DataFrame, text: pd.DataFrame, path: Path | str) -> None:
    """Divide rounded probabilities by their sum, in place."""
    for name in targets_in(table):
        target = targets.get(name)
        columns = [column for column in target.output_columns() if column in table]
        if not isinstance(target, Classes) or len(columns) < target.num_outputs:
            continue
        values = table[columns].apply(_numbers).to_numpy(np.float64, copy=True)
        deviations = np.abs(values.sum(axis=1) - 1.0)
        rounding = len(columns) * 0.5 * 10.0 ** -decimals(text[columns])
        # A row beyond that is refused by name (`check_predictions`).
        off = (deviations > _NOT_ROUNDED) & (deviations <= min(rounding, _MOST_ROUNDED) + 1e-9)
        if off.any():
            values[off] /= values[off].sum(axis=1, keepdims=True)
            table[columns] = values
            _log.warning(
                "%s: the probabilities of %s are rounded: in %d rows they sum to 1 within %.2g, "
                "and were divided by their sum",
                path,
                name,
                off.sum(),
                deviations[off].max(),
            )


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
    # Joined tables repeat the labels of rows.
    knees = table[["side", "visit"]].assign(owner=subjects_of(table))
    repeated = knees.duplicated().to_numpy()
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
