"""How readers agree: with themselves, with one another, and with a model."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from knee_jax.errors import UserError
from knee_jax.metrics import agreement, bootstrap
from knee_jax.targets.kinds import Ordinal

Array = np.ndarray

MODEL = "model"
"""Name of the model among the raters."""


class Agreement(NamedTuple):
    """Agreement of two raters on a grade.

    Attributes:
        grade: Name of the grade.
        first, second: Raters; of one with oneself, both are the same.
        n: Number of knees that both have graded.
        kappa, kappa_low, kappa_high: Quadratic kappa and its 95 % interval by subject.
        exact, within_one: Shares of knees of equal grades, and of grades at most one apart.
    """

    grade: str
    first: str
    second: str
    n: int
    kappa: float
    kappa_low: float
    kappa_high: float
    exact: float
    within_one: float


def first_readings(readings: pd.DataFrame, grade: str) -> pd.DataFrame:
    """Return a grade of each knee by each reader at first sight: a row a knee, a column a reader.

    Args:
        readings: Result of `Study.readings`.
        grade: Name of the grade.
    """
    first = readings[(readings["grade"] == grade) & ~readings["again"]]
    return first.pivot(index="knee", columns="reader", values="value")


def agreements(
    readings: pd.DataFrame,
    grades: Sequence[Ordinal],
    predicted: Mapping[str, pd.Series],
    num_resamples: int = 1000,
) -> list[Agreement]:
    """Compare every reader with oneself, the others, and the model.

    Args:
        readings: Result of `Study.readings`.
        grades: Grades that were read.
        predicted: Grades of the model by name of the grade, indexed by the knees' ids.
        num_resamples: Number of bootstrap resamples.
    """
    subjects = readings.drop_duplicates("knee").set_index("knee")["subject"]
    return [
        _agreement(grade, names, pair, subjects, num_resamples)
        for grade in grades
        for names, pair in _pairs(readings, grade.name, predicted.get(grade.name))
        if len(pair)
    ]


def _pairs(
    readings: pd.DataFrame, grade: str, predicted: pd.Series | None
) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """Yield the names of two raters, and the grades of the knees that both have, [n, 2]."""
    first = first_readings(readings, grade)
    of_grade = readings[readings["grade"] == grade]
    for reader in first.columns:
        again = of_grade[(of_grade["reader"] == reader) & of_grade["again"]]
        twice = pd.concat([first[reader], again.set_index("knee")["value"]], axis=1)
        yield (reader, reader), twice.dropna().astype(int)
    for one, other in itertools.combinations(first.columns, 2):
        yield (one, other), first[[one, other]].dropna().astype(int)
    if predicted is not None:
        for reader in first.columns:
            both = pd.concat([first[reader], predicted], axis=1)
            yield (reader, MODEL), both.dropna().astype(int)


def _agreement(
    grade: Ordinal,
    names: tuple[str, str],
    pair: pd.DataFrame,
    subjects: pd.Series,
    num_resamples: int,
) -> Agreement:
    one, other = pair.to_numpy().T
    cells = agreement.pair_indicators(one, other, grade.num_outputs)

    def statistics(weights: Array) -> dict[str, Array]:
        confusion = agreement.confusion_matrices(weights.astype(np.float64), cells)
        return {"kappa": agreement.METRICS["quadratic_kappa"](confusion)}

    clusters = subjects.loc[pair.index].to_numpy(str)
    drawn = bootstrap.replicate(statistics, bootstrap.cluster_counts(clusters, num_resamples, 0))
    value = float(statistics(np.ones((1, len(pair))))["kappa"][0])
    apart = np.abs(one - other)
    return Agreement(
        grade.name,
        *names,
        len(pair),
        value,
        *bootstrap.interval(drawn["kappa"]),
        float((apart == 0).mean()),
        float((apart <= 1).mean()),
    )


def readers_table(
    knees: pd.DataFrame, readings: pd.DataFrame, grades: Sequence[Ordinal]
) -> pd.DataFrame:
    """Return the readers' grades, one row a knee: the table that `knee-jax readers` takes.

    With one grade a column is named by its reader, with several `<reader>_<grade>`; empty where
    not read. Files are in the table of readings.

    Args:
        knees: Result of `Study.knees`.
        readings: Result of `Study.readings`.
        grades: Grades that were read.
    """
    table = knees.set_index("id")[["subject", "side", "visit"]]
    for grade in grades:
        first = first_readings(readings, grade.name).astype("Int64")
        ending = "" if len(grades) == 1 else f"_{grade.name}"
        table = table.join(first.add_suffix(ending))
    return table.reset_index(drop=True)


def disagreements(
    readings: pd.DataFrame, grade: str, predicted: pd.Series | None = None
) -> pd.DataFrame:
    """Return the knees that raters differ on, those that differ most first.

    Args:
        readings: Result of `Study.readings`.
        grade: Name of the grade.
        predicted: Grades of the model, indexed by the knees' ids.

    Returns:
        Table indexed by the knees' ids: a column a rater (NaN where unread), and `range`, the
        highest minus the lowest grade, above 0.
    """
    table = first_readings(readings, grade)
    if predicted is not None:
        table = table.join(predicted.rename(MODEL))
    table = table.assign(range=table.max(axis=1) - table.min(axis=1))
    found = table[table["range"] > 0]
    return found.sort_values("range", ascending=False, kind="stable")


def predictions_of(table: pd.DataFrame, knees: pd.DataFrame, grade: Ordinal) -> pd.Series | None:
    """Return a model's grades of the knees of a study, indexed by their ids; None without any.

    Args:
        table: `predictions.csv` of `knee-jax predict` of the same files.
        knees: Result of `Study.knees`.
        grade: Grade.

    Raises:
        UserError: The table is of something else.
    """
    if not {"file", "side"} <= set(table.columns):
        raise UserError("the predictions have no columns file and side; name predictions.csv")
    column = f"{grade.name}_pred"
    if column not in table:
        return None
    numbers = pd.to_numeric(table[column], errors="coerce")
    told = table[column].notna() & (table[column].astype(str).str.strip() != "")
    wrong = told & ~numbers.isin(range(grade.num_outputs))
    if wrong.any():
        first = str(table[column][wrong].iloc[0])
        raise UserError(
            f"the predictions have {first!r} as {column}: it is from 0 to {grade.num_outputs - 1}"
        )
    graded = table[told].assign(**{column: numbers[told]}).drop_duplicates(["file", "side"])
    keys = pd.MultiIndex.from_frame(graded[["file", "side"]].fillna("").astype(str))
    values = pd.Series(graded[column].to_numpy(np.int64), keys)
    wanted = pd.MultiIndex.from_frame(knees[["file", "side"]].astype(str))
    found = values.reindex(wanted).set_axis(knees["id"].to_numpy()).dropna()
    if found.empty:
        raise UserError("the predictions are of none of the study's knees: predict the same files")
    return found.astype(int)
