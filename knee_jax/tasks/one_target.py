"""What tasks of a single target share: tables, selection, and which knees they can use."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
import pandas as pd

from knee_jax.errors import UserError
from knee_jax.grades import GRADES, MISSING, NUM_CLASSES, class_name, labels
from knee_jax.metrics import discrimination
from knee_jax.metrics.predictions import make_table, probability_columns

Outputs = Mapping[str, jax.Array]
"""Target → logits [batch, classes]."""

SELECTIONS = ("accuracy", "roc_auc", "loss", "average_precision")
"""What a checkpoint may be chosen by, see `OneTarget.score`."""

TINY = np.finfo(np.float32).tiny


class OneTarget:
    """What a task of one target says of it, whatever its loss.

    Attributes:
        target: what the model reads.
        selection: one of `SELECTIONS`, on the validation knees.
    """

    target: str
    selection: str

    @property
    def grades(self) -> tuple[str, ...]:
        """The target alone."""
        return (self.target,)

    @property
    def mixture(self) -> None:
        """There is none: coherence is of seven grades."""

    @property
    def score_name(self) -> str:
        """What `score` is."""
        return "minus_cross_entropy" if self.selection == "loss" else self.selection

    def score(self, table: pd.DataFrame) -> float:
        """What a checkpoint is chosen by: the one with the highest score on validation knees.

        By `selection` the accuracy; the area under the ROC curve, or the average precision, of the
        summed probability of the positive classes: of a grade 2 and above (for KL the usual
        definition of osteoarthritis; Wang et al., Fig. 8), of other targets all but the first; or
        minus the mean cross-entropy.
        """
        classes, of_truth = confidence(table, self.target)
        if self.selection == "loss":
            return float(np.log(np.maximum(of_truth, TINY)).mean())
        known = table[table[self.target] != MISSING]
        if self.selection == "accuracy":
            return float((known[f"{self.target}_pred"].to_numpy() == classes).mean())
        lowest = 2 if self.target in GRADES else 1
        columns = probability_columns(self.target)[lowest:]
        scores = known[columns].to_numpy(np.float64).sum(axis=1)
        area = getattr(discrimination, self.selection)
        return float(area(scores, classes >= lowest))

    def probabilities(self, outputs: Outputs) -> dict[str, jax.Array]:
        """The target → class probabilities, float32 [batch, classes]."""
        return {self.target: jax.nn.softmax(outputs[self.target].astype(np.float32))}

    def table(
        self, index: pd.DataFrame, rows: np.ndarray, probabilities: Mapping[str, np.ndarray]
    ) -> pd.DataFrame:
        """The predictions table: a row a knee, with identity, true and predicted class.

        Args:
            index: the prepared set's index.
            rows: int64 [n], which of its rows were predicted.
            probabilities: the target → [n, classes].
        """
        return make_table(index.iloc[rows], probabilities)


def confidence(table: pd.DataFrame, target: str) -> tuple[np.ndarray, np.ndarray]:
    """True classes, and their probabilities, of a table's knees that have a class.

    Returns:
        int64 [n] and float64 [n].
    """
    known = table[table[target] != MISSING]
    classes = known[target].to_numpy(np.int64)
    values = known[probability_columns(target)].to_numpy(np.float64)
    return classes, values[np.arange(len(known)), classes]


def refuse_absent(part: str, classes: np.ndarray, target: str) -> None:
    """Raises UserError where a class has no knee among `classes`, those of a part."""
    absent = sorted(set(range(NUM_CLASSES[target])) - set(classes.tolist()))
    if absent:
        names = " and of ".join(class_name(target, c) for c in absent)
        raise UserError(
            f"the {part} part has no knee of {names}, and the loss needs every class there: choose "
            "another config.data.split, config.data.parts or config.data.seed, or a larger set"
        )


def refuse_ignored(
    config: ml_collections.ConfigDict, task: str, more: Mapping[str, tuple[Any, str]] | None = None
) -> None:
    """Raises UserError for what other tasks have, and a task of one target has no use for.

    Args:
        config: see `configs/`; fields that it lacks are off.
        task: its name.
        more: likewise field → the value that switches it off, and what to do instead, or why.
    """
    ignored = {
        "class_weights": ("none", "data.sampling = 'oversampled' makes classes alike"),
        "coherence.weight": (0, "it is of all seven grades"),
        "data.unlabelled": ("none", "knees without a class have no loss here"),
    } | dict(more or {})
    for name, (off, instead) in ignored.items():
        value: Any = config
        for field in name.split("."):
            value = value.get(field) if value is not None else None
        if value is not None and value != off:
            raise UserError(
                f"config.{name} = {value!r} has no meaning for {task} ({instead}): set {off!r}"
            )


def is_number(value: Any) -> bool:
    """Whether a config's value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def usable(index: pd.DataFrame, rows: np.ndarray, config: ml_collections.ConfigDict) -> np.ndarray:
    """Those of `rows` that belong to a class of the config's target."""
    return rows[labels(index.iloc[rows], config.grades[0]) != MISSING]
