"""Factories of predictions tables, indices and small configs, shared by several rooms' tests."""

import numpy as np
import pandas as pd

from knee_jax import targets
from knee_jax.targets.grades import GRADES
from knee_jax.targets.kinds import Classes

NUM_CLASSES = {t.name: t.num_outputs for t in targets.of_kind(targets.all_targets(), Classes)}


def probability_columns(name):
    """Columns of a class target's probabilities."""
    return targets.get(name).output_columns()


def endpoint(name):
    """A dichotomy by its name."""
    return targets.dichotomies()[name]


def kinds(names):
    """Targets by their names, as a list."""
    return list(targets.get_all(names))


def random_predictions(
    num_subjects=25, seed=0, names=GRADES, *, visits=(0,), missing=0.0, skill=0.25
):
    """A predictions table of both knees of some subjects.

    Args:
        num_subjects: How many.
        seed: Of the draws.
        names: Class targets.
        visits: Months.
        missing: Share of labels that are missing.
        skill: Weight of the truth in the probabilities, 0 to 1.
    """
    rng = np.random.default_rng(seed)
    subjects = [f"{i:05d}" for i in range(num_subjects)]
    knees = pd.MultiIndex.from_product(
        [subjects, ["L", "R"], visits], names=["subject", "side", "visit"]
    )
    table = knees.to_frame(index=False)
    for name in names:
        classes = NUM_CLASSES[name]
        truth = rng.integers(classes, size=len(table))
        probabilities = rng.dirichlet(np.ones(classes), size=len(table))
        probabilities = (1 - skill) * probabilities + skill * np.eye(classes)[truth]
        table[name] = np.where(rng.random(len(table)) < missing, -1, truth)
        table[f"{name}_pred"] = probabilities.argmax(1)
        for column, values in zip(probability_columns(name), probabilities.T, strict=True):
            table[column] = values.astype(np.float32)
    return table


def random_values(num_subjects, seed=0, name="jsw_medial", missing=0.0):
    """A predictions table of a continuous target."""
    rng = np.random.default_rng(seed)
    table = random_predictions(num_subjects, seed, ())
    truth = rng.uniform(1.0, 7.0, len(table)).astype(np.float32)
    table[name] = np.where(rng.random(len(table)) < missing, np.nan, truth)
    table[f"{name}_pred"] = truth + rng.normal(0.2, 0.5, len(table)).astype(np.float32)
    return table
