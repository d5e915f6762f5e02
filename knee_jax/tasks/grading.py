"""Several grades of one radiograph at once: loss, predictions and selection.

Zheng et al. 2021, section 2: one classification head a grade, prevalence-weighted cross-entropy,
summed over the grades (eq. 1, whose minus sign is a slip: cross-entropy is minimised), and the
incoherence of the predicted grades (eq. 4), for which no grade needs to be known. Tiulpin &
Saarakkala 2020 take the plain mean over the grades, and select by it.
"""

from collections.abc import Mapping, Sequence

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pandas as pd

from knee_jax import coherence
from knee_jax.data.statistics import Statistics
from knee_jax.errors import UserError
from knee_jax.grades import GRADES, MISSING
from knee_jax.metrics.predictions import make_table, probability_columns

Outputs = Mapping[str, jax.Array]
"""Grade → logits [batch, classes]; a model may add `<grade>_value` [batch], its regression."""

COHERENCE = {
    "weight": 0.0,
    "temperature": 0.5,
    "components": coherence.NUM_COMPONENTS,
    "sigma": coherence.SIGMA,
    "replicas": coherence.NUM_REPLICAS,
    "warmup_epochs": 1.0,
}
"""Fields of `config.coherence`, with what holds where one is left out; weight 0: none."""

FIELDS = {
    "loss_reduction": "sum",
    "selection": "mean_accuracy",
    "classification_weight": 1.0,
    "regression_weight": 1.0,
}
"""Further fields of the config, likewise."""

CHOICES = {
    "class_weights": ("prevalence", "none"),
    "loss_reduction": ("sum", "mean"),
    "selection": ("mean_accuracy", "loss"),
}


NUMBERS = ()
"""Fields of the config that are numbers in the task's pytree, and may differ in a sweep."""


def prevalence_weights(counts: Sequence[int]) -> np.ndarray:
    """Class weights w_c = N / (C n_c), float32 [classes]; zero for a class without a knee.

    The multi-class form of the weighting in Rajpurkar et al. 2017 (CheXNet), which Zheng et al.
    2021 cite: every class contributes alike.
    """
    number = np.asarray(counts, np.float64)
    seen = number > 0
    weights = np.zeros_like(number)
    weights[seen] = number.sum() / (len(number) * number[seen])
    return weights.astype(np.float32)


def uniform_weights(counts: Sequence[int]) -> np.ndarray:
    """Ones: every knee contributes alike."""
    return np.ones(len(counts), np.float32)


def weighted_cross_entropy(
    logits: jax.Array, labels: jax.Array, class_weights: jax.Array | np.ndarray, mask: jax.Array
) -> jax.Array:
    """Mean cross-entropy, weighted by the class of each label.

    The mean is normalised by the sum of the weights, as PyTorch does; without a labelled knee it
    is zero.

    Args:
        logits: [batch, classes].
        labels: int [batch], `MISSING` allowed.
        class_weights: [classes].
        mask: bool [batch], False for knees that do not count, whatever their logits are.

    Returns:
        float32 scalar; NaN where a knee that counts has a NaN, labelled or not.
    """
    known = mask & (labels != MISSING)
    labels = jnp.where(known, labels, 0).astype(jnp.int32)
    logits = jnp.where(mask[:, None], logits.astype(jnp.float32), 0.0)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    weights = jnp.where(known, jnp.asarray(class_weights)[labels], 0.0)
    return _mean(losses, weights)


def squared_error(values: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean squared distance of regressed values [batch] from the labels; otherwise as above."""
    known = mask & (labels != MISSING)
    values = jnp.where(mask, values.astype(jnp.float32), 0.0)
    return _mean(jnp.square(values - jnp.where(known, labels, 0)), known.astype(jnp.float32))


def _mean(losses: jax.Array, weights: jax.Array) -> jax.Array:
    total = weights.sum()
    return (weights * losses).sum() / jnp.where(total > 0, total, 1.0)


@flax.struct.dataclass
class Grading:
    """The multi-task grading of `grades`; a pytree, to be handed to compiled functions.

    Attributes:
        class_weights: grade → float32 [classes]: `prevalence_weights` or `uniform_weights`.
        mixture: of the coherence, float64 on the host, or None.
        grades: names of the grades that the model reads.
        reduction: 'sum' or 'mean' of the grades' losses.
        selection: 'mean_accuracy' or 'loss', on the validation knees.
        classification_weight: lambda_cls of eq. 5.
        regression_weight: of the squared error of a model with regression outputs.
        coherence_weight: lambda_gmm of eq. 5; 0: the incoherence is not computed.
        temperature: tau of eq. 4.
        warmup_epochs: the incoherence counts from this epoch on.
    """

    class_weights: Mapping[str, np.ndarray]
    mixture: coherence.Mixture | None = None
    grades: tuple[str, ...] = flax.struct.field(pytree_node=False, default=GRADES)
    reduction: str = flax.struct.field(pytree_node=False, default="sum")
    selection: str = flax.struct.field(pytree_node=False, default="mean_accuracy")
    classification_weight: float = flax.struct.field(pytree_node=False, default=1.0)
    regression_weight: float = flax.struct.field(pytree_node=False, default=1.0)
    coherence_weight: float = flax.struct.field(pytree_node=False, default=0.0)
    temperature: float = flax.struct.field(pytree_node=False, default=0.5)
    warmup_epochs: float = flax.struct.field(pytree_node=False, default=1.0)

    @property
    def score_name(self) -> str:
        """What `score` is."""
        return "mean_accuracy" if self.selection == "mean_accuracy" else "minus_cross_entropy"

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
        """The training loss (eq. 5) of a batch.

        Args:
            outputs: of the model.
            batch: uses `grades` int [batch, 7] and `mask` bool [batch]; masked knees count nowhere.
            epoch: passes over the training knees so far; may be traced.
            memory: of the last validation; not used.

        Returns:
            float32 scalar, and its parts by name: `classification`, `regression` (where the model
            has such outputs), `incoherence` and `log_density` (where it has a weight; both also
            before they count), `labelled`, the share of knees with a grade that counts.
        """
        labels = {g: batch["grades"][:, GRADES.index(g)] for g in self.grades}
        mask = batch["mask"]
        reduce = jnp.sum if self.reduction == "sum" else jnp.mean
        parts = {}

        parts["classification"] = reduce(
            jnp.stack(
                [
                    weighted_cross_entropy(outputs[g], label, self.class_weights[g], mask)
                    for g, label in labels.items()
                ]
            )
        )
        loss = self.classification_weight * parts["classification"]

        regressed = [g for g in self.grades if f"{g}_value" in outputs]
        if regressed:
            errors = [squared_error(outputs[f"{g}_value"], labels[g], mask) for g in regressed]
            parts["regression"] = reduce(jnp.stack(errors))
            loss += self.regression_weight * parts["regression"]

        if self.coherence_weight and self.mixture is not None:
            active = jnp.asarray(epoch) >= self.warmup_epochs
            parts |= self._incoherence(self.mixture, outputs, mask, active)
            loss += jnp.where(active, self.coherence_weight * parts["incoherence"], 0.0)

        labelled = mask & jnp.stack([label != MISSING for label in labels.values()]).any(0)
        parts["labelled"] = labelled.sum() / jnp.maximum(mask.sum(), 1)
        return loss, parts

    def _incoherence(
        self, mixture: coherence.Mixture, outputs: Outputs, mask: jax.Array, active: jax.Array
    ) -> dict[str, jax.Array]:
        """Means over the unmasked knees; without a gradient unless `active`."""
        logits = {g: jnp.where(mask[:, None], outputs[g], 0.0) for g in GRADES}
        codes = jnp.concatenate(list(self.probabilities(logits).values()), axis=-1)
        # A selected branch passes no gradient to the other, whatever it is; a factor 0 would make
        # NaN of an infinite one.
        codes = jnp.where(active, codes, jax.lax.stop_gradient(codes))
        density = coherence.log_density(mixture, codes)
        weights = mask.astype(jnp.float32)
        losses = coherence.incoherence(density, self.temperature)
        return {
            "incoherence": _mean(jnp.where(mask, losses, 0.0), weights),
            "log_density": _mean(jnp.where(mask, density, 0.0), weights),
        }

    def score(self, table: pd.DataFrame) -> float:
        """What a checkpoint is chosen by: the one with the highest score on validation knees.

        Either the accuracy averaged over the grades, each over the knees where it has been read;
        or, by `selection` 'loss', minus the mean cross-entropy, unweighted, likewise averaged
        (Tiulpin & Saarakkala 2020).
        """
        if self.selection == "loss":
            return -float(np.nanmean([_cross_entropy(table, g) for g in self.grades]))
        correct = [
            (table[g] == table[f"{g}_pred"])[table[g] != MISSING].mean() for g in self.grades
        ]
        return float(np.nanmean(correct))

    def probabilities(self, outputs: Outputs) -> dict[str, jax.Array]:
        """Grade → class probabilities, float32 [batch, classes]."""
        return {g: jax.nn.softmax(outputs[g].astype(jnp.float32)) for g in self.grades}

    def table(
        self, index: pd.DataFrame, rows: np.ndarray, probabilities: Mapping[str, np.ndarray]
    ) -> pd.DataFrame:
        """The predictions table: a row a knee, with identity, true and predicted grades.

        With a mixture it also holds the log-densities `coherence_given` of the true grades (NaN
        where one of the seven is missing) and `coherence_predicted` of the probabilities.

        Args:
            index: the prepared set's index.
            rows: int [n], which of its rows were predicted.
            probabilities: grade → [n, classes].
        """
        knees = index.iloc[rows]
        table = make_table(knees, probabilities)
        if self.mixture is not None:
            codes = {
                "given": coherence.one_hot(knees[list(GRADES)].to_numpy()),
                "predicted": np.concatenate([probabilities[g] for g in GRADES], axis=1),
            }
            for name, values in codes.items():
                table[f"coherence_{name}"] = coherence.log_density_on_host(self.mixture, values)
        return table


def _cross_entropy(table: pd.DataFrame, grade: str) -> float:
    """Mean over the knees of a predictions table whose grade has been read; NaN without one."""
    known = table[table[grade] != MISSING]
    if known.empty:
        return np.nan
    values = known[probability_columns(grade)].to_numpy(np.float64)
    of_truth = values[np.arange(len(known)), known[grade].to_numpy(np.int64)]
    # A probability of 0 has been rounded to it.
    return float(-np.log(np.maximum(of_truth, np.finfo(np.float32).tiny)).mean())


def settings(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config's fields of this task, and defaults for those that it leaves out."""
    complete = {name: config.get(name, default) for name, default in FIELDS.items()}
    complete["class_weights"] = config.class_weights
    complete["coherence"] = COHERENCE | dict(config.get("coherence", {}))
    return ml_collections.ConfigDict(complete)


def check(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for a field of this task that has no meaning."""
    unknown = sorted(set(config.grades) - set(GRADES))
    if unknown or not config.grades:
        named = ", ".join(unknown) or "no grade"
        raise UserError(f"config.grades names {named}: choose from {', '.join(GRADES)}")
    fields = settings(config)
    for name, choices in CHOICES.items():
        if fields[name] not in choices:
            raise UserError(f"config.{name} = '{fields[name]}': choose {' or '.join(choices)}")
    if unknown := sorted(set(fields.coherence) - set(COHERENCE)):
        raise UserError(
            f"config.coherence has no {', '.join(unknown)}: choose from {', '.join(COHERENCE)}"
        )
    for name in ("classification_weight", "regression_weight"):
        if fields[name] < 0:
            raise UserError(f"config.{name} = {fields[name]}: it must be 0 or more")
    for name in ("weight", "warmup_epochs"):
        if fields.coherence[name] < 0:
            raise UserError(f"config.coherence.{name} = {fields.coherence[name]}: 0 or more")
    for name in ("temperature", "components", "sigma", "replicas"):
        if fields.coherence[name] <= 0:
            raise UserError(f"config.coherence.{name} = {fields.coherence[name]}: above 0")
    if fields.coherence.weight and (absent := [g for g in GRADES if g not in config.grades]):
        raise UserError(
            f"config.grades lacks {', '.join(absent)}: coherence is of all seven grades; add them, "
            "or set config.coherence.weight = 0"
        )


def make(
    config: ml_collections.ConfigDict,
    statistics: Statistics,
    grades: np.ndarray,
    mixture: coherence.Mixture | None = None,
) -> Grading:
    """The task of a config.

    Args:
        config: see `configs/`.
        statistics: of the training knees; their prevalences weigh the classes.
        grades: int [n, 7], of the training knees; the coherence's mixture is fitted to them.
        mixture: one that has been fitted before, instead.

    Raises:
        UserError: too few training knees for the coherence's mixture.
    """
    fields = settings(config)
    weigh = prevalence_weights if fields.class_weights == "prevalence" else uniform_weights
    if mixture is None and fields.coherence.weight:
        mixture = coherence.fit(
            grades,
            num_components=fields.coherence.components,
            sigma=fields.coherence.sigma,
            num_replicas=fields.coherence.replicas,
            seed=config.seed,
        )
    return Grading(
        class_weights={g: weigh(statistics.counts[g]) for g in config.grades},
        mixture=mixture,
        grades=tuple(config.grades),
        reduction=fields.loss_reduction,
        selection=fields.selection,
        classification_weight=float(fields.classification_weight),
        regression_weight=float(fields.regression_weight),
        coherence_weight=float(fields.coherence.weight),
        temperature=float(fields.coherence.temperature),
        warmup_epochs=float(fields.coherence.warmup_epochs),
    )


def usable(index: pd.DataFrame, rows: np.ndarray, config: ml_collections.ConfigDict) -> np.ndarray:
    """Those of `rows` for which at least one of the config's grades has been read."""
    return rows[(index.iloc[rows][list(config.grades)] != MISSING).any(axis=1).to_numpy()]


def check_part(
    name: str, index: pd.DataFrame, rows: np.ndarray, config: ml_collections.ConfigDict
) -> None:
    """Raises UserError for a part that the task cannot do with; this one takes any knees."""
