"""One target of a radiograph, learnt with the hybrid confidence loss (Wang et al., section II).

In each batch the knees of a class are ranked by the probability that the network gives their true
class, and divided by a ratio into those of high, medium and low confidence. Each subset has a loss
of its own: label smoothing, the divergence from the class's mean confidence on the validation
knees, and cross-entropy. The target is KL 0 against KL 2 in the paper; any other will do.

The printed equations 4 and 7 to 10 make labels of whether a prediction is right; `equations` says
which reading is computed, see `EarlyDetection`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pandas as pd
from jax.scipy.special import xlogy

from knee_jax import coherence
from knee_jax.data.statistics import Statistics
from knee_jax.errors import UserError
from knee_jax.grades import DERIVED, GRADES, MISSING, NUM_CLASSES, labels
from knee_jax.tasks import one_target
from knee_jax.tasks.one_target import SELECTIONS, TINY, OneTarget, Outputs, is_number

Memory = Mapping[str, jax.Array | np.ndarray]
"""What is known of the last validation: `confidence`, float32 [classes], c_k of eq. 6."""

HYBRID = {
    "shares": (7, 2, 1),
    "epsilon": 0.15,
    "alpha": 0.4,
    "beta": 0.5,
    "gamma": 0.1,
    "reduction": "mean",
    "equations": "sensible",
    "warmup_epochs": 1.0,
    "initial_confidence": 0.85,
}
"""Fields of `config.hybrid`, with what holds where one is left out: the paper's best (Table V)."""

NUMBERS = tuple(f"hybrid.{name}" for name in ("shares", "epsilon", "alpha", "beta", "gamma"))
"""Fields of the config that are numbers in the task's pytree, and may differ in a sweep."""

LOSSES = ("hybrid", "cross_entropy")
REDUCTIONS = ("mean", "sum")
EQUATIONS = ("sensible", "literal")

TARGETS = (*GRADES, *DERIVED)
"""What may be learnt: the batch tells the classes of these by its grades."""

usable = one_target.usable


class Subsets(NamedTuple):
    """The knees of a batch by confidence, bool [batch] each; no knee is in two of them."""

    high: jax.Array
    medium: jax.Array
    low: jax.Array


def partition(
    confidence: jax.Array, classes: jax.Array, known: jax.Array, shares: jax.Array | np.ndarray
) -> Subsets:
    """Divides the knees of each class by confidence (section II-B).

    Of the n knees of a class in the batch, max(1, round(share_L n)) of the lowest confidence are
    `low` where n >= 3, else none; round(share_H n) of the highest are `high`, as far as `low` has
    not taken them; the others are `medium`. Halves round up. A share of 0 has no knee. So with
    7:2:1, n = 1 is high; n = 2 high and medium; n = 3 high, high, low.

    Args:
        confidence: [batch], any increasing function of c_s (eq. 2); of equal ones the earlier in
            the batch ranks higher.
        classes: int [batch].
        known: bool [batch], False for knees that are in no subset.
        shares: [3], of high, medium and low, in any unit; the rounding of halves is exact for
            whole numbers.
    """
    position = jnp.arange(len(confidence))
    same = known[:, None] & known & (classes[:, None] == classes)
    ahead = (confidence > confidence[:, None]) | (
        (confidence == confidence[:, None]) & (position < position[:, None])
    )
    rank = (same & ahead).sum(axis=1)
    number = same.sum(axis=1)
    from_below = number - 1 - rank

    # rank < round(share n), without a division that might miss a half.
    def among_first(place: jax.Array, share: jax.Array) -> jax.Array:
        return (place + 0.5) * jnp.sum(shares) <= share * number

    low = among_first(from_below, shares[2]) | ((from_below == 0) & (shares[2] > 0))
    low = known & low & (number >= 3)
    high = known & among_first(rank, shares[0]) & ~low
    return Subsets(high, known & ~high & ~low, low)


def smoothed_cross_entropy(
    log_p: jax.Array, classes: jax.Array, epsilon: jax.Array | np.ndarray | float
) -> jax.Array:
    """Cross-entropy of log-probabilities [batch, K] with labels (1 - epsilon) one-hot + epsilon/K.

    Eq. 3 and 5, with `y_hot` the one-hot label of every class.
    """
    num_classes = log_p.shape[1]
    smooth = jax.nn.one_hot(classes, num_classes) * (1 - epsilon) + epsilon / num_classes
    return -(smooth * log_p).sum(axis=1)


def divergence(log_p: jax.Array, classes: jax.Array, confidence: jax.Array) -> jax.Array:
    """Kullback-Leibler divergence KL(target || p), [batch].

    Eq. 7 to 9 with a target over all classes: c_k for a knee's own class k, and what is left in
    equal parts for the others.

    Args:
        log_p: [batch, K], log-probabilities.
        classes: int [batch].
        confidence: [K], c_k.
    """
    num_classes = log_p.shape[1]
    own = confidence[classes][:, None]
    one_hot = jax.nn.one_hot(classes, num_classes, dtype=bool)
    target = jnp.where(one_hot, own, (1 - own) / (num_classes - 1))
    return (xlogy(target, target) - target * log_p).sum(axis=1)


@flax.struct.dataclass
class EarlyDetection(OneTarget):
    """One target with the hybrid loss; a pytree, whose numbers may differ between members.

    Two readings of the equations, by `equations`:

        sensible  labels are the true classes: `smoothed_cross_entropy` on the knees of high
                  confidence, `divergence` on those of medium, cross-entropy on those of low.
        literal   as printed: y_hot is 1 where the predicted class is right and else 0 (eq. 4). Of
                  knees that are predicted wrongly, those of medium and low confidence then have no
                  loss at all, and those of high confidence the weight epsilon/2 (for any number of
                  classes). Where the prediction is right, eq. 7 is log(c_k / c_s): it may be
                  negative, and its gradient is that of cross-entropy, whatever c_k is.

    Neither ranks nor c_k have a gradient.

    Attributes:
        shares: lambda, float32 [3]: of high, medium and low confidence.
        epsilon: of label smoothing.
        alpha, beta, gamma: weights of the three losses (eq. 11).
        warmup_epochs: until then the loss is plain cross-entropy.
        initial_confidence: c_k before the first validation.
        target: what the model reads.
        kind: 'hybrid', or 'cross_entropy', which knows no confidence.
        reduction: 'mean' or 'sum' over a subset, its knees of all classes taken together.
        equations: 'sensible' or 'literal'.
        selection: one of `SELECTIONS`, on the validation knees.
    """

    shares: np.ndarray
    epsilon: np.ndarray
    alpha: np.ndarray
    beta: np.ndarray
    gamma: np.ndarray
    warmup_epochs: np.ndarray
    initial_confidence: np.ndarray
    target: str = flax.struct.field(pytree_node=False, default="kl0_vs_kl2")
    kind: str = flax.struct.field(pytree_node=False, default="hybrid")
    reduction: str = flax.struct.field(pytree_node=False, default="mean")
    equations: str = flax.struct.field(pytree_node=False, default="sensible")
    selection: str = flax.struct.field(pytree_node=False, default="accuracy")

    def initial_memory(self) -> dict[str, jax.Array]:
        """What holds before the first validation: see `Memory`; empty without the hybrid loss."""
        if self.kind == "cross_entropy":
            return {}
        number = NUM_CLASSES[self.target]
        return {"confidence": jnp.full(number, self.initial_confidence, jnp.float32)}

    def remember(self, table: pd.DataFrame) -> dict[str, np.ndarray]:
        """The mean confidence c_k of each class on the validation knees (eq. 6).

        Args:
            table: predictions table of the validation knees.

        Raises:
            UserError: a class has no knee in it.
        """
        if self.kind == "cross_entropy":
            return {}
        classes, confidence = one_target.confidence(table, self.target)
        one_target.refuse_absent("validation", classes, self.target)
        number = NUM_CLASSES[self.target]
        means = [confidence[classes == c].mean() for c in range(number)]
        # A rounded probability may exceed 1 by a digit.
        return {"confidence": np.clip(means, 0, 1).astype(np.float32)}

    def loss(
        self,
        outputs: Outputs,
        batch: Mapping[str, jax.Array],
        epoch: jax.Array | float,
        memory: Memory,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The training loss (eq. 11) of a batch.

        Args:
            outputs: of the model.
            batch: uses `grades` int [batch, 7] and `mask` bool [batch]; masked knees count nowhere,
                whatever their logits are, and neither do those that belong to no class.
            epoch: passes over the training knees so far; may be traced.
            memory: of `initial_memory` or `remember`; may be traced.

        Returns:
            float32 scalar, NaN where an unmasked knee has a NaN; and its parts by name:
            `cross_entropy` of all knees, and for the hybrid loss `high_confidence`,
            `medium_confidence` and `low_confidence`, before they are weighted. A subset without a
            knee has the loss 0.
        """
        label = labels(batch["grades"], self.target)
        mask = batch["mask"]
        known = mask & (label != MISSING)
        classes = jnp.where(known, label, 0).astype(jnp.int32)
        logits = jnp.where(mask[:, None], outputs[self.target].astype(jnp.float32), 0.0)
        log_p = jax.nn.log_softmax(logits)
        # The logarithm of c_s (eq. 2), which ranks as c_s does where that is rounded to 0 or 1.
        log_c = jnp.take_along_axis(log_p, classes[:, None], axis=1)[:, 0]

        parts = {"cross_entropy": self._reduce(-log_c, known)}
        if self.kind == "cross_entropy":
            return parts["cross_entropy"], parts

        subsets = partition(jax.lax.stop_gradient(log_c), classes, known, jnp.asarray(self.shares))
        confidence = jax.lax.stop_gradient(jnp.asarray(memory["confidence"]))
        if self.equations == "literal":
            high, medium, low = self._literal(log_p, log_c, classes, confidence)
        else:
            high = smoothed_cross_entropy(log_p, classes, self.epsilon)
            medium = divergence(log_p, classes, confidence)
            low = -log_c
        parts["high_confidence"] = self._reduce(high, subsets.high)
        parts["medium_confidence"] = self._reduce(medium, subsets.medium)
        parts["low_confidence"] = self._reduce(low, subsets.low)
        hybrid = (
            self.alpha * parts["high_confidence"]
            + self.beta * parts["medium_confidence"]
            + self.gamma * parts["low_confidence"]
        )
        warm = jnp.asarray(epoch) < self.warmup_epochs
        return jnp.where(warm, parts["cross_entropy"], hybrid), parts

    def _literal(
        self, log_p: jax.Array, log_c: jax.Array, classes: jax.Array, confidence: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The summands of eq. 5, 7 and 10 as printed, [batch] each."""
        right = (log_p.argmax(axis=1) == classes).astype(jnp.float32)  # y_hot, eq. 4.
        high = -(right * (1 - self.epsilon) + self.epsilon / 2) * log_c
        # Where y_hot is not 0, p_target and p_s are c_k and c_s (eq. 8 and 9).
        medium = right * (jnp.log(jnp.maximum(confidence[classes], TINY)) - log_c)
        return high, medium, -right * log_c

    def _reduce(self, losses: jax.Array, chosen: jax.Array) -> jax.Array:
        # A product, so that NaN in a knee of no subset shows.
        total = (chosen * losses).sum()
        return total if self.reduction == "sum" else total / jnp.maximum(chosen.sum(), 1)


def settings(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config's fields of this task, and defaults for those that it leaves out."""
    return ml_collections.ConfigDict(
        {
            "loss": config.get("loss", "hybrid"),
            "selection": config.get("selection", "accuracy"),
            "hybrid": HYBRID | dict(config.get("hybrid", {})),
        }
    )


def check(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for a field of this task that has no meaning, or that it would ignore."""
    if len(config.grades) != 1 or config.grades[0] not in TARGETS:
        raise UserError(
            f"config.grades = {tuple(config.grades)}: one target, of {', '.join(TARGETS)}"
        )
    fields = settings(config)
    hybrid = fields.hybrid
    if unknown := sorted(set(hybrid) - set(HYBRID)):
        raise UserError(
            f"config.hybrid has no {', '.join(unknown)}: choose from {', '.join(HYBRID)}"
        )
    for name, value, choices in (
        ("loss", fields.loss, LOSSES),
        ("selection", fields.selection, SELECTIONS),
        ("hybrid.reduction", hybrid.reduction, REDUCTIONS),
        ("hybrid.equations", hybrid.equations, EQUATIONS),
    ):
        if value not in choices:
            raise UserError(f"config.{name} = {value!r}: choose {' or '.join(choices)}")
    if not _are_shares(hybrid.shares):
        raise UserError(
            f"config.hybrid.shares = {hybrid.shares!r}: three numbers of 0 or more, not all 0, of "
            "high, medium and low confidence"
        )
    for name in ("alpha", "beta", "gamma", "warmup_epochs"):
        if not is_number(hybrid[name]) or hybrid[name] < 0:
            raise UserError(f"config.hybrid.{name} = {hybrid[name]!r}: a number of 0 or more")
    if not (hybrid.alpha or hybrid.beta or hybrid.gamma):
        raise UserError("config.hybrid: alpha, beta and gamma are all 0; one must be above it")
    if not is_number(hybrid.epsilon) or not 0 <= hybrid.epsilon < 1:
        raise UserError(f"config.hybrid.epsilon = {hybrid.epsilon!r}: from 0 to below 1")
    confidence = hybrid.initial_confidence
    if not is_number(confidence) or not 0 < confidence <= 1:
        raise UserError(f"config.hybrid.initial_confidence = {confidence!r}: above 0, up to 1")
    one_target.refuse_ignored(config, "early_detection")


def _are_shares(values: Any) -> bool:
    return (
        isinstance(values, Sequence)
        and len(values) == 3
        and all(is_number(value) and value >= 0 for value in values)
        and sum(values) > 0
    )


def check_part(
    name: str, index: pd.DataFrame, rows: np.ndarray, config: ml_collections.ConfigDict
) -> None:
    """Raises UserError where a class has no knee among the training or the validation knees.

    Args:
        name: 'train', 'validation' or 'test'.
        index: the prepared set's index.
        rows: int64 [n], its rows of that part that are `usable`.
        config: see `configs/`.
    """
    if name != "test":
        target = config.grades[0]
        one_target.refuse_absent(name, labels(index.iloc[rows], target), target)


def make(
    config: ml_collections.ConfigDict,
    statistics: Statistics,
    grades: np.ndarray,
    mixture: coherence.Mixture | None = None,
) -> EarlyDetection:
    """The task of a config.

    Args:
        config: see `configs/`.
        statistics: of the training knees; without use here, as are the next two.
        grades: int [n, 7], of the training knees.
        mixture: of another task.
    """
    fields = settings(config)
    numbers = ("epsilon", "alpha", "beta", "gamma", "warmup_epochs", "initial_confidence")
    return EarlyDetection(
        shares=np.asarray(fields.hybrid.shares, np.float32),
        **{name: np.asarray(fields.hybrid[name], np.float32) for name in numbers},
        target=config.grades[0],
        kind=fields.loss,
        reduction=fields.hybrid.reduction,
        equations=fields.hybrid.equations,
        selection=fields.selection,
    )
