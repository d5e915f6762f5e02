"""Several grades of one radiograph at once: loss, predictions and selection.

Zheng et al. 2021, section 2.1: one classification head a grade, prevalence-weighted cross-entropy,
summed over the grades (eq. 1, whose minus sign is a slip: cross-entropy is minimised).
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pandas as pd

from knee_jax.data.statistics import Statistics
from knee_jax.errors import UserError
from knee_jax.grades import GRADES, MISSING, NUM_CLASSES

Outputs = Mapping[str, jax.Array]
"""Grade → logits [batch, classes]."""

IDENTITY = ("subject", "side", "visit", "cohort", "site")


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
    logits: jax.Array, labels: jax.Array, class_weights: np.ndarray, mask: jax.Array
) -> jax.Array:
    """Mean cross-entropy, weighted by the class of each label.

    The mean is normalised by the sum of the weights, as PyTorch does; without a labelled knee it
    is zero.

    Args:
        logits: [batch, classes].
        labels: int [batch], `MISSING` allowed.
        class_weights: [classes].
        mask: bool [batch], False for knees that do not count.

    Returns:
        float32 scalar.
    """
    known = mask & (labels != MISSING)
    labels = jnp.where(known, labels, 0).astype(jnp.int32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)
    weights = jnp.where(known, jnp.asarray(class_weights)[labels], 0.0)
    total = weights.sum()
    return jnp.where(total > 0, (weights * losses).sum() / jnp.where(total > 0, total, 1.0), 0.0)


@dataclasses.dataclass(frozen=True)
class Grading:
    """The multi-task grading of `grades`.

    Attributes:
        grades: names of the grades that the model reads.
        class_weights: grade → float32 [classes]: `prevalence_weights` or `uniform_weights`.
    """

    score_name = "mean_accuracy"

    grades: tuple[str, ...]
    class_weights: Mapping[str, np.ndarray]

    def loss(self, outputs: Outputs, batch: Mapping[str, jax.Array]) -> jax.Array:
        """The sum over the grades of the weighted cross-entropy (eq. 1), float32 scalar."""
        losses = [
            weighted_cross_entropy(
                outputs[grade],
                batch["grades"][:, GRADES.index(grade)],
                self.class_weights[grade],
                batch["mask"],
            )
            for grade in self.grades
        ]
        return jnp.sum(jnp.stack(losses))

    def score(self, table: pd.DataFrame) -> float:
        """Accuracy averaged over the grades, each over the knees where it has been read.

        The best checkpoint is the one with the highest score on the validation knees.
        """
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

        Args:
            index: the prepared set's index.
            rows: int [n], which of its rows were predicted.
            probabilities: grade → [n, classes].
        """
        knees = index.iloc[rows]
        columns = {name: knees[name].to_numpy() for name in IDENTITY}
        for grade, values in probabilities.items():
            columns[grade] = knees[grade].to_numpy()
            columns[f"{grade}_pred"] = values.argmax(axis=1)
            columns |= {f"{grade}_p{c}": values[:, c] for c in range(NUM_CLASSES[grade])}
        return pd.DataFrame(columns)


def check(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for a field of this task that has no meaning."""
    unknown = sorted(set(config.grades) - set(GRADES))
    if unknown or not config.grades:
        named = ", ".join(unknown) or "no grade"
        raise UserError(f"config.grades names {named}: choose from {', '.join(GRADES)}")
    if config.class_weights not in ("prevalence", "none"):
        raise UserError(
            f"config.class_weights = '{config.class_weights}': choose prevalence or none"
        )


def make(config: ml_collections.ConfigDict, statistics: Statistics) -> Grading:
    """The task of a config, weighted by the prevalences among the training knees."""
    grades = tuple(config.grades)
    weigh = prevalence_weights if config.class_weights == "prevalence" else uniform_weights
    return Grading(grades, {g: weigh(statistics.counts[g]) for g in grades})


def usable(index: pd.DataFrame, rows: np.ndarray, config: ml_collections.ConfigDict) -> np.ndarray:
    """Those of `rows` for which at least one of the config's grades has been read."""
    return rows[(index.iloc[rows][list(config.grades)] != MISSING).any(axis=1).to_numpy()]
