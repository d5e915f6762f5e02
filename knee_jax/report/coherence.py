"""Report sections on coherence: the loss, and the knees with the least coherent grades.

The two figures are supplementary Figs. 1 and 2 of Zheng et al. 2021.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from knee_jax.report import figures
from knee_jax.report.examples import Example, example_drawing
from knee_jax.report.sections import Drawing, Section
from knee_jax.report.tables import Table
from knee_jax.targets.grades import GRADES
from knee_jax.tasks.coherence_loss import incoherence

TEMPERATURES = (0.25, 0.5, 0.75, 1.0, 1.5)
"""Temperatures of the supplementary Table 1."""


def mapping(density: np.ndarray, temperature: float) -> np.ndarray:
    """Return the incoherence loss of log-densities [n] (eq. 4), float32 [n]."""
    return np.asarray(incoherence(jnp.asarray(density, jnp.float32), temperature))


def mapping_gradient(density: np.ndarray, temperature: float) -> np.ndarray:
    """Return the derivative of `mapping` by the log-density, -1 to 0, float32 [n]."""
    slope = jax.vmap(jax.grad(incoherence), (0, None))
    return np.asarray(slope(jnp.asarray(density, jnp.float32), temperature))


def mapping_figure(temperatures: Sequence[float] = TEMPERATURES) -> Figure:
    """Draw the incoherence loss by log-density, one line per temperature (supplementary Fig. 1)."""
    return _lines(mapping, temperatures, "Incoherence loss")


def gradient_figure(temperatures: Sequence[float] = TEMPERATURES) -> Figure:
    """Draw the gradient of the incoherence loss by log-density (supplementary Fig. 2)."""
    return _lines(mapping_gradient, temperatures, "Gradient of the incoherence loss")


def _lines(function, temperatures: Sequence[float], title: str) -> Figure:
    density = np.linspace(-20.0, 20.0, 401)
    with matplotlib.rc_context(figures.STYLE):
        figure, (axes,), _ = figures.make_panels(1, 1, (5.0, 3.6))
        for temperature, colour in zip(temperatures, figures.COLOURS):
            label = f"$\\tau$ = {temperature:g}"
            axes.plot(density, function(density, temperature), color=colour, label=label)
        axes.set(title=title, xlabel="Log-density of the grades", xlim=(-20, 20))
        axes.legend()
        return figure


def suspects_section(listing: pd.DataFrame, shown: Sequence[Example], number: int = 20) -> Section:
    """Show the knees of a cohort with the least coherent grades: candidates to be read again.

    Args:
        listing: Table of `knee_jax.metrics.grade_coherence.list_suspects`.
        shown: First of its knees, with their pixels.
        number: Number of knees in the table.
    """
    measures = ("suspect", "surprise", "log_density", "incoherence")
    names = ("subject", "side", "visit", *GRADES, *measures)
    header = tuple(name.replace("_", " ") if name not in GRADES else name.upper() for name in names)
    rows = tuple(
        tuple(
            f"{row[name]:.1f}" if isinstance(row[name], float) else str(row[name]) for name in names
        )
        for row in listing.head(number).to_dict("records")
    )
    drawings = [
        example_drawing(
            f"suspect_{place:02d}",
            knee,
            ", ".join(f"{g.upper()} {v}" for g, v in knee.truth.items()),
        )
        for place, knee in enumerate(shown, start=1)
    ]
    notes = (
        f"Of {len(listing):,} knee images with all seven grades, those whose grades fit together "
        "least. The suspect is the grade that the six others suggest least; surprise is minus the "
        "logarithm of its probability given them, and incoherence adds to it where the log-density "
        "of all seven is very low. Neither says that a grade is wrong, but that it is worth a "
        "second look.",
        "All are in suspects.csv of the work directory, the least coherent first.",
    )
    return Section("Least coherent labels", notes, (Table("", header, rows),), drawings)


def loss_section(temperature: float) -> Section:
    """Show the incoherence loss as a function of the log-density, for some temperatures."""
    drawings = (
        Drawing("coherence_mapping", "Incoherence loss by log-density", mapping_figure()),
        Drawing("coherence_gradient", "Gradient of the incoherence loss", gradient_figure()),
    )
    note = f"This run's temperature is {temperature:g} (Zheng et al. 2021, supplementary figures)."
    return Section("Incoherence loss", (note,), (), drawings)
