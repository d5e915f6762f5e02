"""Task of several grades of one radiograph at once: loss, predictions and selection.

Zheng et al. 2021, section 2: one classification head per grade, prevalence-weighted cross-entropy,
summed over the grades (eq. 1, whose minus sign is a mistake: cross-entropy is minimised), and the
incoherence of the predicted grades (eq. 4), for which no label is needed. Tiulpin & Saarakkala 2020
take the plain mean over the grades, and select by it.
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
from knee_jax.metrics import grade_coherence
from knee_jax.metrics.predictions import make_table
from knee_jax.targets.grades import GRADES
from knee_jax.targets.kinds import MISSING, Classes, Continuous, Ordinal, Target
from knee_jax.tasks import coherence_loss
from knee_jax.tasks.protocols import Labels, Outputs, ValidationStats


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coherence:
    """Incoherence of the seven predicted grades (Zheng et al. 2021, section 2.2)."""

    weight: float = option(0.0, "Lambda_gmm of eq. 5; 0: the incoherence is left out.", low=0)
    temperature: float = option(0.5, "Tau of eq. 4.", above=0)
    components: int = option(
        grade_coherence.NUM_COMPONENTS, "Components of the mixture (eq. 2).", low=1
    )
    sigma: float = option(
        grade_coherence.SIGMA, "Standard deviation of the noise on the one-hot codes.", above=0
    )
    replicas: int = option(
        grade_coherence.NUM_REPLICAS, "Noisy copies of each knee that are fitted.", low=1
    )
    warmup_epochs: float = option(1.0, "Epochs before the incoherence counts.", low=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The part `task` of a config of name `grading`, by default as in Zheng et al. 2021."""

    name: ClassVar[str] = "grading"
    swept: ClassVar[tuple[str, ...]] = ()

    class_weights: str = option(
        "none",
        "Weight of a class in the loss: by prevalence, each class contributing alike, or none.",
        choices=("prevalence", "none"),
    )
    reduction: str = option(
        "sum", "How the losses of the targets are combined (eq. 1: sum).", choices=("sum", "mean")
    )
    selection: str = option(
        "mean_accuracy",
        "What chooses the best checkpoint on validation knees: the accuracy averaged over the "
        "targets, or the lowest loss.",
        choices=("mean_accuracy", "loss"),
    )
    classification_weight: float = option(1.0, "Lambda_cls of eq. 5.", low=0)
    label_smoothing: float = option(
        0.0, "Share of a label that is given to all classes in equal parts.", low=0, below=1
    )
    ordinal_weight: float = option(
        0.0,
        "Weight of the loss of Chen et al. 2019, which penalises probabilities of distant grades.",
        low=0,
    )
    regression_weight: float = option(
        1.0, "Weight of the squared error of a network with regression outputs.", low=0
    )
    coherence: Coherence = dataclasses.field(default_factory=Coherence)

    def check(self, targets: Sequence[Target], data: Data) -> None:
        """Raise UserError for targets that the task cannot use."""
        names = [target.name for target in targets]
        if not names:
            raise UserError("config.targets names no target: name at least one")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"config.targets names {', '.join(twice)} more than once")
        if self.coherence.weight and (absent := [g for g in GRADES if g not in names]):
            raise UserError(
                f"config.targets lacks {', '.join(absent)}: coherence is of all seven grades; add "
                "them, or set config.task.coherence.weight = 0"
            )
        for target in targets:
            if self.selection == "mean_accuracy" and "accuracy" not in target.selections:
                raise UserError(
                    f"config.task.selection = 'mean_accuracy': {target.name} is no class; set "
                    "'loss'"
                )

    def usable(self, index: pd.DataFrame, targets: Sequence[Target]) -> np.ndarray:
        """Return which knees of an index have a label of at least one target, bool [n]."""
        known = [target.is_known(target.labels(index)) for target in targets]
        return np.asarray(np.any(known, axis=0))

    def check_part(self, part: str, index: pd.DataFrame, targets: Sequence[Target]) -> None:
        """Accept any part."""

    def make(
        self,
        targets: Sequence[Target],
        counts: Mapping[str, Sequence[int]],
        labels: Mapping[str, np.ndarray],
        seed: int,
        mixture: grade_coherence.Mixture | None = None,
    ) -> "Grading":
        """Make the task of a run; see `protocols.Settings`.

        Raises:
            UserError: There are too few training knees for the mixture of the coherence.
        """
        weigh = prevalence_weights if self.class_weights == "prevalence" else uniform_weights
        if mixture is None and self.coherence.weight:
            mixture = grade_coherence.fit(
                np.stack([labels[grade] for grade in GRADES], axis=1),
                num_components=self.coherence.components,
                sigma=self.coherence.sigma,
                num_replicas=self.coherence.replicas,
                seed=seed,
            )
        return Grading(
            class_weights={
                t.name: weigh(counts[t.name]) for t in targets if isinstance(t, Classes)
            },
            mixture=mixture,
            targets=tuple(target.name for target in targets),
            reduction=self.reduction,
            selection=self.selection,
            classification_weight=float(self.classification_weight),
            label_smoothing=float(self.label_smoothing),
            ordinal_weight=float(self.ordinal_weight),
            regression_weight=float(self.regression_weight),
            coherence_weight=float(self.coherence.weight),
            temperature=float(self.coherence.temperature),
            warmup_epochs=float(self.coherence.warmup_epochs),
        )


def prevalence_weights(counts: Sequence[int]) -> np.ndarray:
    """Return class weights w_c = N / (C n_c), float32 [classes]; zero for a class without a knee.

    This is the multi-class form of the weighting in Rajpurkar et al. 2017 (CheXNet), which Zheng et
    al. 2021 cite: every class contributes equally.
    """
    number = np.asarray(counts, np.float64)
    seen = number > 0
    weights = np.zeros_like(number)
    weights[seen] = number.sum() / (len(number) * number[seen])
    return weights.astype(np.float32)


def uniform_weights(counts: Sequence[int]) -> np.ndarray:
    """Return ones, so that every knee contributes equally."""
    return np.ones(len(counts), np.float32)


def weighted_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    class_weights: jax.Array | np.ndarray,
    mask: jax.Array,
    smoothing: float = 0.0,
) -> jax.Array:
    """Return the mean cross-entropy, weighted by the class of each label.

    The mean is normalised by the sum of the weights, as in PyTorch; without a labelled knee it is
    zero.

    Args:
        logits: Logits, [batch, classes].
        labels: Labels, int [batch], `MISSING` allowed.
        class_weights: Weight of each class, [classes].
        mask: Whether each knee counts, bool [batch], whatever its logits are.
        smoothing: Share of a label that is given to all classes in equal parts.

    Returns:
        Loss, float32 scalar; NaN if a knee that counts has a NaN, labelled or not.
    """
    known = mask & (labels != MISSING)
    labels = jnp.where(known, labels, 0).astype(jnp.int32)
    logits = jnp.where(mask[:, None], logits.astype(jnp.float32), 0.0)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if smoothing:
        of_all = -jax.nn.log_softmax(logits).mean(axis=1)
        losses = (1 - smoothing) * losses + smoothing * of_all
    weights = jnp.where(known, jnp.asarray(class_weights)[labels], 0.0)
    return _mean(losses, weights)


def ordinal_loss(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """Return the mean ordinal loss of Chen et al. 2019.

    Of "Fully automatic knee osteoarthritis severity grading using deep neural networks with a novel
    ordinal loss": the sum over the other grades of (penalty x probability)^2, where the penalty
    grows with the distance from the label: 4, 6, 8, 10 (the second of the matrices in their code).

    Args:
        logits: Logits, [batch, classes].
        labels: Labels, int [batch], `MISSING` allowed.
        mask: Whether each knee counts, bool [batch], whatever its logits are.
    """
    known = mask & (labels != MISSING)
    labels = jnp.where(known, labels, 0).astype(jnp.int32)
    probabilities = jax.nn.softmax(jnp.where(mask[:, None], logits.astype(jnp.float32), 0.0))
    distance = jnp.abs(jnp.arange(logits.shape[1]) - labels[:, None])
    penalty = jnp.where(distance == 0, 0.0, 2.0 + 2.0 * distance)
    losses = jnp.square(penalty * probabilities).sum(axis=1)
    return _mean(losses, known.astype(jnp.float32))


def squared_error(values: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """Return the mean squared distance of values [batch] from labels, NaN where missing."""
    known = mask & (labels == labels)
    values = jnp.where(mask, values.astype(jnp.float32), 0.0)
    return _mean(jnp.square(values - jnp.where(known, labels, 0.0)), known.astype(jnp.float32))


def _mean(losses: jax.Array, weights: jax.Array) -> jax.Array:
    total = weights.sum()
    return (weights * losses).sum() / jnp.where(total > 0, total, 1.0)


@flax.struct.dataclass
class Grading:
    """Grading of several targets at once; a pytree, to be passed to compiled functions.

    Class targets have the weighted cross-entropy, continuous ones the squared error in units of
    their scale.

    Attributes:
        class_weights: `prevalence_weights` or `uniform_weights` of each class target, float32
            [classes].
        mixture: Mixture of the coherence, float64 on the host, or None.
        targets: Names of the targets that the network reads.
        reduction: Reduction of the targets' losses, 'sum' or 'mean'.
        selection: Criterion on the validation knees, 'mean_accuracy' or 'loss'.
        classification_weight: Lambda_cls of eq. 5.
        label_smoothing: Share of a label that is given to all classes in equal parts.
        ordinal_weight: Weight of `ordinal_loss`.
        regression_weight: Weight of the squared error of a network with regression outputs.
        coherence_weight: Lambda_gmm of eq. 5; 0: the incoherence is not computed.
        temperature: Tau of eq. 4.
        warmup_epochs: Epoch from which the incoherence counts.
    """

    class_weights: Mapping[str, np.ndarray]
    mixture: grade_coherence.Mixture | None = None
    targets: tuple[str, ...] = flax.struct.field(pytree_node=False, default=GRADES)
    reduction: str = flax.struct.field(pytree_node=False, default="sum")
    selection: str = flax.struct.field(pytree_node=False, default="mean_accuracy")
    classification_weight: float = flax.struct.field(pytree_node=False, default=1.0)
    label_smoothing: float = flax.struct.field(pytree_node=False, default=0.0)
    ordinal_weight: float = flax.struct.field(pytree_node=False, default=0.0)
    regression_weight: float = flax.struct.field(pytree_node=False, default=1.0)
    coherence_weight: float = flax.struct.field(pytree_node=False, default=0.0)
    temperature: float = flax.struct.field(pytree_node=False, default=0.5)
    warmup_epochs: float = flax.struct.field(pytree_node=False, default=1.0)

    @property
    def score_name(self) -> str:
        """Name of the result of `score`."""
        if self.selection == "mean_accuracy":
            return "mean_accuracy"
        measured = all_targets.of_kind(self.targets, Continuous)
        return "minus_loss" if measured else "minus_cross_entropy"

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
        """Return the training loss (eq. 5) of a batch, and its parts by name.

        The parts are `classification`; `ordinal`, if it has a weight; `measurement`, for continuous
        targets; `regression`, if the network has such outputs; `incoherence` and `log_density`, if
        they have a weight, even before they count; and `labelled`, the share of knees with a label
        that counts.
        """
        reduce = jnp.sum if self.reduction == "sum" else jnp.mean
        parts: dict[str, jax.Array] = {}
        loss = jnp.float32(0.0)
        kinds = all_targets.get_all(self.targets)

        classes = all_targets.of_kind(self.targets, Classes)
        if classes:
            losses = [
                weighted_cross_entropy(
                    outputs[t.name],
                    labels[t.name],
                    self.class_weights[t.name],
                    mask,
                    self.label_smoothing,
                )
                for t in classes
            ]
            parts["classification"] = reduce(jnp.stack(losses))
            loss = loss + self.classification_weight * parts["classification"]

        graded = all_targets.of_kind(self.targets, Ordinal)
        if graded and self.ordinal_weight:
            losses = [ordinal_loss(outputs[t.name], labels[t.name], mask) for t in graded]
            parts["ordinal"] = reduce(jnp.stack(losses))
            loss = loss + self.ordinal_weight * parts["ordinal"]

        if measured := all_targets.of_kind(self.targets, Continuous):
            losses = [
                squared_error(outputs[t.name][:, 0], t.standardise(labels[t.name]), mask)
                for t in measured
            ]
            parts["measurement"] = reduce(jnp.stack(losses))
            loss = loss + parts["measurement"]

        if regressed := [target.name for target in classes if f"{target.name}_value" in outputs]:
            losses = [
                squared_error(outputs[f"{g}_value"], _without_missing(labels[g]), mask)
                for g in regressed
            ]
            parts["regression"] = reduce(jnp.stack(losses))
            loss = loss + self.regression_weight * parts["regression"]

        if self.coherence_weight and self.mixture is not None:
            active = jnp.asarray(epoch) >= self.warmup_epochs
            parts |= self._incoherence(self.mixture, outputs, mask, active)
            loss = loss + jnp.where(active, self.coherence_weight * parts["incoherence"], 0.0)

        known = jnp.stack([target.is_known(labels[target.name]) for target in kinds]).any(0)
        parts["labelled"] = (mask & known).sum() / jnp.maximum(mask.sum(), 1)
        return loss, parts

    def _incoherence(
        self, mixture: grade_coherence.Mixture, outputs: Outputs, mask: jax.Array, active: jax.Array
    ) -> dict[str, jax.Array]:
        """Return means over the unmasked knees; without a gradient unless `active`."""
        logits = {g: jnp.where(mask[:, None], outputs[g], 0.0) for g in GRADES}
        codes = jnp.concatenate(
            [jax.nn.softmax(x.astype(jnp.float32)) for x in logits.values()], axis=-1
        )
        # A selected branch passes no gradient to the other, whatever it is; a factor 0 would turn
        # an infinite one into NaN.
        codes = jnp.where(active, codes, jax.lax.stop_gradient(codes))
        density = coherence_loss.log_density(mixture, codes)
        weights = mask.astype(jnp.float32)
        losses = coherence_loss.incoherence(density, self.temperature)
        return {
            "incoherence": _mean(jnp.where(mask, losses, 0.0), weights),
            "log_density": _mean(jnp.where(mask, density, 0.0), weights),
        }

    def score(self, table: pd.DataFrame) -> float:
        """Score validation knees; the highest score chooses the checkpoint.

        The score is either the accuracy averaged over the targets, each over the knees that have
        its label; or, if `selection` is 'loss', minus the mean loss, unweighted and averaged in the
        same way (Tiulpin & Saarakkala 2020).
        """
        by = "loss" if self.selection == "loss" else "accuracy"
        scores = [target.selection_score(table, by) for target in all_targets.get_all(self.targets)]
        return float(np.nanmean(scores))

    def decode(self, outputs: Outputs) -> dict[str, jax.Array]:
        """Return class probabilities float32 [batch, classes], or values [batch], by target."""
        return {t.name: t.decode(outputs[t.name]) for t in all_targets.get_all(self.targets)}

    def table(
        self, index: pd.DataFrame, rows: np.ndarray, decoded: Mapping[str, np.ndarray]
    ) -> pd.DataFrame:
        """Make the predictions table: one row per knee, with identity, labels and predictions.

        With a mixture it also holds the log-densities `coherence_given` of the labels (NaN if one
        of the seven grades is missing) and `coherence_predicted` of the probabilities.

        Args:
            index: Index of the prepared set.
            rows: Rows that were predicted, int [n].
            decoded: Decoded outputs of each target, [n, ...].
        """
        knees = index.iloc[rows]
        table = make_table(knees, decoded)
        if self.mixture is not None:
            codes = {
                "given": grade_coherence.one_hot(knees[list(GRADES)].to_numpy()),
                "predicted": np.concatenate([decoded[g] for g in GRADES], axis=1),
            }
            for name, values in codes.items():
                density = grade_coherence.log_density_on_host(self.mixture, values)
                table[f"coherence_{name}"] = density
        return table


def _without_missing(labels: jax.Array) -> jax.Array:
    """Return class labels as values, NaN where missing."""
    return jnp.where(labels == MISSING, jnp.nan, labels.astype(jnp.float32))
