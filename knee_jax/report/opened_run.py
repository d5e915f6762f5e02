"""A finished run in Python, for notebooks: its tables, metrics and single knees, only read.

Usage::

    run = knee_jax.open_run("runs/demo")
    run.predictions["test"], run.metrics["test"]["kl"]["accuracy"]["value"], run.history
    run.knee("9000099", "L").plot()
"""

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from knee_jax import targets
from knee_jax.config import load
from knee_jax.config.load import RunConfig
from knee_jax.data.prepared import find_prepared
from knee_jax.errors import UserError
from knee_jax.metrics.predictions import read_predictions, targets_in
from knee_jax.metrics.summary import Summary
from knee_jax.report.page import read_history
from knee_jax.targets.kinds import Classes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOUR, LABELLED = "#4878a8", "#c8553d"


class Tables(Mapping[str, pd.DataFrame]):
    """Predictions tables of a run by part, such as 'test', each read when it is asked for."""

    def __init__(self, folder: Path):
        self._folder = folder

    def __getitem__(self, part: str) -> pd.DataFrame:
        """Return a part's table.

        Raises:
            UserError: The run has no predictions of that part.
        """
        if part not in list(self):
            raise UserError(
                f"{self._folder} has no predictions of '{part}'; it has {', '.join(self) or 'none'}"
            )
        return read_predictions(self._folder / f"{part}.csv")

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(path.stem for path in self._folder.glob("*.csv")))

    def __len__(self) -> int:
        return len(list(self._folder.glob("*.csv")))

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)


@dataclasses.dataclass(frozen=True)
class OpenedRun:
    """A run's folder.

    Attributes:
        path: Folder.
        data_dir: Folder of prepared sets, from which pictures of knees are read.
        config: Config of the run.
        predictions: Predictions tables by part.
    """

    path: Path
    data_dir: Path
    config: RunConfig
    predictions: Tables

    @functools.cached_property
    def metrics(self) -> dict[str, Summary]:
        """Metrics of each part, by target and metric: value, low, high and n.

        Raises:
            UserError: The run was not evaluated.
        """
        try:
            found: dict[str, Summary] = json.loads((self.path / "metrics.json").read_bytes())
        except (OSError, ValueError):
            raise UserError(
                f"{self.path} has no metrics.json: evaluate it, `knee-jax train --mode=evaluate`"
            ) from None
        return found

    @functools.cached_property
    def history(self) -> pd.DataFrame:
        """Scalars that were logged while training: a row per step, a column per name.

        Raises:
            UserError: There are none.
        """
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            raise UserError(f"{self.path} has no metrics.jsonl: it was not trained here")
        table = read_history(path).pivot(index="step", columns="name", values="value")
        return table.reset_index().rename_axis(columns=None)

    @functools.cached_property
    def knees(self) -> pd.DataFrame:
        """Every knee that the run has seen or scored, with its part, as text."""
        try:
            return pd.read_csv(self.path / "knees.csv", dtype=str, keep_default_na=False)
        except (OSError, ValueError):
            raise UserError(f"{self.path} has no list of its knees (knees.csv)") from None

    def knee(self, subject: str, side: str, visit: int | None = None) -> "Knee":
        """Find a knee that was predicted.

        Args:
            subject: Subject's id.
            side: 'L' or 'R'.
            visit: Visit, months; None: the knee has one.

        Raises:
            UserError: No part, or more than one row, has it.
        """
        rows = []
        for part, table in self.predictions.items():
            same = (table["subject"].astype(str) == str(subject)) & (table["side"] == side)
            same &= True if visit is None else table["visit"] == visit
            rows += [(part, row) for _, row in table[same].iterrows()]
        parts = [part for part, _ in rows]
        if not rows:
            raise UserError(f"{self.path}: no prediction of subject {subject}, side {side}")
        if len(set(parts)) < len(parts):
            visits = ", ".join(f"{row['visit']}" for _, row in rows)
            raise UserError(f"{self.path}: {subject} {side} has the visits {visits}: name one")
        part, row = rows[0]
        return Knee(self, part, row)


@dataclasses.dataclass(frozen=True)
class Knee:
    """A knee that a run has predicted.

    Attributes:
        run: Run.
        part: Part of its knees.
        row: Row of the predictions table.
    """

    run: OpenedRun
    part: str
    row: pd.Series

    def image(self) -> np.ndarray:
        """Return the knee's picture, uint8 [height, width], oriented as a right knee.

        Raises:
            UserError: The prepared set is not in `data_dir`, is another one, or holds volumes.
        """
        data = self.run.config.data
        name = data.test_dataset if data.test_dataset and self.part == "test" else data.dataset
        if not list((self.run.data_dir / name).glob("*/index.csv")):
            raise UserError(
                f"{self.run.data_dir} does not hold {name}: open_run(..., data_dir=FOLDER) names "
                "the folder of prepared sets"
            )
        known = self.run.knees
        prepared = find_prepared(
            self.run.data_dir / name, set(known.loc[known["dataset"] == name, "prepared"])
        )
        if prepared is None:
            raise UserError(
                f"{self.run.data_dir / name} was prepared anew since the run was trained: its "
                "pictures may be of other knees"
            )
        if prepared.pixels != "image":
            raise UserError(f"{name} holds volumes, of which no picture is shown")
        (row,) = prepared.find(self.row.to_frame().T)
        picture: np.ndarray = prepared.load(np.array([row]))["image"][0]
        return picture

    def plot(self) -> Figure:
        """Draw the knee, where its picture is at hand, and the probabilities of its classes."""
        names = [n for n in targets_in(pd.DataFrame([self.row])) if n in targets.all_targets()]
        classes: list[Classes] = []
        for target in targets.get_all(names):
            if isinstance(target, Classes):
                classes.append(target)
        try:
            picture: np.ndarray | None = self.image()
        except UserError:
            picture = None
        columns = len(classes) + (picture is not None)
        figure = Figure(figsize=(max(2.4 * columns, 3.2), 2.9), layout="constrained")
        grid = figure.subplots(1, max(columns, 1), squeeze=False)[0]
        if picture is not None:
            grid[0].imshow(picture, cmap="gray", vmin=0, vmax=255)
            grid[0].set_axis_off()
        for axes, own in zip(grid[columns - len(classes) :], classes, strict=True):
            self._draw(axes, own)
        row = self.row
        figure.suptitle(f"{row['subject']} {row['side']}, {row['visit']} months ({self.part})")
        return figure

    def _draw(self, axes: "Axes", target: Classes) -> None:
        """Draw the probabilities of a target's classes as bars, that of the label in its colour."""
        shares = self.row[target.output_columns()].to_numpy(float)
        label: Any = self.row[target.name]
        colours = [LABELLED if number == label else COLOUR for number in range(len(shares))]
        axes.bar(target.class_names, shares, color=colours)
        axes.set(ylim=(0, 1), title=target.short_title)
        axes.set_xlabel("read: " + (target.class_names[int(label)] if label >= 0 else "unknown"))


def open_run(path: str | Path, data_dir: str | Path = "data") -> OpenedRun:
    """Open a run's folder; see `knee_jax.open_run`."""
    folder = Path(path).expanduser()
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no run (config.json is missing): name a run's folder")
    return OpenedRun(
        path=folder,
        data_dir=Path(data_dir).expanduser(),
        config=load.saved(folder / "config.json"),
        predictions=Tables(folder / "predictions"),
    )
