"""Knees that a report shows: what is needed of each, and which ones."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from knee_jax.grades import MISSING

Array = np.ndarray


@dataclass(frozen=True)
class Example:
    """One knee to show.

    Attributes:
        image: uint8 [H, W], oriented as a right knee (lateral at the left); or a sagittal slice.
        truth: {grade: true grade, -1 where nobody read it}, at least the grades of `prediction`.
        prediction: {grade: predicted grade}.
        caption: one line that says which knee it is.
        keypoints: float [74, 2], x and y in pixels of `image` with half-pixel centres, or None.
        modality: 'film', or 'volume', of which a slice is shown.
    """

    image: Array
    truth: Mapping[str, int]
    prediction: Mapping[str, int]
    caption: str = ""
    keypoints: Array | None = None
    modality: str = "film"

    @property
    def sides(self) -> tuple[str, str]:
        """What lies at the left and at the right of the image."""
        return ("lateral", "medial") if self.modality == "film" else ("anterior", "posterior")

    @property
    def grade(self) -> str:
        """By which grade the prediction counts as correct: KL where it was predicted."""
        return "kl" if "kl" in self.prediction else next(iter(self.prediction))

    @property
    def group(self) -> str:
        """'correct', 'wrong' or 'unread', by `grade`."""
        if self.truth[self.grade] == MISSING:
            return "unread"
        return "correct" if self.truth[self.grade] == self.prediction[self.grade] else "wrong"


def choose_examples(
    table: pd.DataFrame, grade: str = "kl", num_each: int = 4, seed: int = 0
) -> list[int]:
    """Chooses knees at random: correct predictions, then wrong ones, over all true grades.

    Args:
        table: a predictions table with the grade.
        grade: by which grade a prediction counts as correct or wrong.
        num_each: at most so many correct and so many wrong ones.
        seed: of the choice.

    Returns:
        Positions of rows of the table; within each group in the order of the true grade.
    """
    truth = table[grade].to_numpy(np.int64)
    correct = truth == table[f"{grade}_pred"].to_numpy(np.int64)
    rng = np.random.default_rng(seed)
    chosen = []
    for group in (correct, ~correct):
        rows = rng.permutation(np.flatnonzero(group & (truth != MISSING)))
        # One of each true grade, then a second of each, until there are enough.
        turn = pd.Series(truth[rows]).groupby(truth[rows]).cumcount().to_numpy()
        picked = rows[np.argsort(turn, kind="stable")][:num_each]
        chosen += picked[np.argsort(truth[picked], kind="stable")].tolist()
    return chosen
