"""What a report shows of coherence: the loss, and the knees whose grades fit together least.

The two figures are supplementary Figs. 1 and 2 of Zheng et al. 2021.
"""

from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from knee_jax.grades import GRADES, MISSING
from knee_jax.report import figures
from knee_jax.report.examples import Example

TEMPERATURES = (0.25, 0.5, 0.75, 1.0, 1.5)
"""Of the supplementary Table 1."""


def mapping(density: np.ndarray, temperature: float) -> np.ndarray:
    """The incoherence loss of log-densities (eq. 4), float64."""
    return np.logaddexp(0.0, -temperature * np.asarray(density, np.float64)) / temperature


def mapping_gradient(density: np.ndarray, temperature: float) -> np.ndarray:
    """The derivative of `mapping` by the log-density, -1 to 0, float64."""
    return 0.5 * (np.tanh(0.5 * temperature * np.asarray(density, np.float64)) - 1.0)


def mapping_figure(temperatures: Sequence[float] = TEMPERATURES) -> Figure:
    """Incoherence loss by log-density, a line a temperature (supplementary Fig. 1)."""
    return _lines(mapping, temperatures, "Incoherence loss")


def gradient_figure(temperatures: Sequence[float] = TEMPERATURES) -> Figure:
    """Gradient of the incoherence loss by log-density (supplementary Fig. 2)."""
    return _lines(mapping_gradient, temperatures, "Gradient of the incoherence loss")


def _lines(function, temperatures: Sequence[float], title: str) -> Figure:
    density = np.linspace(-20.0, 20.0, 401)
    with matplotlib.rc_context(figures._STYLE):
        figure, (axes,), _ = figures._panels(1, 1, (5.0, 3.6))
        for temperature, colour in zip(temperatures, figures.COLOURS):
            label = f"$\\tau$ = {temperature:g}"
            axes.plot(density, function(density, temperature), color=colour, label=label)
        axes.set(title=title, xlabel="Log-density of the grades", xlim=(-20, 20))
        axes.legend()
        return figure


def least_coherent(table: pd.DataFrame, number: int) -> list[int]:
    """The knees of a predictions table whose true grades have the lowest log-density.

    Candidates to be read again; knees with a missing grade are not among them. Knees of like
    log-density stand in the order of how much more coherent the prediction is.

    Args:
        table: a predictions table with `coherence_given` and `coherence_predicted`; one without
            has no such knees.
        number: at most so many.

    Returns:
        Positions of rows, the least coherent first.
    """
    if "coherence_given" not in table:
        return []
    given = table["coherence_given"].to_numpy(np.float64)
    gain = table["coherence_predicted"].to_numpy(np.float64) - given
    order = np.lexsort((-gain, given))
    return [int(i) for i in order if np.isfinite(given[i])][:number]


def example_of(row: pd.Series, image: np.ndarray, keypoints: np.ndarray | None = None) -> Example:
    """A knee of `least_coherent`, to be shown with its grades, given and predicted.

    Args:
        row: of the predictions table.
        image: uint8 [H, W].
        keypoints: float [74, 2] in pixels of the image, if it has them.
    """
    grades = [g for g in GRADES if g in row]
    return Example(
        image=image,
        truth={g: MISSING if pd.isna(row[g]) else int(row[g]) for g in grades},
        prediction={g: int(row[f"{g}_pred"]) for g in grades},
        caption=(
            f"{row['subject']} {row['side']}, month {row['visit']}: log-density of the reading "
            f"{row['coherence_given']:.1f}, of the prediction {row['coherence_predicted']:.1f}"
        ),
        keypoints=keypoints,
    )
