"""Common code of tasks with a single class target: tables, selection, and usable knees."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
import pandas as pd

from knee_jax import targets as all_targets
from knee_jax.config.schema import Data
from knee_jax.errors import UserError
from knee_jax.metrics.predictions import make_table
from knee_jax.targets.kinds import Classes, Target
from knee_jax.tasks.protocols import Outputs

SELECTIONS = Classes.selections
"""Criteria by which a checkpoint may be chosen; see `Classes.selection_score`."""

TINY = np.finfo(np.float32).tiny


class OneTarget:
    """Common part of the tasks of one class target, whatever their loss.

    Attributes:
        target: Name of the target.
        selection: Criterion of `SELECTIONS` on the validation knees.
    """

    target: str
    selection: str

    @property
    def kind(self) -> Classes:
        """Target of the task."""
        target = all_targets.get(self.target)
        assert isinstance(target, Classes)
        return target

    @property
    def targets(self) -> tuple[str, ...]:
        """Name of the target, as the only element."""
        return (self.target,)

    @property
    def mixture(self) -> None:
        """None, since coherence needs the seven grades."""

    @property
    def score_name(self) -> str:
        """Name of the result of `score`."""
        return "minus_cross_entropy" if self.selection == "loss" else self.selection

    def score(self, table: pd.DataFrame) -> float:
        """Score validation knees by `selection`; the highest score chooses the checkpoint."""
        return self.kind.selection_score(table, self.selection)

    def decode(self, outputs: Outputs) -> dict[str, jax.Array]:
        """Return the target's class probabilities, float32 [batch, classes]."""
        return {self.target: self.kind.decode(outputs[self.target])}

    def table(
        self, index: pd.DataFrame, rows: np.ndarray, decoded: Mapping[str, np.ndarray]
    ) -> pd.DataFrame:
        """Make the predictions table: one row per knee, with identity, true and predicted class.

        Args:
            index: Index of the prepared set.
            rows: Rows that were predicted, int64 [n].
            decoded: Probabilities of the target, [n, classes].
        """
        return make_table(index.iloc[rows], decoded)


class OneTargetSettings:
    """Common part of the settings of these tasks."""

    def usable(self, index: pd.DataFrame, targets: Sequence[Target]) -> np.ndarray:
        """Return which knees of an index have a class of the target, bool [n]."""
        (target,) = targets
        return np.asarray(target.is_known(target.labels(index)))


def the_target(targets: Sequence[Target], loss: str, task: str) -> Classes:
    """Return the only target of a config.

    Raises:
        UserError: There is not exactly one target, or it does not allow the loss.
    """
    if len(targets) != 1:
        names = tuple(target.name for target in targets)
        raise UserError(f"config.targets = {names}: the task {task} has one target")
    (target,) = targets
    if loss not in target.losses or not isinstance(target, Classes):
        raise UserError(
            f"config.targets: {target.name} allows the loss {' or '.join(target.losses)}, and the "
            f"task {task} has the loss {loss}: choose another target or config.task"
        )
    return target


def refuse_unlabelled(data: Data, task: str) -> None:
    """Raise UserError if unlabelled knees are to be trained on, which have no loss here."""
    if data.unlabelled != "none":
        raise UserError(
            f"config.data.unlabelled = {data.unlabelled!r} has no meaning for {task} (knees "
            "without a class have no loss here): set 'none'"
        )


def refuse_absent(part: str, classes: np.ndarray, target: Classes) -> None:
    """Raise UserError if a class has no knee among `classes`, those of a part."""
    found = set(classes.tolist())
    if absent := sorted(set(range(target.num_outputs)) - found):
        names = " and of ".join(target.class_label(c) for c in absent)
        raise UserError(
            f"the {part} part has no knee of {names}, and the loss needs every class there: choose "
            "another config.data.split, config.data.parts or config.data.seed, or a larger set"
        )
