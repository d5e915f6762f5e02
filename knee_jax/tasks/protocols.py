"""What the rest of the project asks of a task and of its settings."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

import jax
import numpy as np
import pandas as pd

from knee_jax.config.schema import Data
from knee_jax.metrics.grade_coherence import Mixture
from knee_jax.targets.kinds import Target

Outputs = Mapping[str, jax.Array]
"""Target → float32 logits [batch, outputs]; a model may add further outputs, such as
`<target>_value`."""

Labels = Mapping[str, jax.Array]
"""Target → labels [batch], missing where a knee has none."""

ValidationStats = Mapping[str, jax.Array | np.ndarray]
"""What a loss knows of the last validation, part of the train state."""


class Task(Protocol):
    """What a run optimises; a pytree, an argument of compiled functions.

    Attributes:
        targets: Names of what is predicted, in the order of tables.
        score_name: Name of what `score` returns.
        mixture: Mixture over the seven grades, where the loss has one.
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
        """Return what the loss knows before the first validation."""

    def validation_stats(self, table: pd.DataFrame) -> dict[str, np.ndarray]:
        """Return what the loss is to know of a validation, from its predictions table."""

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
            mask: bool [batch]; masked knees count nowhere, whatever their outputs are.
            epoch: Passes over the training knees so far; may be traced.
            stats: Of the last validation; may be traced.
        """

    def decode(self, outputs: Outputs) -> dict[str, jax.Array]:
        """Return target → what a predictions table holds, float32 [batch, ...]."""

    def table(
        self, index: pd.DataFrame, rows: np.ndarray, decoded: Mapping[str, np.ndarray]
    ) -> pd.DataFrame:
        """Make the predictions table of `rows` [n] of an index from decoded outputs [n, ...]."""

    def score(self, table: pd.DataFrame) -> float:
        """Score validation knees: the checkpoint with the highest score is the best."""


class Settings(Protocol):
    """The part `task` of a config; a dataclass of `option` fields.

    Attributes:
        name: Name of the task in a config.
        swept: Fields that are numbers of the task's pytree, which runs of a sweep may differ in.
    """

    name: ClassVar[str]
    swept: ClassVar[tuple[str, ...]]

    def check(self, targets: Sequence[Target], data: Data) -> None:
        """Raise UserError for targets or data that the task cannot do with, or would ignore."""

    def usable(self, index: pd.DataFrame, targets: Sequence[Target]) -> np.ndarray:
        """Return which knees of an index can be learnt from or scored, bool [n]."""

    def check_part(self, part: str, index: pd.DataFrame, targets: Sequence[Target]) -> None:
        """Raise UserError for a part ('train', 'validation' or 'test') that cannot be used.

        Args:
            part: Name of the part.
            index: Rows of its usable knees.
            targets: The targets.
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
            targets: The targets.
            counts: Class target → training knees of each class.
            labels: Target → labels of the training knees, [n].
            seed: Random seed of what is fitted.
            mixture: Mixture that was fitted before, if any.
        """
