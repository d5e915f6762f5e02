import numpy as np
import pandas as pd
import pytest

from knee_jax.grades import GRADES, NUM_CLASSES


@pytest.fixture
def make_table():
    """Makes a random predictions table of two knees at two visits a subject."""

    def make(num_subjects=25, seed=0, grades=GRADES, missing=0.0):
        rng = np.random.default_rng(seed)
        subjects = [f"{i:05d}" for i in range(num_subjects)]
        knees = pd.MultiIndex.from_product(
            [subjects, ["L", "R"], [0, 24]], names=["subject", "side", "visit"]
        )
        table = knees.to_frame(index=False)
        for grade in grades:
            classes = NUM_CLASSES[grade]
            truth = rng.integers(classes, size=len(table))
            probabilities = rng.dirichlet(np.ones(classes), size=len(table))
            probabilities = 0.6 * probabilities + 0.4 * np.eye(classes)[truth]
            table[grade] = np.where(rng.random(len(table)) < missing, -1, truth)
            table[f"{grade}_pred"] = probabilities.argmax(1)
            for c in range(classes):
                table[f"{grade}_p{c}"] = probabilities[:, c].astype(np.float32)
        return table

    return make
