"""Target of places in the picture, such as landmarks."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from knee_jax.targets.kinds import Fault, to_numbers

if TYPE_CHECKING:
    import pandas as pd

    from knee_jax.metrics.scoring import Scorer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Places:
    """Numbered places in the picture, each with an error bar: landmarks.

    Their labels stand in no column of an index: a batch brings them as `keypoints`, as a network's
    input shows them. In a predictions table `t` is the number of places that are known and within
    the picture, empty where there are none; `t_x0, t_y0, t_s0, ...` are the places found and their
    errors to be expected, `t_true_x0, t_true_y0, ...` the true ones, in pixels of `spacing_mm`.

    Attributes:
        number: Number of places.
        limits_mm: Distances within which the shares of places are counted, mm.
    """

    name: str
    title: str
    short_title: str
    number: int
    limits_mm: tuple[float, ...] = (1.0, 1.5, 2.0, 2.5)
    region: str = "all"
    opposite: str = ""
    stratify_by: str = "kl"
    headlines: tuple[str, ...] = ("radial_error", "radial_error_median")

    source = "keypoints_valid"
    missing = np.nan
    dtype = np.float32
    losses = ("laplace",)
    selections = ("loss",)
    table_metrics = ("radial_error", "radial_error_median")
    figures = ()
    noun = "place"

    @property
    def num_outputs(self) -> int:
        """Number of values: x, y and error of each place."""
        return 3 * self.number

    def labels(self, knees: "pd.DataFrame") -> np.ndarray:
        """Return the number of places known for rows of an index, float32 [n], NaN: none."""
        if self.source not in knees.columns:
            return np.full(len(knees), np.nan, np.float32)
        return np.where(knees[self.source], self.number, np.nan).astype(np.float32)

    def is_known(self, labels: Any) -> Any:
        """Return which labels [...] are not NaN, bool [...]."""
        return labels == labels

    def is_read(self, knees: "pd.DataFrame") -> np.ndarray:
        """Return for which rows of an index places are known, bool [n]."""
        return np.asarray(self.is_known(self.labels(knees)))

    def decode(self, logits: Any) -> Any:
        """Return x, y and error, shares of the side, [batch, places, 3] of [batch, outputs]."""
        return logits.astype(np.float32).reshape(-1, self.number, 3)

    def predictions(self, decoded: np.ndarray) -> dict[str, np.ndarray]:
        """Return the columns of places and errors [n], from [n, places, 3]."""
        values = np.asarray(decoded).reshape(len(decoded), -1)
        return dict(zip(self.output_columns(), values.T, strict=True))

    def truths(self, places: np.ndarray) -> dict[str, np.ndarray]:
        """Return the columns of the label: the number of places known, and the true places.

        Args:
            places: True places, [n, places, 2], NaN where unknown or beyond the picture.
        """
        known = np.isfinite(places).all(-1).sum(-1).astype(np.float64)
        values = np.asarray(places).reshape(len(places), -1)
        known[known == 0] = np.nan
        return {self.name: known, **dict(zip(self.true_columns(), values.T, strict=True))}

    def columns(self) -> list[str]:
        """Return the names of the columns of label and prediction."""
        return [self.name, *self.output_columns()]

    def output_columns(self) -> list[str]:
        """Return the columns of the places found and their errors."""
        return [f"{self.name}_{part}{i}" for i in range(self.number) for part in "xys"]

    def true_columns(self) -> list[str]:
        """Return the columns of the true places."""
        return [f"{self.name}_true_{part}{i}" for i in range(self.number) for part in "xy"]

    def average(
        self, stack: np.ndarray, mean: Callable[[np.ndarray], np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Return the mean of the models' places and errors."""
        return self.predictions(stack.mean(0).reshape(stack.shape[1], self.number, 3))

    def faults(self, table: "pd.DataFrame") -> Iterator[Fault]:
        """Yield faults for places that are not numbers."""
        for column in self.output_columns():
            wrong = ~np.isfinite(to_numbers(table[column]).to_numpy(np.float64))
            yield Fault(column, wrong, "is not a number (pixels)")

    def errors_mm(self, table: "pd.DataFrame") -> np.ndarray:
        """Return the distances of found from true places, mm [n, places], NaN where unknown."""
        shape = (len(table), self.number)
        found = table[self.output_columns()].to_numpy(np.float64).reshape(*shape, 3)[..., :2]
        true = table[self.true_columns()].to_numpy(np.float64).reshape(*shape, 2)
        spacing = table["spacing_mm"].to_numpy(np.float64)[:, None]
        return np.asarray(np.linalg.norm(found - true, axis=-1) * spacing)

    def scorer(self, labelled: "pd.DataFrame") -> "Scorer":
        """Return the scorer of radial errors, mm."""
        from knee_jax.metrics import scoring

        return scoring.places(self, labelled)

    def selection_score(self, table: "pd.DataFrame", by: str) -> float:
        """Return minus the mean radial error, mm."""
        known = table[self.is_known(table[self.name])]
        errors = self.errors_mm(known) if len(known) else np.array([])
        return -float(np.nanmean(errors)) if np.isfinite(errors).any() else float("nan")

    def agrees(self, label: Any, prediction: Any) -> Any:
        """Return whether places were found at all."""
        return self.is_known(label)

    def format(self, value: Any) -> str:
        """Return the number of places, or a dash if there are none."""
        return f"{value:.0f}" if value == value else "-"
