"""Progression of osteoarthritis: none, fast or slow within 96 months (Panfilov et al. 2022).

Section 3.2: the focal loss of Lin et al. 2017, "Focal loss for dense object detection", with gamma
2 and without class weights; the classes are made equally frequent by drawing knees (`data.sampling
= "balanced"`).
"""

from collections.abc import Mapping

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pandas as pd

from knee_jax import coherence
from knee_jax.data.statistics import Statistics
from knee_jax.errors import UserError
from knee_jax.grades import MISSING, OWN, labels
from knee_jax.tasks import one_target
from knee_jax.tasks.one_target import SELECTIONS, TINY, OneTarget, Outputs

FIELDS = {"focal_gamma": 2.0, "selection": "average_precision"}
"""Fields of the config, with what holds where one is left out: the paper's."""

NUMBERS = ("focal_gamma",)
"""Fields of the config that are numbers in the task's pytree, and may differ in a sweep."""

usable = one_target.usable


def focal_loss(
    log_p: jax.Array, classes: jax.Array, gamma: jax.Array | np.ndarray | float
) -> jax.Array:
    """Focal loss -(1 - p)^gamma log p of the true class' probability p, [batch].

    Lin et al. 2017, eq. 4, for several classes; cross-entropy where gamma is 0.

    Args:
        log_p: [batch, K], log-probabilities.
        classes: int [batch].
        gamma: 0 or more; the higher it is, the less the knees count that are predicted well.
    """
    log_c = jnp.take_along_axis(log_p, classes[:, None], axis=1)[:, 0]
    # Where p is rounded to 1 a power of 0 would have no gradient, or an infinite one.
    missed = jnp.maximum(-jnp.expm1(log_c), TINY)
    return -(missed**gamma) * log_c


@flax.struct.dataclass
class Progression(OneTarget):
    """A target of its own with the focal loss; a pytree, whose numbers may differ between members.

    Checkpoints are chosen by the average precision of progression, fast or slow together. The
    published code rounds it to three decimals, and of equal ones takes the later epoch. Here it is
    not rounded, so that epochs are seldom equal; of those that are, the later one is taken as well.

    Attributes:
        focal_gamma: of the focal loss, float32.
        target: what the model reads, one of `grades.OWN`.
        selection: one of `SELECTIONS`, on the validation knees.
    """

    focal_gamma: np.ndarray
    target: str = flax.struct.field(pytree_node=False, default="progression")
    selection: str = flax.struct.field(pytree_node=False, default="average_precision")

    def initial_memory(self) -> dict[str, jax.Array]:
        """What the loss is told of the validation knees before the first validation: nothing."""
        return {}

    def remember(self, table: pd.DataFrame) -> dict[str, np.ndarray]:
        """The same, of the predictions of a validation."""
        return {}

    def loss(
        self,
        outputs: Outputs,
        batch: Mapping[str, jax.Array],
        epoch: jax.Array | float,
        memory: Mapping[str, jax.Array],
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The training loss of a batch: the mean focal loss of its knees that have a class.

        Args:
            outputs: of the model.
            batch: uses the target's classes, `progression` int [batch], and `mask` bool [batch];
                masked knees count nowhere, whatever their logits are.
            epoch: passes over the training knees so far; not used.
            memory: of the last validation; not used.

        Returns:
            float32 scalar, NaN where an unmasked knee has a NaN, 0 where none has a class; and,
            beside it, the plain `cross_entropy` of these knees.
        """
        label, mask = batch[self.target], batch["mask"]
        known = mask & (label != MISSING)
        classes = jnp.where(known, label, 0).astype(jnp.int32)
        logits = jnp.where(mask[:, None], outputs[self.target].astype(jnp.float32), 0.0)
        log_p = jax.nn.log_softmax(logits)

        # Numbers, and not the truth values, which a compiler takes for a choice: NaN times 0 shows.
        weights = jnp.where(known, 1.0, 0.0)

        def mean(losses: jax.Array) -> jax.Array:
            return (weights * losses).sum() / jnp.maximum(weights.sum(), 1.0)

        parts = {"cross_entropy": mean(focal_loss(log_p, classes, 0.0))}
        return mean(focal_loss(log_p, classes, self.focal_gamma)), parts


def settings(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config's fields of this task, and defaults for those that it leaves out."""
    return ml_collections.ConfigDict(
        {name: config.get(name, default) for name, default in FIELDS.items()}
    )


def check(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for a field of this task that has no meaning, or that it would ignore."""
    if len(config.grades) != 1 or config.grades[0] not in OWN:
        raise UserError(f"config.grades = {tuple(config.grades)}: one target, of {', '.join(OWN)}")
    fields = settings(config)
    if fields.selection not in SELECTIONS:
        raise UserError(
            f"config.selection = {fields.selection!r}: choose {' or '.join(SELECTIONS)}"
        )
    if not one_target.is_number(fields.focal_gamma) or fields.focal_gamma < 0:
        raise UserError(f"config.focal_gamma = {fields.focal_gamma!r}: a number of 0 or more")
    one_target.refuse_ignored(
        config,
        "progression",
        {
            "data.partially_labelled": ("masked", "a knee has a class or none"),
        },
    )


def check_part(
    name: str, index: pd.DataFrame, rows: np.ndarray, config: ml_collections.ConfigDict
) -> None:
    """Raises UserError for a part that cannot be learnt from, or by which none can be chosen.

    Args:
        name: 'train', which needs every class; 'validation', which needs knees that progressed and
            others; or 'test'.
        index: the prepared set's index.
        rows: int64 [n], its rows of that part that are `usable`.
        config: see `configs/`.
    """
    target = config.grades[0]
    classes = labels(index.iloc[rows], target)
    if name == "train":
        one_target.refuse_absent(name, classes, target)
    if name == "validation" and len(set((classes > 0).tolist())) < 2:
        which = "is other than" if (classes == 0).all() else "is"
        raise UserError(
            f"of the validation part no knee {which} {OWN[target][0]}, and no checkpoint can be "
            "chosen by it: choose another config.data.split, config.data.parts or "
            "config.data.seed, or a larger set"
        )


def make(
    config: ml_collections.ConfigDict,
    statistics: Statistics,
    grades: np.ndarray,
    mixture: coherence.Mixture | None = None,
) -> Progression:
    """The task of a config.

    Args:
        config: see `configs/`.
        statistics: of the training knees; without use here, as are the next two.
        grades: int [n, 7], of the training knees.
        mixture: of another task.
    """
    fields = settings(config)
    return Progression(
        focal_gamma=np.asarray(fields.focal_gamma, np.float32),
        target=config.grades[0],
        selection=fields.selection,
    )
