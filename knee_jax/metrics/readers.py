"""Comparison of readers and a model: accuracy on the same knees, and mutual agreement.

Wang et al., section IV F: three radiologists and a model distinguished 150 knees of KL 0 from 150
of KL 2. Their Table VII is not what its text says. It describes the kappas (.85, .87, .86) as those
of model and reader; but with equal numbers of knees of the two classes kappa with the labels is 2
accuracy - 1, which makes .84, .866 and .86 of the readers' accuracies, so that they appear to be
those of reader and label. Both are given here, each by its name. Nor can the printed p (.53, .37,
.51) be McNemar's of who is right: with 33 errors of the model and 24, 20 and 21 of the readers it
is at most .29, .10 and .13.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from knee_jax import targets
from knee_jax.errors import UserError
from knee_jax.foreign_tables import identifiers, numbers, read_table
from knee_jax.metrics import agreement
from knee_jax.metrics.bootstrap import subjects_of
from knee_jax.metrics.predictions import IDENTITY, targets_in
from knee_jax.metrics.scoring import Scorer
from knee_jax.metrics.summary import Summary, estimate
from knee_jax.targets.kinds import Binary, Classes

Array = np.ndarray

LABEL, MODEL = "label", "model"
"""Names of the graders other than readers: the study that the knees come from, and the model."""

COMPARABLE = ("kl", "kl0_vs_kl2")
"""Targets that readers can be compared on."""

KAPPA = {"kl": "quadratic_kappa", "kl0_vs_kl2": "kappa"}
"""Cohen's kappa for each of these targets, a function of `knee_jax.metrics.agreement`."""

_CONFIDENCE = "_confidence"


@dataclass(frozen=True)
class Study:
    """Knees that a model and some readers have graded, all of them graded by each.

    Attributes:
        target: Name of the target, one of `COMPARABLE`.
        knees: Rows of a predictions table, n of them.
        grades: Classes of the target by reader, {reader: int [n]}.
        confidences: Probability of the grade given, 0 to 1, {reader: float64 [n]}, of the readers
            who stated it.
        num_unread: Number of knees of the predictions table that the readers have not graded.
    """

    target: str
    knees: pd.DataFrame
    grades: Mapping[str, Array]
    confidences: Mapping[str, Array]
    num_unread: int

    @property
    def truth(self) -> Array:
        """Classes read for the study that the knees come from, int [n]."""
        return self.knees[self.target].to_numpy(np.int64)

    @property
    def prediction(self) -> Array:
        """Classes that the model predicts, int [n]."""
        return self.knees[f"{self.target}_pred"].to_numpy(np.int64)


class McNemar(NamedTuple):
    """McNemar's test of whether one of two raters of the same knees is right more often.

    Attributes:
        only_first: Number of knees that only the first has right.
        only_second: Number of knees that only the second has right.
        exact: P value of the binomial test, two-sided.
        corrected: P value of chi-squared with one degree of freedom and continuity correction.
        uncorrected: P value of the same test without correction.
    """

    only_first: int
    only_second: int
    exact: float
    corrected: float
    uncorrected: float


class Comparison(NamedTuple):
    """Result of `compare`.

    Attributes:
        raters: Estimates by model or reader, {rater: {metric: estimate}}: `accuracy`,
            `sensitivity`, `specificity`, and `kappa_with(other)` for the label and all raters
            before it, of whom the model is first.
        tests: McNemar's test of the model, as the first rater, and each reader.
    """

    raters: Summary
    tests: dict[str, McNemar]


def mcnemar(correct_a: Array, correct_b: Array) -> McNemar:
    """Compare two raters, or models, by the knees that one has right and the other wrong.

    The test takes knees as independent, which those of one subject are not. The correction is that
    of Edwards (1948), and is not taken below zero.

    Args:
        correct_a: Whether the first has each knee right, bool [n].
        correct_b: Whether the second has each knee right, bool [n].
    """
    first, second = np.asarray(correct_a, bool), np.asarray(correct_b, bool)
    if first.shape != second.shape:
        raise ValueError(f"the raters have not graded the same knees: {first.shape, second.shape}")
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    total, difference = only_first + only_second, abs(only_first - only_second)
    if not total:
        return McNemar(0, 0, 1.0, 1.0, 1.0)
    return McNemar(
        only_first,
        only_second,
        float(stats.binomtest(only_first, total).pvalue),
        float(stats.chi2.sf(max(difference - 1, 0) ** 2 / total, 1)),
        float(stats.chi2.sf(difference**2 / total, 1)),
    )


def kappa_with(other: str) -> str:
    """Return the name of the metric for a rater's kappa with another, or with the label."""
    return f"kappa_with_{other}"


def compare(study: Study, num_resamples: int = 1000, seed: int = 0) -> Comparison:
    """Score the model and the readers, with 95 % intervals from resampled subjects.

    Accuracy is that of the target's classes; sensitivity and specificity are those of the classes
    from `positive_from` on, and kappa is the one of `KAPPA`.

    Args:
        study: Study as `read_study` returns it.
        num_resamples: Number of bootstrap resamples behind each interval.
        seed: Random seed of the resamples.
    """
    graded = {LABEL: study.truth, MODEL: study.prediction, **study.grades}
    names = list(graded)
    scorers = [
        (name, _rater(study, graded[name], {other: graded[other] for other in names[:place]}))
        for place, name in enumerate(names)
        if name != LABEL
    ]
    model_correct = study.prediction == study.truth
    tests = {
        reader: mcnemar(model_correct, grades == study.truth)
        for reader, grades in study.grades.items()
    }
    return Comparison(estimate(scorers, num_resamples, seed), tests)


def _rater(study: Study, grades: Array, others: Mapping[str, Array]) -> Scorer:
    target = _class_target(study.target)
    indicators = {
        other: agreement.pair_indicators(theirs, grades, target.num_outputs)
        for other, theirs in others.items()
    }
    kappa = getattr(agreement, KAPPA[study.target])

    def statistics(weights: Array) -> dict[str, Array]:
        confusions = {
            other: agreement.confusion_matrices(weights, cells)
            for other, cells in indicators.items()
        }
        two = agreement.dichotomise(confusions[LABEL], target.positive_from)
        return {
            "accuracy": agreement.accuracy(confusions[LABEL]),
            "sensitivity": agreement.sensitivity(two),
            "specificity": agreement.specificity(two),
        } | {kappa_with(other): kappa(confusion) for other, confusion in confusions.items()}

    return Scorer(subjects_of(study.knees), study.truth, statistics, len(grades))


def read_study(path: Path | str, predictions: pd.DataFrame, encoding: str | None = None) -> Study:
    """Read the readers' grades, and find their knees among a model's predictions.

    Args:
        path: CSV table with one row per knee. `subject`, `side`, and `visit` and `cohort` if the
            predictions need them to distinguish knees, identify it; every other column is a
            reader's, with KL grades (0 and 2 for `kl0_vs_kl2`), except for `<reader>_confidence` (0
            to 1).
        predictions: Predictions table of `kl` or `kl0_vs_kl2`, as it is read.
        encoding: Encoding of the file; see `foreign_tables.read_table`.

    Raises:
        UserError: The file is not a table, has no reader, has a knee twice or one that the
            predictions lack or have no label for, or a grade or confidence is missing or out of
            range. Rows are counted from 1 below the header.
    """
    target = _target(predictions)
    table = _read(path, encoding)
    keys = [name for name in ("cohort", *IDENTITY) if name in table and name in predictions]
    if absent := [name for name in ("subject", "side") if name not in keys]:
        raise UserError(
            f"{path}: lacks the column {', '.join(absent)}: are its columns separated by commas?"
        )
    readers = _readers(path, [str(name) for name in table if name not in keys])
    at = _find(path, table, predictions, keys)
    knees = predictions.iloc[at].reset_index(drop=True)
    kind = _class_target(target)
    unknown = ~kind.is_known(knees[target].to_numpy(np.int64))
    _refuse(unknown, path, table[keys], f"has no label of {kind.title} in the predictions")
    confidences = {r: f"{r}{_CONFIDENCE}" for r in readers if f"{r}{_CONFIDENCE}" in table}
    if confidences and kind.num_outputs > 2:
        raise UserError(
            f"{path}: {', '.join(confidences.values())}: readers' confidence is compared where "
            f"there are two classes, and {kind.title} has {kind.num_outputs}: leave it out"
        )
    return Study(
        target,
        knees,
        {reader: _grades(path, table, keys, reader, target) for reader in readers},
        {r: _probabilities(path, table, keys, column) for r, column in confidences.items()},
        len(predictions) - len(table),
    )


def positive_probabilities(study: Study) -> dict[str, Array]:
    """Return each knee's probability of being positive, float64 [n], if readers state confidence.

    Returns:
        That of the model, and the mean over the readers who gave a confidence: the confidence in a
        positive grade, and 1 minus that in a negative one; empty if there is none.
    """
    if not study.confidences:
        return {}
    said = [
        np.where(study.grades[reader] == 1, values, 1.0 - values)
        for reader, values in study.confidences.items()
    ]
    model = study.knees[_class_target(study.target).output_columns()[1]].to_numpy(np.float64)
    return {MODEL: model, "readers": np.mean(said, axis=0)}


def _class_target(name: str) -> Classes:
    target = targets.get(name)
    assert isinstance(target, Classes)
    return target


def _target(predictions: pd.DataFrame) -> str:
    found = [target for target in targets_in(predictions) if target in COMPARABLE]
    if len(found) != 1:
        names = " and ".join(found) or "neither"
        raise UserError(
            f"the predictions have {names} of {' and '.join(COMPARABLE)}: readers are compared on "
            "one of them; choose a table that has it, or leave out the columns of the other"
        )
    return found[0]


def _read(path: Path | str, encoding: str | None) -> pd.DataFrame:
    """Return the table as stripped text."""
    table = read_table(path, encoding).apply(lambda column: column.str.strip())
    if table.empty:
        raise UserError(f"{path}: has no rows; nothing can be compared")
    return table.reset_index(drop=True)


def _readers(path: Path | str, columns: list[str]) -> list[str]:
    readers = [c for c in columns if not c.endswith(_CONFIDENCE)]
    if not readers:
        raise UserError(f"{path}: has no column of a reader's grades")
    if taken := [name for name in readers if name.casefold() in (LABEL, MODEL)]:
        raise UserError(f"{path}: a reader cannot be called {taken[0]}: rename the column")
    for column in columns:
        if column.endswith(_CONFIDENCE) and column.removesuffix(_CONFIDENCE) not in readers:
            raise UserError(
                f"{path}: {column} is of no reader: there is no column "
                f"{column.removesuffix(_CONFIDENCE)!r}"
            )
    return readers


def _find(
    path: Path | str, table: pd.DataFrame, predictions: pd.DataFrame, keys: list[str]
) -> Array:
    """Return the rows of the predictions for the table's knees, int [n]."""
    wanted, present = _knees(table[keys]), _knees(predictions[keys])
    _refuse(wanted.duplicated(), path, table[keys], "is there twice")
    _refuse(~wanted.isin(present), path, table[keys], "is not among the predictions")
    missing = [c for c in ("visit", "cohort") if c in predictions and c not in keys]
    problem = f"is several knees of the predictions: add the column {' or '.join(missing)}"
    _refuse(wanted.isin(present[present.duplicated()]), path, table[keys], problem)
    first = np.flatnonzero(~present.duplicated())
    return first[present[first].get_indexer(wanted)]


def _knees(identity: pd.DataFrame) -> pd.MultiIndex:
    """Return what identifies each knee, as text; equal visit numbers are written alike."""
    text = identity.astype(str)
    if "subject" in text:
        text = text.assign(subject=identifiers(text["subject"]))
    if "visit" in text:
        months = pd.to_numeric(text["visit"], errors="coerce").astype(float)
        text = text.assign(visit=text["visit"].mask(months.notna(), months.astype(str)))
    return pd.MultiIndex.from_frame(text)


def _grades(
    path: Path | str, table: pd.DataFrame, keys: list[str], reader: str, target: str
) -> Array:
    _refuse((table[reader] == "").to_numpy(), path, table[keys], f"has no grade of {reader}")
    kind = _class_target(target)
    classes = kind.values if isinstance(kind, Binary) else {n: n for n in range(kind.num_outputs)}
    values = numbers(table[reader])
    allowed = ", ".join(map(str, classes))
    problem = f"has another grade of {reader} than {allowed}, the KL grades of {kind.title}"
    _refuse(~values.isin(list(classes)).to_numpy(), path, table[keys], problem, table[reader])
    return values.map(classes).to_numpy(np.int64)


def _probabilities(path: Path | str, table: pd.DataFrame, keys: list[str], column: str) -> Array:
    values = numbers(table[column])
    wrong = ~values.between(0.0, 1.0).to_numpy()
    _refuse(wrong, path, table[keys], f"has a {column} that is not in 0 to 1", table[column])
    return values.to_numpy(np.float64)


def _refuse(
    wrong: Array,
    path: Path | str,
    identity: pd.DataFrame,
    problem: str,
    found: pd.Series | None = None,
) -> None:
    if wrong.any():
        row = int(wrong.argmax())
        knee = ", ".join(f"{name} {value}" for name, value in identity.iloc[row].items())
        seen = "" if found is None else f" (found {found.iloc[row]!r})"
        more = f"; and {wrong.sum() - 1} more rows" if wrong.sum() > 1 else ""
        raise UserError(f"{path}: row {row + 1}, {knee}, {problem}{seen}{more}")
