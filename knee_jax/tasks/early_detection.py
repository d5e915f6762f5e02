"""Task of one radiographic target with the hybrid confidence loss (Wang et al., section II).

In each batch the knees of a class are ranked by the probability that the network gives their true
class, and divided by a ratio into those of high, medium and low confidence. Each subset has its own
loss: label smoothing, the divergence from the class's mean confidence on the validation knees, and
cross-entropy. The target is KL 0 against KL 2 in the paper; any other grade or target made from one
is possible.

The printed equations 4 and 7 to 10 derive labels from whether a prediction is right; `equations`
selects the reading that is computed, see `EarlyDetection`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.scipy.special import xlogy

from knee_jax.config.fields import option
from knee_jax.config.schema import Data
from knee_jax.errors import UserError
from knee_jax.metrics.grade_coherence import Mixture
from knee_jax.targets.grades import GRADES
from knee_jax.targets.kinds import MISSING, Target
from knee_jax.tasks import one_target
from knee_jax.tasks.one_target import SELECTIONS, TINY, OneTarget, OneTargetSettings
from knee_jax.tasks.protocols import Labels, Outputs, ValidationStats


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hybrid:
    """The hybrid confidence loss; the defaults are the paper's best (Table V)."""

    shares: tuple[float, float, float] = option(
        (7, 2, 1),
        "Lambda: shares of the knees of a class that are of high, medium and low confidence.",
        low=0,
    )
    epsilon: float = option(
        0.15, "Label smoothing of the knees of high confidence.", low=0, below=1
    )
    alpha: float = option(0.4, "Weight of the loss of high confidence (eq. 11).", low=0)
    beta: float = option(0.5, "Weight of the loss of medium confidence.", low=0)
    gamma: float = option(0.1, "Weight of the loss of low confidence.", low=0)
    reduction: str = option(
        "mean", "Over the knees of a subset, all classes together.", choices=("mean", "sum")
    )
    equations: str = option(
        "sensible",
        "Reading of equations 3 to 10: labels are the true classes, or as printed.",
        choices=("sensible", "literal"),
    )
    warmup_epochs: float = option(1.0, "Epochs of plain cross-entropy at the start.", low=0)
    initial_confidence: float = option(
        0.85, "Mean confidence of a class before the first validation.", above=0, high=1
    )


NUMBERS = ("shares", "epsilon", "alpha", "beta", "gamma")
"""Fields of `Hybrid` that are numbers in the task's pytree, and may differ in a sweep."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(OneTargetSettings):
    """The part `task` of a config of name `early_detection`."""

    name: ClassVar[str] = "early_detection"
    swept: ClassVar[tuple[str, ...]] = tuple(f"hybrid.{name}" for name in NUMBERS)

    loss: str = option(
        "hybrid", "Loss; the second knows no confidence.", choices=("hybrid", "cross_entropy")
    )
    label_smoothing: float = option(
        0.0,
        "Share of a label that the cross-entropy gives to all classes in equal parts; the hybrid "
        "loss has `hybrid.epsilon`.",
        low=0,
        below=1,
    )
    selection: str = option(
        "accuracy", "What chooses the best checkpoint on validation knees.", choices=SELECTIONS
    )
    hybrid: Hybrid = dataclasses.field(default_factory=Hybrid)

    def check(self, targets: Sequence[Target], data: Data) -> None:
        """Raise UserError for targets or data that the task cannot use, or would ignore."""
        target = one_target.the_target(targets, self.loss, self.name)
        if target.source not in GRADES:
            raise UserError(
                f"config.targets = ('{target.name}',): the task {self.name} learns a grade or a "
                "target made of one"
            )
        if not sum(self.hybrid.shares):
            raise UserError(f"config.task.hybrid.shares = {self.hybrid.shares}: all are 0")
        if not (self.hybrid.alpha or self.hybrid.beta or self.hybrid.gamma):
            raise UserError(
                "config.task.hybrid: alpha, beta and gamma are all 0; one must be above it"
            )
        one_target.refuse_unlabelled(data, self.name)

    def check_part(self, part: str, index: pd.DataFrame, targets: Sequence[Target]) -> None:
        """Raise UserError if a class has no training or validation knee."""
        if part != "test":
            target = one_target.the_target(targets, self.loss, self.name)
            one_target.refuse_absent(part, target.labels(index), target)

    def make(
        self,
        targets: Sequence[Target],
        counts: Mapping[str, Sequence[int]],
        labels: Mapping[str, np.ndarray],
        seed: int,
        mixture: Mixture | None = None,
    ) -> "EarlyDetection":
        """Make the task of a run; see `protocols.Settings`."""
        numbers = (*NUMBERS, "warmup_epochs", "initial_confidence")
        return EarlyDetection(
            **{name: np.asarray(getattr(self.hybrid, name), np.float32) for name in numbers},
            target=targets[0].name,
            kind_of_loss=self.loss,
            label_smoothing=float(self.label_smoothing),
            reduction=self.hybrid.reduction,
            equations=self.hybrid.equations,
            selection=self.selection,
        )


class Subsets(NamedTuple):
    """Knees of a batch by confidence, bool [batch] each; no knee is in two of them."""

    high: jax.Array
    medium: jax.Array
    low: jax.Array


def partition(
    confidence: jax.Array, classes: jax.Array, known: jax.Array, shares: jax.Array | np.ndarray
) -> Subsets:
    """Divide the knees of each class by confidence (section II-B).

    Of the n knees of a class in the batch, max(1, round(share_L n)) of the lowest confidence are
    `low` if n >= 3, otherwise none; round(share_H n) of the highest are `high`, as far as `low` has
    not taken them; the others are `medium`. Halves round up. A share of 0 has no knee. So with
    7:2:1, n = 1 is high; n = 2 high and medium; n = 3 high, high, low.

    Args:
        confidence: Any increasing function of c_s (eq. 2), [batch]; of equal ones the earlier in
            the batch ranks higher.
        classes: Classes, int [batch].
        known: Whether each knee counts, bool [batch]; others are in no subset.
        shares: Shares of high, medium and low, [3], in any unit; the rounding of halves is exact
            for whole numbers.
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
    """Return the cross-entropy of log-probabilities [batch, K] with smoothed labels, [batch].

    The labels are (1 - epsilon) one-hot + epsilon/K: eqs. 3 and 5, with `y_hot` the one-hot label
    of every class.
    """
    num_classes = log_p.shape[1]
    smooth = jax.nn.one_hot(classes, num_classes) * (1 - epsilon) + epsilon / num_classes
    return -(smooth * log_p).sum(axis=1)


def divergence(log_p: jax.Array, classes: jax.Array, confidence: jax.Array) -> jax.Array:
    """Return the Kullback-Leibler divergence KL(target || p), [batch].

    These are eqs. 7 to 9 with a target over all classes: c_k for a knee's own class k, and the
    remainder in equal parts for the others.

    Args:
        log_p: Log-probabilities, [batch, K].
        classes: Classes, int [batch].
        confidence: Mean confidence c_k of each class, [K].
    """
    num_classes = log_p.shape[1]
    own = confidence[classes][:, None]
    one_hot = jax.nn.one_hot(classes, num_classes, dtype=bool)
    target = jnp.where(one_hot, own, (1 - own) / (num_classes - 1))
    return (xlogy(target, target) - target * log_p).sum(axis=1)


@flax.struct.dataclass
class EarlyDetection(OneTarget):
    """One target with the hybrid loss; a pytree, whose numbers may differ between members.

    There are two readings of the equations, selected by `equations`:

        sensible  labels are the true classes: `smoothed_cross_entropy` on the knees of high
                  confidence, `divergence` on those of medium, cross-entropy on those of low.
        literal   as printed: y_hot is 1 where the predicted class is right and else 0 (eq. 4). Of
                  knees that are predicted wrongly, those of medium and low confidence then have no
                  loss at all, and those of high confidence the weight epsilon/2 (for any number of
                  classes). Where the prediction is right, eq. 7 is log(c_k / c_s): it may be
                  negative, and its gradient is that of cross-entropy, whatever c_k is.

    Neither ranks nor c_k have a gradient.

    Attributes:
        shares: Lambda, shares of high, medium and low confidence, float32 [3].
        epsilon: Epsilon of label smoothing.
        alpha, beta, gamma: Weights of the three losses (eq. 11).
        warmup_epochs: Number of epochs of plain cross-entropy at the start.
        initial_confidence: Value of c_k before the first validation.
        target: Name of the target.
        kind_of_loss: Loss, 'hybrid', or 'cross_entropy', which ignores confidence.
        label_smoothing: Share of a label that the cross-entropy gives to all classes.
        reduction: Reduction over a subset, 'mean' or 'sum', its knees of all classes taken
            together.
        equations: Reading of the equations, 'sensible' or 'literal'.
        selection: Criterion of `SELECTIONS` on the validation knees.
    """

    shares: np.ndarray
    epsilon: np.ndarray
    alpha: np.ndarray
    beta: np.ndarray
    gamma: np.ndarray
    warmup_epochs: np.ndarray
    initial_confidence: np.ndarray
    target: str = flax.struct.field(pytree_node=False, default="kl0_vs_kl2")
    kind_of_loss: str = flax.struct.field(pytree_node=False, default="hybrid")
    label_smoothing: float = flax.struct.field(pytree_node=False, default=0.0)
    reduction: str = flax.struct.field(pytree_node=False, default="mean")
    equations: str = flax.struct.field(pytree_node=False, default="sensible")
    selection: str = flax.struct.field(pytree_node=False, default="accuracy")

    def initial_validation_stats(self) -> dict[str, jax.Array]:
        """Return `confidence` float32 [classes], c_k of eq. 6, before the first validation.

        Without the hybrid loss the result is empty.
        """
        if self.kind_of_loss == "cross_entropy":
            return {}
        number = self.kind.num_outputs
        return {"confidence": jnp.full(number, self.initial_confidence, jnp.float32)}

    def validation_stats(self, table: pd.DataFrame) -> dict[str, np.ndarray]:
        """Return the mean confidence c_k of each class on the validation knees (eq. 6).

        Args:
            table: Predictions table of the validation knees.

        Raises:
            UserError: A class has no knee in the table.
        """
        if self.kind_of_loss == "cross_entropy":
            return {}
        target = self.kind
        known = table[target.is_known(table[target.name])]
        classes, confidence = target.true_class_probability(known)
        one_target.refuse_absent("validation", classes, target)
        means = [confidence[classes == c].mean() for c in range(target.num_outputs)]
        # A rounded probability may exceed 1 by a digit.
        return {"confidence": np.clip(means, 0, 1).astype(np.float32)}

    def loss(
        self,
        outputs: Outputs,
        labels: Labels,
        mask: jax.Array,
        epoch: jax.Array | float,
        stats: ValidationStats,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return the training loss (eq. 11) of a batch, and its parts by name.

        Knees that belong to no class do not count, and neither do masked ones.

        Returns:
            Loss, float32 scalar, NaN if an unmasked knee has a NaN; and its parts: `cross_entropy`
            of all knees, and for the hybrid loss `high_confidence`, `medium_confidence` and
            `low_confidence`, before weighting. A subset without a knee has loss 0.
        """
        label = labels[self.target]
        known = mask & (label != MISSING)
        classes = jnp.where(known, label, 0).astype(jnp.int32)
        logits = jnp.where(mask[:, None], outputs[self.target].astype(jnp.float32), 0.0)
        log_p = jax.nn.log_softmax(logits)
        # The logarithm of c_s (eq. 2), which ranks as c_s does even where that is rounded to 0 or
        # 1.
        log_c = jnp.take_along_axis(log_p, classes[:, None], axis=1)[:, 0]

        parts = {"cross_entropy": self._reduce(-log_c, known)}
        if self.kind_of_loss == "cross_entropy":
            if not self.label_smoothing:
                return parts["cross_entropy"], parts
            smoothed = smoothed_cross_entropy(log_p, classes, self.label_smoothing)
            return self._reduce(smoothed, known), parts

        subsets = partition(jax.lax.stop_gradient(log_c), classes, known, jnp.asarray(self.shares))
        confidence = jax.lax.stop_gradient(jnp.asarray(stats["confidence"]))
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
        """Return the summands of eqs. 5, 7 and 10 as printed, [batch] each."""
        right = (log_p.argmax(axis=1) == classes).astype(jnp.float32)  # y_hot, eq. 4.
        high = -(right * (1 - self.epsilon) + self.epsilon / 2) * log_c
        # Where y_hot is not 0, p_target and p_s are c_k and c_s (eqs. 8 and 9).
        medium = right * (jnp.log(jnp.maximum(confidence[classes], TINY)) - log_c)
        return high, medium, -right * log_c

    def _reduce(self, losses: jax.Array, chosen: jax.Array) -> jax.Array:
        # A product, so that a NaN in a knee of no subset shows.
        total = (chosen * losses).sum()
        return total if self.reduction == "sum" else total / jnp.maximum(chosen.sum(), 1)
