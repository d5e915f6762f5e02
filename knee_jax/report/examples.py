"""Knees that a report shows: the data of each, and their choice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from knee_jax import pictures, targets
from knee_jax.report.sections import Drawing
from knee_jax.targets.kinds import Classes, Ordinal, Target

if TYPE_CHECKING:
    from knee_jax.data.prepared import PreparedSet

Array = np.ndarray

WIDTH = 270
"""Width of a picture, pixels."""


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
        mm_per_pixel: Size of a pixel, mm; NaN if unknown.
    """

    image: Array
    truth: Mapping[str, float]
    prediction: Mapping[str, float]
    caption: str = ""
    keypoints: Array | None = None
    modality: str = "film"
    mm_per_pixel: float = float("nan")

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


def choose_examples(table: pd.DataFrame, name: str = "kl", num_each: int = 8) -> list[int]:
    """Choose the worst mistakes, and some right predictions over all true classes.

    Args:
        table: Predictions table with the target.
        name: Name of the target by which a prediction counts as correct or wrong.
        num_each: Maximum number of wrong ones; of right ones there are half as many.

    Returns:
        Positions of rows of the table: the wrong ones from the worst on, by the distance of grades
        or values, and among equals the most confident first; then the right ones by class, the most
        confident of each.
    """
    target = targets.get(name)
    truth = table[name].to_numpy(np.float64)
    predicted = table[f"{name}_pred"].to_numpy(np.float64)
    known = np.flatnonzero(target.is_known(truth))
    certainty = np.zeros(len(table))
    if isinstance(target, Classes):
        certainty = table[target.output_columns()].to_numpy(np.float64).max(1)
    # Between classes without an order there is no distance.
    ordered = isinstance(target, Ordinal) or not isinstance(target, Classes)
    error = np.abs(predicted - truth) if ordered else (predicted != truth).astype(float)
    right = np.asarray(target.agrees(truth, predicted))
    worst = known[np.lexsort((-certainty[known], -error[known]))]
    wrong = [row for row in worst if not right[row]][:num_each]
    best = known[np.lexsort((-certainty[known], error[known]))]
    correct = np.array([row for row in best if right[row]], np.int64)
    # One of each true class, then a second of each, until there are enough.
    group = np.floor(truth[correct])
    turn = pd.Series(correct, dtype=np.int64).groupby(group).cumcount().to_numpy()
    chosen = correct[np.argsort(turn, kind="stable")][: num_each // 2]
    return [*map(int, wrong), *map(int, chosen[np.argsort(truth[chosen], kind="stable")])]


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
            mm_per_pixel=prepared.spacing_mm[0 if volumes is None else 1],
        )
        for i, (_, row) in enumerate(rows.iterrows())
    ]


def example_drawing(name: str, example: Example, words: str = "") -> Drawing:
    """Draw a knee with its landmarks, sides and scale; the caption says what was read, predicted.

    Args:
        name: Name of the drawing.
        example: Knee.
        words: What to say of it instead.
    """
    film = example.modality == "film"
    picture = pictures.knee(
        example.image,
        WIDTH,
        keypoints=example.keypoints,
        sides=pictures.FILM_SIDES if film else ("A", "P"),
        mm_per_pixel=example.mm_per_pixel,
        # Volumes are much darker than films.
        brightest=255 if film else max(1, int(example.image.max())),
    )
    words = words or _verdict(example)
    what = "Knee radiograph" if film else "Slice of a knee"
    return Drawing(name, f"{what}, {words}", picture, f"{words}. {example.caption}")


def _verdict(example: Example) -> str:
    """Say what was read and predicted: of the first target, and of others that are wrong."""
    parts = []
    for name, predicted in example.prediction.items():
        target, read = targets.get(name), example.truth[name]
        known = bool(target.is_known(read))
        if name != example.target.name and (not known or target.agrees(read, predicted)):
            continue
        words = target.format(read) if known else "unread"
        # The classes of a scale need its name.
        scale = isinstance(target, Ordinal) or not isinstance(target, Classes)
        title = target.short_title if scale or not known else "read"
        parts.append(f"{title} {words}, predicted {target.format(predicted)}")
    return "; ".join(parts)
