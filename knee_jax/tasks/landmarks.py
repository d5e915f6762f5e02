"""Task of the localiser: landmarks of a knee that looks like a right one, and what is shown.

Landmarks are learnt by the likelihood of a Laplace distribution in the plane, whose width is the
error that the network expects: a wrong landmark pulls no harder than a nearly right one.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

from knee_jax import targets as all_targets
from knee_jax.config.fields import option
from knee_jax.config.schema import Data
from knee_jax.errors import UserError
from knee_jax.metrics.grade_coherence import Mixture
from knee_jax.metrics.predictions import make_table
from knee_jax.targets.kinds import Classes, Target
from knee_jax.targets.places import Places
from knee_jax.tasks import one_target
from knee_jax.tasks.protocols import Labels, Outputs, ValidationStats


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The part `task` of a config of name `landmarks`."""

    name: ClassVar[str] = "landmarks"
    swept: ClassVar[tuple[str, ...]] = ()

    class_weight: float = option(0.5, "Weight of the cross-entropy of the classes.", low=0)

    def check(self, targets: Sequence[Target], data: Data) -> None:
        """Raise UserError unless the targets are places and classes."""
        places = [target for target in targets if isinstance(target, Places)]
        if len(places) != 1 or not all(isinstance(t, Classes | Places) for t in targets):
            names = tuple(target.name for target in targets)
            raise UserError(
                f"config.targets = {names}: the task {self.name} needs landmarks, and otherwise "
                "takes classes alone, such as knee_shown"
            )
        one_target.refuse_unlabelled(data, self.name)

    def usable(self, index: pd.DataFrame, targets: Sequence[Target]) -> np.ndarray:
        """Return which pictures of an index have a label of any target, bool [n]."""
        known = [target.is_known(target.labels(index)) for target in targets]
        return np.asarray(np.any(known, axis=0))

    def check_part(self, part: str, index: pd.DataFrame, targets: Sequence[Target]) -> None:
        """Raise UserError if no picture of a part has landmarks."""
        for target in targets:
            if isinstance(target, Places) and not target.is_read(index).any():
                raise UserError(
                    f"the {part} part has no knee with all landmarks: choose a set with landmarks"
                )

    def make(
        self,
        targets: Sequence[Target],
        counts: Mapping[str, Sequence[int]],
        labels: Mapping[str, np.ndarray],
        seed: int,
        mixture: Mixture | None = None,
    ) -> "Landmarks":
        """Make the task of a run; see `protocols.Settings`."""
        return Landmarks(
            targets=tuple(target.name for target in targets),
            class_weight=float(self.class_weight),
        )


@flax.struct.dataclass
class Landmarks:
    """Landmarks and classes; a pytree without numbers.

    Attributes:
        targets: Names of the targets.
        class_weight: Weight of the cross-entropy of the classes.
    """

    targets: tuple[str, ...] = flax.struct.field(pytree_node=False, default=())
    class_weight: float = flax.struct.field(pytree_node=False, default=0.5)

    score_name: ClassVar[str] = "minus_radial_error"
    mixture: ClassVar[None] = None

    def initial_validation_stats(self) -> dict[str, jax.Array]:
        """Return nothing: the loss uses nothing of a validation."""
        return {}

    def validation_stats(self, table: pd.DataFrame) -> dict[str, np.ndarray]:
        """Return nothing."""
        return {}

    def loss(
        self,
        outputs: Outputs,
        labels: Labels,
        mask: jax.Array,
        epoch: jax.Array | float,
        stats: ValidationStats,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return the loss of a batch and its parts; see `protocols.Task`."""
        terms: dict[str, jax.Array] = {}
        for name in self.targets:
            target = all_targets.get(name)
            if isinstance(target, Places):
                places = target.decode(outputs[name])
                terms[f"loss_{name}"], terms[f"error_{name}"] = laplace_loss(
                    places, labels[name], mask
                )
            else:
                known = mask & target.is_known(labels[name])
                classes = jnp.where(known, labels[name], 0).astype(jnp.int32)
                each = optax.softmax_cross_entropy_with_integer_labels(outputs[name], classes)
                terms[f"loss_{name}"] = self.class_weight * _mean(each, known)
        loss = sum(value for name, value in terms.items() if name.startswith("loss_"))
        return jnp.float32(loss), terms

    def decode(self, outputs: Outputs) -> dict[str, jax.Array]:
        """Return class probabilities, and places as shares of the input's side."""
        return {name: all_targets.get(name).decode(outputs[name]) for name in self.targets}

    def table(
        self, index: pd.DataFrame, rows: np.ndarray, decoded: Mapping[str, np.ndarray]
    ) -> pd.DataFrame:
        """Make the predictions table; see `protocols.Task`.

        Args:
            index: Index of the prepared set.
            rows: Rows that were predicted, int64 [n].
            decoded: Class probabilities; and of places [n, places, 5]: x, y and error as found, x
                and y as true, in pixels of the prepared image.
        """
        knees = index.iloc[rows]
        places = {n: v for n, v in decoded.items() if isinstance(all_targets.get(n), Places)}
        table = make_table(knees, {n: v for n, v in decoded.items() if n not in places})
        table["spacing_mm"] = knees["spacing_mm"].to_numpy(np.float64)
        columns: dict[str, np.ndarray] = {}
        for name, values in places.items():
            target = all_targets.get(name)
            assert isinstance(target, Places)
            columns |= target.truths(values[..., 3:]) | target.predictions(values[..., :3])
        return pd.concat([table, pd.DataFrame(columns)], axis=1)

    def score(self, table: pd.DataFrame) -> float:
        """Return minus the mean radial error, mm."""
        (target,) = all_targets.of_kind(self.targets, Places)
        return target.selection_score(table, "loss")


def laplace_loss(found: jax.Array, true: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return minus the mean log-likelihood of places, and their mean distance, scalars.

    In the plane, with the distance r and the expected error s, it is r / s + 2 log s, least where s
    is half the mean distance.

    Args:
        found: Places and expected errors, [batch, places, 3], shares of the side.
        true: True places, [batch, places, 2]; those that are NaN or beyond the picture do not
            count.
        mask: Whether each picture counts, bool [batch].
    """
    inside = ((true >= 0) & (true <= 1)).all(-1)
    known = inside & mask[:, None]
    offset = jnp.where(known[..., None], found[..., :2] - true, 1.0)
    distance = jnp.sqrt(jnp.square(offset).sum(-1) + 1e-10)
    error = found[..., 2]
    return _mean(distance / error + 2 * jnp.log(error), known), _mean(distance, known)


def _mean(values: jax.Array, known: jax.Array) -> jax.Array:
    """Return the mean of the values that are known, 0 if none is."""
    return jnp.where(known, values, 0).sum() / jnp.maximum(known.sum(), 1)
