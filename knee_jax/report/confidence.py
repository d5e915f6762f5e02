"""Report section on a network's confidence: its reliability, and its distribution."""

from collections.abc import Mapping

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from knee_jax import targets
from knee_jax.metrics.calibration import (
    Reliability,
    brier,
    expected_calibration_error,
    reliability,
)
from knee_jax.report import figures
from knee_jax.report.sections import Drawing, Section
from knee_jax.targets.kinds import Classes

Array = np.ndarray


def reliability_figure(diagrams: Mapping[str, tuple[Reliability, str]]) -> Figure:
    """Draw accuracy by confidence, one panel per title, at most four in a row.

    Args:
        diagrams: Bins, and a line to print below the panel, by title.
    """
    with matplotlib.rc_context(figures.STYLE):
        size = (3.6, 3.5) if len(diagrams) == 1 else (2.9, 2.9)
        figure, panels, columns = figures.make_panels(len(diagrams), 4, size)
        for axes, (title, (bins, words)) in zip(panels, diagrams.items(), strict=True):
            edges = np.linspace(0.0, 1.0, len(bins.counts) + 1)
            share = bins.counts / bins.counts.sum()
            axes.bar(edges[:-1], share, np.diff(edges), align="edge", color="#D0D0D0")
            axes.plot([0, 1], [0, 1], color="#999999", lw=1, ls=":")
            full = bins.counts > 0
            x, y = bins.predicted[full], bins.observed[full]
            axes.plot(x, y, color=figures.BLUE, lw=1)
            area = 4 + 150 * share[full]
            axes.scatter(x, y, area, color=figures.BLUE, zorder=3, clip_on=False)
            axes.set(xlim=(0, 1), ylim=(-0.02, 1.02), aspect="equal")
            axes.set_xlabel(f"Confidence\n{words}")
            axes.set_title(title, fontsize=9.5)
        for axes in panels[::columns]:
            axes.set_ylabel("Share of knees")
        return figure


def curves_figure(table: pd.DataFrame, target: Classes) -> Figure:
    """Draw the probability of the second class, for knees of each true class in descending order.

    Wang et al., Fig. 5. Both curves span the width, however many knees a class has.

    Args:
        table: Predictions table in which every knee has a class of the target.
        target: Target of two classes.
    """
    with matplotlib.rc_context(figures.STYLE):
        figure, (axes,), _ = figures.make_panels(1, 1, (5.6, 3.9))
        axes.axhline(0.5, color="#999999", lw=1, ls=":")
        for value, colour in enumerate((figures.BLUE, figures.ORANGE)):
            knees = table[table[target.name] == value].sort_values(
                target.output_columns()[1], ascending=False, kind="stable"
            )
            place = 100 * (np.arange(len(knees)) + 0.5) / max(1, len(knees))
            probability = knees[target.output_columns()[1]].to_numpy()
            wrong = (knees[f"{target.name}_pred"] != value).to_numpy()
            label = f"{target.class_label(value)}: {len(knees):,} knees, {wrong.sum():,} wrong"
            axes.plot(place, probability, color=colour, label=label)
            axes.plot(
                *(place[wrong], probability[wrong]),
                *("x",),
                color=figures.BLACK,
                ms=4.5,
                mew=1.1,
                zorder=3,
            )
        axes.plot([], [], "x", color=figures.BLACK, ms=4.5, mew=1.1, label="predicted wrongly")
        axes.set(
            title=target.title,
            xlabel="Knees of each true class (%), by descending probability",
            ylabel=f"Probability of {target.class_label(1)}",
            xlim=(0, 100),
            ylim=(-0.02, 1.02),
        )
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
        return figure


def confidence_section(table: pd.DataFrame) -> Section:
    """Show reliability diagrams of all targets, and sorted probabilities of two classes.

    Args:
        table: Predictions table.
    """
    shown = targets.of_kind(figures.labelled_targets(table), Classes)
    notes = [
        "The confidence of a prediction is the probability of the predicted class. Where it can be "
        "believed, the share of knees that are right (blue) follows the dotted line: above it the "
        "network is too modest, below it too sure. Grey: the share of all knees in each of 15 bins "
        "of confidence. ECE: expected calibration error, the mean distance over all knees of the "
        "blue line from the dotted one (Guo et al. 2017). Brier: mean squared distance of the "
        "probabilities from the truth (Brier 1950), summed over the classes where there are more "
        "than two.",
    ]
    drawings = []
    diagrams = {target.title: _diagram(table, target) for target in shown}
    if diagrams:
        drawings.append(
            Drawing("reliability", "Reliability diagrams", reliability_figure(diagrams))
        )
    for target in shown:
        if "sorted_confidence" in target.figures:
            known = table[target.is_known(table[target.name])]
            alt = f"Sorted probabilities, {target.title}"
            drawings.append(Drawing(f"confidence_{target.name}", alt, curves_figure(known, target)))
            notes.append(
                f"{target.title}: the knees of each true class by descending probability; "
                "a cross is a knee that was predicted wrongly (Wang et al., Fig. 5)."
            )
    return Section("Confidence", notes, (), drawings)


def _diagram(table: pd.DataFrame, target: Classes) -> tuple[Reliability, str]:
    known = table[target.is_known(table[target.name])]
    probabilities = known[target.output_columns()].to_numpy(np.float64)
    truth = known[target.name].to_numpy(np.int64)
    right = truth == known[f"{target.name}_pred"].to_numpy(np.int64)
    confidence = probabilities.max(1)
    error, score = expected_calibration_error(confidence, right), brier(probabilities, truth)
    return reliability(confidence, right), f"ECE {error:.3f}, Brier {score:.3f}"
