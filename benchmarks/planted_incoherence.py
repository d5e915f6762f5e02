"""Share of planted mistakes that the listing of least coherent labels finds in phantom cohorts.

    python benchmarks/planted_incoherence.py

Two per cent of a cohort's knees get impossible grades, of three kinds; then the listing is made
from the contaminated cohort itself. One row per cohort goes to
`benchmarks/results/planted_incoherence.csv`: the share of the planted knees among the first two per
cent of the listing. No image is made.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from knee_jax.metrics import grade_coherence
from knee_jax.phantom import severity
from knee_jax.targets.grades import GRADES, MISSING

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.metrics.test_grade_coherence import impossible, plant

RESULTS = Path(__file__).parent / "results" / "planted_incoherence.csv"
SEEDS = range(6, 12)
"""Seeds, none of which was looked at while the settings of the listing were chosen."""


def misread_kl(grades: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Plant KL 0 where a grade of 2 or more was read, otherwise KL 4 without any narrowing."""
    return plant(grades, seed)


def misread_feature(grades: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Plant a single feature of 3 beside KL 0, or KL 4 beside six zeros."""
    rng, grades = np.random.default_rng(seed), grades.copy()
    flipped = rng.choice(len(grades), round(0.02 * len(grades)), replace=False)
    for row in flipped:
        if grades[row, 0] < 2:
            grades[row, 0] = 0
            grades[row, rng.integers(1, 7)] = 3
        else:
            grades[row] = [4, 0, 0, 0, 0, 0, 0]
    return grades, flipped


def random_rows(grades: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Plant seven random grades that contradict one another."""
    rng, grades = np.random.default_rng(seed), grades.copy()
    draws = np.stack(
        [rng.integers(0, classes, 50_000) for classes in grade_coherence.CLASSES], axis=1
    )
    flipped = rng.choice(len(grades), round(0.02 * len(grades)), replace=False)
    grades[flipped] = draws[impossible(draws)][: len(flipped)]
    return grades, flipped


KINDS: dict[str, Callable] = {
    "misread_kl": misread_kl,
    "misread_feature": misread_feature,
    "random_rows": random_rows,
}


def main() -> None:
    rows = []
    for seed in SEEDS:
        frame = severity.simulate(400, visits=(0, 24, 48), seed=seed)
        grades = frame[[f"read_{grade}" for grade in GRADES]].to_numpy()
        grades = grades[(grades != MISSING).all(axis=1)]
        row = {"seed": seed, "knees": len(grades)}
        for kind, function in KINDS.items():
            planted, flipped = function(grades, seed)
            listing = grade_coherence.list_suspects(pd.DataFrame(planted, columns=list(GRADES)))
            for order in ("incoherence", "log_density"):
                ranked = listing.sort_values(order, ascending=order == "log_density")
                found = np.isin(flipped, ranked.head(len(flipped)).index).mean()
                row[f"{kind}_by_{order}"] = round(float(found), 3)
        print(row, flush=True)
        rows.append(row)
    table = pd.DataFrame(rows)
    table.to_csv(RESULTS, index=False)
    print(table.drop(columns=["seed", "knees"]).mean().round(3).to_string())


if __name__ == "__main__":
    main()
