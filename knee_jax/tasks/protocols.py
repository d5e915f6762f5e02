"""Interfaces of a task and of its settings."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

import jax
import numpy as np
import pandas as pd

from knee_jax.config.schema import Data
from knee_jax.metrics.grade_coherence import Mixture
from knee_jax.targets.kinds import Target

Outputs = Mapping[str, jax.Array]
"""Float32 logits [batch, outputs] of each target; models may add outputs, such as `<target>_value`.
"""

Labels = Mapping[str, jax.Array]
"""Labels [batch] of each target, missing for knees without one."""

ValidationStats = Mapping[str, jax.Array | np.ndarray]
"""Values that a loss uses from the last validation, part of the train state."""


class Task(Protocol):
    """Objective of a run; a pytree, passed to compiled functions.

    Attributes:
        targets: Names of the predicted targets, in the order of tables.
        score_name: Name of the result of `score`.
        mixture: Mixture over the seven grades, if the loss has one.
    """

    @property
    def targets(self) -> tuple[str, ...]:  # noqa: D102
        ...

    @property
    def score_name(self) -> str:  # noqa: D102
        ...

    @property
    def mixture(self) -> Mixture | None:  # noqa: D102
        ...

    def initial_validation_stats(self) -> dict[str, jax.Array]:
        """Return the values that the loss uses before the first validation."""

    def validation_stats(self, table: pd.DataFrame) -> dict[str, np.ndarray]:
        """Return the values that the loss uses from a validation, given its predictions table."""

    def loss(
        self,
        outputs: Outputs,
        labels: Labels,
        mask: jax.Array,
        epoch: jax.Array | float,
        stats: ValidationStats,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return the training loss of a batch, float32 scalar, and its parts by name.

        Args:
            outputs: Outputs of the network.
            labels: Labels of the targets.
            mask: Whether each knee counts, bool [batch], whatever its outputs are.
            epoch: Number of passes over the training knees so far; may be traced.
            stats: Values from the last validation; may be traced.
        """

    def decode(self, outputs: Outputs) -> dict[str, jax.Array]:
        """Return the outputs of a predictions table for each target, float32 [batch, ...]."""

    def table(
        self, index: pd.DataFrame, rows: np.ndarray, decoded: Mapping[str, np.ndarray]
    ) -> pd.DataFrame:
        """Make the predictions table of `rows` [n] of an index from decoded outputs [n, ...]."""

    def score(self, table: pd.DataFrame) -> float:
        """Score validation knees: the checkpoint with the highest score is the best."""


class Settings(Protocol):
    """Part `task` of a config; a dataclass of `option` fields.

    Attributes:
        name: Name of the task in a config.
        swept: Fields that are numbers of the task's pytree, in which runs of a sweep may differ.
    """

    name: ClassVar[str]
    swept: ClassVar[tuple[str, ...]]

    def check(self, targets: Sequence[Target], data: Data) -> None:
        """Raise UserError for targets or data that the task cannot use, or would ignore."""

    def usable(self, index: pd.DataFrame, targets: Sequence[Target]) -> np.ndarray:
        """Return which knees of an index can be trained on or scored, bool [n]."""

    def check_part(self, part: str, index: pd.DataFrame, targets: Sequence[Target]) -> None:
        """Raise UserError for a part ('train', 'validation' or 'test') that cannot be used.

        Args:
            part: Name of the part.
            index: Rows of its usable knees.
            targets: Targets of the run.
        """

    def make(
        self,
        targets: Sequence[Target],
        counts: Mapping[str, Sequence[int]],
        labels: Mapping[str, np.ndarray],
        seed: int,
        mixture: Mixture | None = None,
    ) -> Task:
        """Make the task of a run.

        Args:
            targets: Targets of the run.
            counts: Number of training knees of each class, for each class target.
            labels: Labels of the training knees for each target, [n].
            seed: Random seed of what is fitted.
            mixture: Mixture that was fitted before, if any.
        """
