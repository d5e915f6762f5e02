"""Knees that a report shows: the data of each, and their choice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from knee_jax import targets
from knee_jax.targets.kinds import Target

if TYPE_CHECKING:
    from knee_jax.data.prepared import PreparedSet

Array = np.ndarray


@dataclass(frozen=True)
class Example:
    """One knee to show.

    Attributes:
        image: Image, uint8 [H, W], oriented as a right knee (lateral at the left); or a sagittal
            slice.
        truth: Label of each target, missing if there is none; at least the targets of `prediction`.
        prediction: Predicted class or value of each target.
        caption: One line that identifies the knee.
        keypoints: Landmarks, float [74, 2], x and y in pixels of `image` with half-pixel centres,
            or None.
        modality: Kind of image, 'film', or 'volume', of which a slice is shown.
    """

    image: Array
    truth: Mapping[str, float]
    prediction: Mapping[str, float]
    caption: str = ""
    keypoints: Array | None = None
    modality: str = "film"

    @property
    def sides(self) -> tuple[str, str]:
        """Names of what lies at the left and at the right of the image."""
        return ("lateral", "medial") if self.modality == "film" else ("anterior", "posterior")

    @property
    def target(self) -> Target:
        """Target by which the prediction counts as correct: KL if it was predicted."""
        return targets.get("kl" if "kl" in self.prediction else next(iter(self.prediction)))

    @property
    def group(self) -> str:
        """Group of the knee by `target`: 'correct', 'wrong' or 'unread'."""
        truth, prediction = (each[self.target.name] for each in (self.truth, self.prediction))
        if not self.target.is_known(truth):
            return "unread"
        return "correct" if self.target.agrees(truth, prediction) else "wrong"


def choose_examples(
    table: pd.DataFrame, name: str = "kl", num_each: int = 4, seed: int = 0
) -> list[int]:
    """Choose knees at random: correct predictions, then wrong ones, over all true grades.

    Args:
        table: Predictions table with the target.
        name: Name of the target by which a prediction counts as correct or wrong.
        num_each: Maximum number of correct ones, and of wrong ones.
        seed: Random seed of the choice.

    Returns:
        Positions of rows of the table; within each group in the order of the label.
    """
    target = targets.get(name)
    truth = table[name].to_numpy(np.float64)
    known = target.is_known(truth)
    correct = target.agrees(truth, table[f"{name}_pred"].to_numpy(np.float64))
    # By class; for a continuous label by its integer part.
    group_of = np.where(known, np.floor(truth), np.nan)
    rng = np.random.default_rng(seed)
    chosen = []
    for group in (correct, ~correct):
        rows = rng.permutation(np.flatnonzero(group & known))
        # One of each true grade, then a second of each, until there are enough.
        turn = pd.Series(rows).groupby(group_of[rows]).cumcount().to_numpy()
        picked = rows[np.argsort(turn, kind="stable")][:num_each]
        chosen += picked[np.argsort(truth[picked], kind="stable")].tolist()
    return chosen


def show(prepared: "PreparedSet", rows: pd.DataFrame, names: Sequence[str]) -> list[Example]:
    """Return the knees of some rows of a table as examples for a report.

    Args:
        prepared: Set that the knees belong to.
        rows: Rows with the columns of an index or of a predictions table.
        names: Names of the targets to show, with predictions if the table has them.
    """
    knees = prepared.load(prepared.find(rows))
    volumes = knees.get("volume")
    has_landmarks = knees.get("keypoints_valid", np.zeros(len(rows), bool))
    # For a volume, the slice in the middle.
    images = knees["image"] if volumes is None else volumes[..., volumes.shape[-1] // 2]
    return [
        Example(
            image=images[i],
            truth={name: row[name] for name in names},
            prediction={name: row[f"{name}_pred"] for name in names if f"{name}_pred" in row},
            caption=f"{row['subject']} {row['side']}, month {row['visit']}",
            keypoints=knees["keypoints"][i] if has_landmarks[i] else None,
            modality="film" if volumes is None else "volume",
        )
        for i, (_, row) in enumerate(rows.iterrows())
    ]
