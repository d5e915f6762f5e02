"""Averaging of several models or folds: predictions tables in, one predictions table out."""

import functools
import logging
from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd
from scipy.special import softmax

from knee_jax import targets
from knee_jax.errors import UserError
from knee_jax.metrics.predictions import IDENTITY, check_predictions, targets_in

Array = np.ndarray

AVERAGES = {
    "probabilities": "the mean of the members' probabilities",
    "logits": "the softmax of the mean of the members' logits, as published",
    "softmax_of_mean": "the softmax of the mean of the members' probabilities, as published",
}
"""Ways of averaging members; a single member is left unchanged.

The code behind Tiulpin & Saarakkala 2020 averages logits. Probabilities determine the mean of the
logits up to a constant, which softmax removes: it is the mean of the logarithms (a geometric mean).

The code behind Panfilov et al. 2022 averages probabilities, and takes their softmax again. With
three classes each then lies between 0.21 and 0.58. Their order within a knee is unchanged, and so
are accuracy and confusion matrix; areas under curves hardly change. But comparisons with a
threshold do change, and calibration is lost: a knee whose mean probability of the second and third
class together is 0.20 has 0.50 afterwards, so that far more knees are predicted positive at 0.5.
"""

_KEY = ["cohort", *IDENTITY]
_ORIGIN = ("model", "fold")
_TINY = np.finfo(np.float32).tiny

_log = logging.getLogger(__name__)


def average(tables: Sequence[pd.DataFrame], by: str = "probabilities") -> pd.DataFrame:
    """Average the predictions of several models or folds for the same knees.

    Rows are matched by cohort, subject, side and visit, and come in the order of the first table.
    The predicted grade is the most probable class of the average.

    Args:
        tables: Predictions tables of the same knees and grades, in any order of rows.
        by: Key of `AVERAGES`.

    Returns:
        Predictions table; its columns `model` and `fold` name what was averaged, joined by `+`.
        Other columns are kept if the tables agree about them; those that differ are left out and
        logged.

    Raises:
        UserError: There is no table, `by` is unknown, a table fails `check_predictions`, or the
            tables differ in knees, targets or true labels.
    """
    if by not in AVERAGES:
        raise UserError(f"ensemble average {by!r} is unknown: choose {' or '.join(AVERAGES)}")
    if not tables:
        raise UserError("an ensemble needs at least one predictions table")
    members = [_aligned(tables[0], table, number) for number, table in enumerate(tables, start=1)]
    averaged = members[0].copy()
    for target in targets.get_all(targets_in(averaged)):
        columns = target.output_columns()
        stack = np.stack([member[columns].to_numpy(np.float64) for member in members])
        for column, averages in target.average(stack, functools.partial(_mean, by=by)).items():
            averaged[column] = averages
    for column in _extra_columns(averaged):
        values = [member[column] for member in members if column in member]
        agree = all(value.equals(values[0]) for value in values)
        if column in _ORIGIN:
            averaged[column] = values[0] if agree else _joined(values)
        elif not agree or len(values) < len(members):
            _log.warning("column %s differs between the members and is left out", column)
            averaged = averaged.drop(columns=column)
    return averaged


def _mean(stack: Array, by: str) -> Array:
    """Average the members' probabilities, [k, n, classes] -> [n, classes]."""
    if by == "probabilities" or len(stack) == 1:
        return stack.mean(0)
    if by == "softmax_of_mean":
        return softmax(stack.mean(0), axis=1)
    # A probability that underflowed to zero must not outvote all other members.
    return softmax(np.log(np.maximum(stack, _TINY)).mean(0), axis=1)


def _aligned(first: pd.DataFrame, table: pd.DataFrame, number: int) -> pd.DataFrame:
    """Return the table's rows in the order of the first table, with a default index."""
    name = f"table {number} of the ensemble"
    check_predictions(table, name)
    if targets_in(table) != targets_in(first):
        raise UserError(
            f"{name} has the targets {', '.join(targets_in(table))}, table 1 "
            f"{', '.join(targets_in(first))}: only like tables can be averaged"
        )
    wanted, present = _knees(first), _knees(table)
    alone = present.symmetric_difference(wanted)
    if len(alone):
        raise UserError(
            f"{name} does not hold the same knees as table 1: {len(alone)} are in one of them "
            f"only, such as {_words(alone[0])}"
        )
    table = table.iloc[present.get_indexer(wanted)].reset_index(drop=True)
    for target in targets_in(first):
        # A continuous target may have missing labels, which equal nothing.
        truth, other = (each[target].to_numpy(np.float64) for each in (first, table))
        wrong = np.flatnonzero((other != truth) & ~(np.isnan(other) & np.isnan(truth)))
        if wrong.size:
            raise UserError(
                f"{name} has another true {target} than table 1 for {wrong.size} knees, such as "
                f"{_words(wanted[wrong[0]])}: the tables are of different readings"
            )
    return table


def _words(knee: Sequence[Hashable]) -> str:
    cohort, subject, side, visit = knee
    return f"{cohort} subject {subject}, side {side}, visit {visit}".lstrip()


def _knees(table: pd.DataFrame) -> pd.MultiIndex:
    cohort = table["cohort"] if "cohort" in table else pd.Series("", table.index)
    return pd.MultiIndex.from_frame(table[list(IDENTITY)].assign(cohort=cohort)[_KEY].astype(str))


def _extra_columns(table: pd.DataFrame) -> list[str]:
    known = set(IDENTITY)
    for target in targets.get_all(targets_in(table)):
        known |= set(target.columns())
    return [column for column in table.columns if column not in known]


def _joined(values: Sequence[pd.Series]) -> pd.Series:
    """Join the members' values of each row with `+`, each value once."""
    rows = zip(*(value.astype(str) for value in values), strict=True)
    return pd.Series(["+".join(dict.fromkeys(row)) for row in rows], values[0].index)
