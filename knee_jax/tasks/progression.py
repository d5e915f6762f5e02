"""Task of the progression of osteoarthritis: none, fast or slow within 96 months.

Panfilov et al. 2022, section 3.2: the focal loss of Lin et al. 2017, "Focal loss for dense object
detection", with gamma 2 and without class weights; the classes are made equally frequent by drawing
knees (`data.sampling = "balanced"`).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from knee_jax.config.fields import option
from knee_jax.config.schema import Data
from knee_jax.errors import UserError
from knee_jax.metrics.grade_coherence import Mixture
from knee_jax.targets.kinds import MISSING, Nominal, Target
from knee_jax.tasks import one_target
from knee_jax.tasks.one_target import SELECTIONS, TINY, OneTarget, OneTargetSettings
from knee_jax.tasks.protocols import Labels, Outputs, ValidationStats


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(OneTargetSettings):
    """The part `task` of a config of name `progression`; the defaults are the paper's."""

    name: ClassVar[str] = "progression"
    swept: ClassVar[tuple[str, ...]] = ("focal_gamma",)

    focal_gamma: float = option(2.0, "Gamma of the focal loss; 0: cross-entropy.", low=0)
    label_smoothing: float = option(
        0.0, "Share of a label that is given to all classes in equal parts.", low=0, below=1
    )
    selection: str = option(
        "average_precision",
        "What chooses the best checkpoint on validation knees.",
        choices=SELECTIONS,
    )

    def check(self, targets: Sequence[Target], data: Data) -> None:
        """Raise UserError for targets or data that the task cannot use, or would ignore."""
        target = one_target.the_target(targets, "focal", self.name)
        if not isinstance(target, Nominal):
            raise UserError(
                f"config.targets = ('{target.name}',): the task {self.name} learns a target of "
                "its own classes, such as progression"
            )
        one_target.refuse_unlabelled(data, self.name)
        if data.partially_labelled != "masked":
            raise UserError(
                f"config.data.partially_labelled = {data.partially_labelled!r} has no meaning for "
                f"{self.name} (a knee has a class or none): set 'masked'"
            )

    def check_part(self, part: str, index: pd.DataFrame, targets: Sequence[Target]) -> None:
        """Raise UserError for a part that cannot be trained on, or used for selection.

        Training requires every class; validation requires knees that progressed and others.
        """
        target = one_target.the_target(targets, "focal", self.name)
        classes = target.labels(index)
        if part == "train":
            one_target.refuse_absent(part, classes, target)
        if part == "validation" and len(set((classes > 0).tolist())) < 2:
            which = "is other than" if (classes == 0).all() else "is"
            raise UserError(
                f"of the validation part no knee {which} {target.class_names[0]}, and no "
                "checkpoint can be chosen by it: choose another config.data.split, "
                "config.data.parts or config.data.seed, or a larger set"
            )

    def make(
        self,
        targets: Sequence[Target],
        counts: Mapping[str, Sequence[int]],
        labels: Mapping[str, np.ndarray],
        seed: int,
        mixture: Mixture | None = None,
    ) -> "Progression":
        """Make the task of a run; see `protocols.Settings`."""
        return Progression(
            focal_gamma=np.asarray(self.focal_gamma, np.float32),
            label_smoothing=float(self.label_smoothing),
            target=targets[0].name,
            selection=self.selection,
        )


def focal_loss(
    log_p: jax.Array,
    classes: jax.Array,
    gamma: jax.Array | np.ndarray | float,
    smoothing: float = 0.0,
) -> jax.Array:
    """Return the focal loss -(1 - p)^gamma log p of the true class' probability p, [batch].

    Lin et al. 2017, eq. 4, for several classes; cross-entropy if gamma is 0.

    Args:
        log_p: Log-probabilities, [batch, K].
        classes: Classes, int [batch].
        gamma: Exponent, 0 or more; the higher it is, the less well-predicted knees count.
        smoothing: Share of a label that is given to all classes, each with its own focal loss.
    """
    # Where p is rounded to 1 a power of 0 would have no gradient, or an infinite one.
    missed = jnp.maximum(-jnp.expm1(log_p), TINY)
    losses = -(missed**gamma) * log_p
    own = jnp.take_along_axis(losses, classes[:, None], axis=1)[:, 0]
    return own if not smoothing else (1 - smoothing) * own + smoothing * losses.mean(axis=1)


@flax.struct.dataclass
class Progression(OneTarget):
    """A nominal target with the focal loss; a pytree, whose numbers may differ between members.

    Checkpoints are chosen by the average precision of progression, fast or slow together. The
    published code rounds it to three decimals, and of equal ones takes the later epoch. Here it is
    not rounded, so that epochs are seldom equal; of those that are, the later one is also taken.

    Attributes:
        focal_gamma: Gamma of the focal loss, float32.
        label_smoothing: Share of a label that is given to all classes in equal parts.
        target: Name of the target.
        selection: Criterion of `SELECTIONS` on the validation knees.
    """

    focal_gamma: np.ndarray
    label_smoothing: float = flax.struct.field(pytree_node=False, default=0.0)
    target: str = flax.struct.field(pytree_node=False, default="progression")
    selection: str = flax.struct.field(pytree_node=False, default="average_precision")

    def initial_validation_stats(self) -> dict[str, jax.Array]:
        """Return an empty mapping: the loss uses nothing from validation."""
        return {}

    def validation_stats(self, table: pd.DataFrame) -> dict[str, np.ndarray]:
        """Return an empty mapping."""
        return {}

    def loss(
        self,
        outputs: Outputs,
        labels: Labels,
        mask: jax.Array,
        epoch: jax.Array | float,
        stats: ValidationStats,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return the mean focal loss of the knees of a batch that have a class.

        Returns:
            Loss, float32 scalar, NaN if an unmasked knee has a NaN, 0 if none has a class; and, as
            its part, the plain `cross_entropy` of these knees.
        """
        label = labels[self.target]
        known = mask & (label != MISSING)
        classes = jnp.where(known, label, 0).astype(jnp.int32)
        logits = jnp.where(mask[:, None], outputs[self.target].astype(jnp.float32), 0.0)
        log_p = jax.nn.log_softmax(logits)

        # Numbers rather than truth values, which a compiler treats as a selection: NaN times 0
        # shows.
        weights = jnp.where(known, 1.0, 0.0)

        def mean(losses: jax.Array) -> jax.Array:
            return (weights * losses).sum() / jnp.maximum(weights.sum(), 1.0)

        parts = {"cross_entropy": mean(focal_loss(log_p, classes, 0.0))}
        loss = focal_loss(log_p, classes, self.focal_gamma, self.label_smoothing)
        return mean(loss), parts
