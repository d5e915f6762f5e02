"""Kinds of target: ordinal grade, nominal class, binary class of a grade, value.

A target is an object that defines its label column, the size of its head, how outputs become
predictions, which losses it allows, how it is scored and which figures show it. What a system
optimises is defined by a task (`knee_jax.tasks`), which builds on targets.

Labels, predictions and tables are NumPy and pandas; `decode` and `is_known` also take JAX arrays.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np

from knee_jax.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from knee_jax.metrics.scoring import Scorer

MISSING = -1
"""Label of a class target for knees without one; for a continuous target it is NaN."""

SUM_TOLERANCE = 1e-3
"""Tolerance for the sum of the probabilities of a knee in a table, which should be 1."""


class Fault(NamedTuple):
    """Rows of a predictions table that break a rule.

    Attributes:
        column: Column at fault.
        wrong: Whether each row breaks the rule, bool [n].
        problem: Broken rule, worded to end the sentence "column ...".
        shows_value: Whether showing the value helps to find the mistake.
    """

    column: str
    wrong: np.ndarray
    problem: str
    shows_value: bool = True


@runtime_checkable
class Target(Protocol):
    """Interface of every kind of target.

    Attributes:
        name: Name of its logits and columns, and in `config.targets`.
        title: Display name; `short_title` is for narrow columns.
        source: Column of a prepared set's index that it is read from.
        missing: Label of knees without one.
        dtype: Type of its labels.
        num_outputs: Size of the network's head.
        losses: Names of the losses that it allows, the usual one first.
        region: Part of the joint that its head reads in networks that distinguish parts: 'fl',
            'fm', 'tl', 'tm' (femur or tibia, lateral or medial), or 'all'.
        opposite: Target whose label a mirrored knee has, where lateral and medial are told apart;
            empty: its own.
        stratify_by: Column of the index on which folds are stratified.
        selections: Criteria by which a checkpoint may be chosen (`selection_score`).
        table_metrics: Metrics of a summary's narrow table.
        headlines: Metrics that head a report.
        figures: Names of the figures of a report that show it.
        noun: 'grade', 'class' or 'value'.
    """

    name: str
    title: str
    short_title: str
    source: str
    missing: Any
    dtype: Any
    num_outputs: int
    losses: tuple[str, ...]
    region: str
    opposite: str
    stratify_by: str
    selections: tuple[str, ...]
    table_metrics: tuple[str, ...]
    headlines: tuple[str, ...]
    figures: tuple[str, ...]
    noun: str

    def labels(self, knees: "pd.DataFrame") -> np.ndarray:
        """Return the labels [n] of rows of an index, `missing` for knees without one."""

    def is_known(self, labels: Any) -> Any:
        """Return which labels [...] are not missing, bool [...]."""

    def is_read(self, knees: "pd.DataFrame") -> np.ndarray:
        """Return for which rows of an index `source` was read, bool [n]; a label may be missing."""

    def decode(self, logits: Any) -> Any:
        """Convert float32 logits [batch, num_outputs] to the outputs of a predictions table."""

    def predictions(self, decoded: np.ndarray) -> dict[str, np.ndarray]:
        """Return the columns of a predictions table, from decoded outputs [n, ...]."""

    def columns(self) -> list[str]:
        """Return the names of its columns in a predictions table, the label first."""

    def output_columns(self) -> list[str]:
        """Return the columns whose mean over models gives those of the ensemble."""

    def average(
        self, stack: np.ndarray, mean: Callable[[np.ndarray], np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Return the columns of an ensemble.

        Args:
            stack: The `output_columns` of each model, float64 [models, n, columns].
            mean: Function that averages probabilities for the ensemble, [models, n, c] → [n, c].
        """

    def faults(self, table: "pd.DataFrame") -> Iterator[Fault]:
        """Yield the faults in its columns of a predictions table."""

    def scorer(self, labelled: "pd.DataFrame") -> "Scorer":
        """Return the scorer of rows of a predictions table, all of which have a label."""

    def selection_score(self, table: "pd.DataFrame", by: str) -> float:
        """Score a predictions table by one of `selections`; higher is better."""

    def agrees(self, label: Any, prediction: Any) -> Any:
        """Return whether a prediction counts as right."""

    def format(self, value: Any) -> str:
        """Return a label or prediction as text for display."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classes:
    """Target of classes 0 to C - 1; the base of the three kinds below.

    Attributes:
        class_names: Names of the classes, in order.
        positive_from: Lowest class that counts as positive where two classes are needed.
    """

    name: str
    title: str
    short_title: str
    class_names: tuple[str, ...]
    positive_from: int = 1
    region: str = "all"
    opposite: str = ""
    headlines: tuple[str, ...] = ()

    missing = MISSING
    dtype = np.int8
    losses = ("cross_entropy", "hybrid", "focal")
    selections = ("accuracy", "roc_auc", "loss", "average_precision")
    figures: ClassVar[tuple[str, ...]] = ("confusion", "distribution", "reliability")
    noun = "class"
    table_metrics: ClassVar[tuple[str, ...]] = (
        "accuracy",
        "balanced_accuracy",
        "f1_macro",
        "brier",
        "ece",
    )

    @property
    def source(self) -> str:
        """Name of the label column, that of the target."""
        return self.name

    @property
    def stratify_by(self) -> str:
        """Name of the column that the target is read from."""
        return self.source

    @property
    def num_outputs(self) -> int:
        """Number of logits, one for each class."""
        return len(self.class_names)

    def class_label(self, number: int) -> str:
        """Return a class name that is clear without a heading, such as `KL 2`."""
        return self.class_names[number]

    def labels(self, knees: "pd.DataFrame") -> np.ndarray:
        """Return the classes int8 [n] of rows of an index, -1 where unknown.

        Raises:
            UserError: A label is not one of the classes.
        """
        if self.source not in knees.columns:
            return np.full(len(knees), MISSING, np.int8)
        classes: np.ndarray = knees[self.source].to_numpy()
        wrong = np.setdiff1d(classes, [MISSING, *range(self.num_outputs)])
        if wrong.size:
            raise UserError(
                f"column {self.source} of the knees holds {wrong[0]:g}, not a class from 0 to "
                f"{self.num_outputs - 1}: correct the labels, and prepare the set again"
            )
        return classes

    def is_known(self, labels: Any) -> Any:
        """Return which labels [...] are not missing, bool [...]."""
        return labels != MISSING

    def is_read(self, knees: "pd.DataFrame") -> np.ndarray:
        """Return for which rows of an index `source` was read, bool [n]."""
        if self.source not in knees.columns:
            return np.zeros(len(knees), bool)
        return np.asarray(knees[self.source].to_numpy() != MISSING)

    def decode(self, logits: Any) -> Any:
        """Convert logits [batch, C] to class probabilities, float32 [batch, C]."""
        import jax

        return jax.nn.softmax(logits.astype(np.float32))

    def predictions(self, decoded: np.ndarray) -> dict[str, np.ndarray]:
        """Return the most probable class and the probabilities, from probabilities [n, C]."""
        columns = {f"{self.name}_pred": decoded.argmax(axis=1)}
        return columns | dict(zip(self.output_columns(), decoded.T, strict=True))

    def columns(self) -> list[str]:
        """Return the names of the columns of label, predicted class and probabilities."""
        return [self.name, f"{self.name}_pred", *self.output_columns()]

    def output_columns(self) -> list[str]:
        """Return the columns of the class probabilities, in order."""
        return [f"{self.name}_p{c}" for c in range(self.num_outputs)]

    def average(
        self, stack: np.ndarray, mean: Callable[[np.ndarray], np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Return the ensemble's probabilities and most probable class."""
        return self.predictions(mean(stack))

    def faults(self, table: "pd.DataFrame") -> Iterator[Fault]:
        """Yield faults in the classes and probabilities of a predictions table."""
        classes = range(self.num_outputs)
        for column, allowed in (
            (self.name, (MISSING, *classes)),
            (f"{self.name}_pred", tuple(classes)),
        ):
            wrong = ~to_numbers(table[column]).isin(allowed).to_numpy()
            yield Fault(column, wrong, f"is not one of {', '.join(map(str, allowed))}")
        columns = self.output_columns()
        for column in columns:
            wrong = ~to_numbers(table[column]).between(0.0, 1.0).to_numpy()
            yield Fault(column, wrong, "is not a probability")
        totals = table[columns].sum(axis=1).to_numpy(np.float64)
        wrong = np.abs(totals - 1.0) > SUM_TOLERANCE
        yield Fault(f"{columns[0]} to {columns[-1]}", wrong, "do not sum to 1", False)

    def agreement_metrics(self) -> Mapping[str, Callable[[np.ndarray], np.ndarray]]:
        """Return the metrics that are functions of confusion matrices."""
        from knee_jax.metrics import agreement

        return agreement.NOMINAL_METRICS

    def scorer(self, labelled: "pd.DataFrame") -> "Scorer":
        """Return the scorer of predicted classes and their probabilities."""
        from knee_jax.metrics import scoring

        return scoring.classes(self, labelled)

    def selection_score(self, table: "pd.DataFrame", by: str) -> float:
        """Score the knees of a predictions table that have a class; higher is better.

        Args:
            table: Predictions table.
            by: Criterion: `accuracy`; `roc_auc` or `average_precision` of the summed probability of
                the positive classes; or `loss`, minus the mean cross-entropy.
        """
        from knee_jax.metrics import discrimination

        known = table[self.is_known(table[self.name])]
        if known.empty:
            return float("nan")
        classes, of_truth = self.true_class_probability(known)
        if by == "loss":
            # A probability of 0 has been rounded to 0.
            return float(np.log(np.maximum(of_truth, np.finfo(np.float32).tiny)).mean())
        if by == "accuracy":
            return float((known[f"{self.name}_pred"].to_numpy() == classes).mean())
        columns = self.output_columns()[self.positive_from :]
        scores = known[columns].to_numpy(np.float64).sum(axis=1)
        return float(getattr(discrimination, by)(scores, classes >= self.positive_from))

    def true_class_probability(self, labelled: "pd.DataFrame") -> tuple[np.ndarray, np.ndarray]:
        """Return the true classes int64 [n], and their probabilities float64 [n].

        Args:
            labelled: Rows of a predictions table, all of which have a class.
        """
        classes = labelled[self.name].to_numpy(np.int64)
        values = labelled[self.output_columns()].to_numpy(np.float64)
        return classes, values[np.arange(len(labelled)), classes]

    def agrees(self, label: Any, prediction: Any) -> Any:
        """Return whether the predicted class is the true one."""
        return label == prediction

    def format(self, value: Any) -> str:
        """Return the name of a class, or a dash if it is missing."""
        return "-" if value == MISSING else self.class_names[int(value)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ordinal(Classes):
    """Ordinal grade, read from its own column: classes are equally spaced."""

    noun = "grade"
    table_metrics = ("accuracy", "balanced_accuracy", "quadratic_kappa", "rmse")
    stratify_by = "kl"

    def class_label(self, number: int) -> str:
        """Return the grade after the name of its scale, such as `KL 2`."""
        return f"{self.name.upper()} {self.class_names[number]}"

    def agreement_metrics(self) -> Mapping[str, Callable[[np.ndarray], np.ndarray]]:
        """Return the metrics of ordinal agreement."""
        from knee_jax.metrics import agreement

        return agreement.METRICS

    def scorer(self, labelled: "pd.DataFrame") -> "Scorer":
        """Return what scores predicted grades, expected grades and probabilities."""
        from knee_jax.metrics import scoring

        return scoring.classes(self, labelled, scoring.expected_class(self, labelled))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nominal(Classes):
    """Class without an order, read from its own column."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Binary(Classes):
    """Two classes made from the values of a grade; other values have no class.

    Attributes:
        grade: Name of the grade, a column of the index.
        values: Class, 0 or 1, of each value of that grade.
    """

    grade: str
    values: Mapping[int, int]

    table_metrics = ("accuracy", "f1", "sensitivity", "specificity", "roc_auc")
    figures = ("confusion", "distribution", "reliability", "sorted_confidence")
    noun = "grade"
    stratify_by = "kl"

    @property
    def source(self) -> str:
        """Name of the grade that the classes are made from."""
        return self.grade

    def labels(self, knees: "pd.DataFrame") -> np.ndarray:
        """Return the classes int8 [n] of rows of an index, -1 for other values of the grade."""
        values = knees[self.grade].to_numpy()
        chosen = [(values == value) * (number - MISSING) for value, number in self.values.items()]
        return np.asarray(sum(chosen) + MISSING, values.dtype)

    def agreement_metrics(self) -> Mapping[str, Callable[[np.ndarray], np.ndarray]]:
        """Return the metrics of two classes."""
        from knee_jax.metrics import agreement

        return agreement.TWO_CLASS_METRICS

    def scorer(self, labelled: "pd.DataFrame") -> "Scorer":
        """Return what scores predicted classes, the ranks of knees and probabilities."""
        from knee_jax.metrics import scoring

        classes, _ = self.true_class_probability(labelled)
        positive = labelled[self.output_columns()[1]].to_numpy(np.float64)
        return scoring.classes(self, labelled, scoring.ranks(positive, classes == 1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Continuous:
    """Measured value, such as a width in mm.

    A head outputs (value - centre) / scale, so that a network starts at a plausible value and its
    loss is of the order of a class target's.

    Attributes:
        unit: Unit of the values.
        centre: Typical value.
        scale: Typical spread.
        tolerance: Largest error of a prediction that counts as right in examples.
    """

    name: str
    title: str
    short_title: str
    unit: str
    centre: float = 0.0
    scale: float = 1.0
    tolerance: float = 1.0
    region: str = "all"
    opposite: str = ""
    stratify_by: str = "kl"
    headlines: tuple[str, ...] = ("rmse", "bias", "mae")

    missing = np.nan
    dtype = np.float32
    num_outputs = 1
    losses = ("squared_error",)
    selections = ("loss",)
    table_metrics = ("rmse", "mae", "bias", "limit_low", "limit_high")
    figures = ("bland_altman",)
    noun = "value"

    @property
    def source(self) -> str:
        """Name of the label column, that of the target."""
        return self.name

    def labels(self, knees: "pd.DataFrame") -> np.ndarray:
        """Return the values float32 [n] of rows of an index, NaN where unknown."""
        if self.source not in knees.columns:
            return np.full(len(knees), np.nan, np.float32)
        return knees[self.source].to_numpy(np.float32)

    def is_known(self, labels: Any) -> Any:
        """Return which labels [...] are not NaN, bool [...]."""
        return labels == labels

    def is_read(self, knees: "pd.DataFrame") -> np.ndarray:
        """Return for which rows of an index the value is known, bool [n]."""
        return np.asarray(self.is_known(self.labels(knees)))

    def decode(self, logits: Any) -> Any:
        """Convert outputs [batch, 1] to values in `unit`, float32 [batch]."""
        return self.centre + self.scale * logits[:, 0].astype(np.float32)

    def standardise(self, labels: Any) -> Any:
        """Return labels on the scale of the head's output."""
        return (labels - self.centre) / self.scale

    def predictions(self, decoded: np.ndarray) -> dict[str, np.ndarray]:
        """Return the predicted values [n]."""
        return {f"{self.name}_pred": decoded}

    def columns(self) -> list[str]:
        """Return the names of the columns of label and prediction."""
        return [self.name, *self.output_columns()]

    def output_columns(self) -> list[str]:
        """Return the column of the predicted value."""
        return [f"{self.name}_pred"]

    def average(
        self, stack: np.ndarray, mean: Callable[[np.ndarray], np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Return the mean of the models' values, however probabilities are averaged."""
        return self.predictions(stack.mean(0)[:, 0])

    def faults(self, table: "pd.DataFrame") -> Iterator[Fault]:
        """Yield faults for values that are not numbers; a label may be missing."""
        label, prediction = table[self.name], to_numbers(table[f"{self.name}_pred"])
        wrong = (label.notna() & ~np.isfinite(to_numbers(label))).to_numpy()
        yield Fault(self.name, wrong, f"is not a number ({self.unit}), nor empty")
        wrong = ~np.isfinite(prediction.to_numpy(np.float64))
        yield Fault(f"{self.name}_pred", wrong, f"is not a number ({self.unit})")

    def scorer(self, labelled: "pd.DataFrame") -> "Scorer":
        """Return the scorer of errors, bias and limits of agreement."""
        from knee_jax.metrics import scoring

        return scoring.values(self, labelled)

    def selection_score(self, table: "pd.DataFrame", by: str) -> float:
        """Return minus the mean squared error, in units of `scale` squared."""
        known = table[self.is_known(table[self.name])]
        if known.empty:
            return float("nan")
        errors = (known[f"{self.name}_pred"] - known[self.name]).to_numpy(np.float64)
        return -float(np.square(errors / self.scale).mean())

    def agrees(self, label: Any, prediction: Any) -> Any:
        """Return whether the error is within `tolerance`."""
        return abs(label - prediction) <= self.tolerance

    def format(self, value: Any) -> str:
        """Return a value with two decimals, or a dash if it is missing."""
        return f"{value:.2f}" if value == value else "-"


@dataclasses.dataclass(frozen=True)
class Dichotomy:
    """Two classes derived from the probabilities of other targets, and never trained.

    Attributes:
        name: Name in `metrics.json`.
        title: Display name.
        targets: Targets whose knees are pooled: each target of a knee is one sample.
        lowest: Lowest positive class.
        threshold: Score from which a sample is predicted positive; None: only ranks are scored.
        headlines: Metrics that head a report.
    """

    name: str
    title: str
    targets: tuple[str, ...]
    lowest: int
    threshold: float | None = None
    headlines: tuple[str, ...] = ()

    @property
    def table_metrics(self) -> Sequence[str]:
        """Metrics of a summary's narrow table; none if nothing is predicted positive."""
        if self.threshold is None:
            return ()
        return ("average_precision", "roc_auc", "balanced_accuracy", "brier", "ece")


def to_numbers(column: "pd.Series") -> "pd.Series":
    """Return a column of a table as numbers, NaN where it holds something else."""
    import pandas as pd

    return pd.to_numeric(column, errors="coerce")
