"""What a report shows of a network's confidence: whether it can be believed, and where it ends."""

from collections.abc import Mapping
from typing import NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from knee_jax.grades import MISSING, NUM_CLASSES
from knee_jax.metrics.predictions import probability_columns
from knee_jax.report import figures
from knee_jax.report.sections import Drawing, Section
from knee_jax.report.tables import class_title, target_title

Array = np.ndarray


class Reliability(NamedTuple):
    """What was predicted and what came true, by bins of the confidence.

    Attributes:
        counts: float64 [b], knees in each bin.
        predicted: float64 [b], their mean confidence; NaN in an empty bin.
        observed: float64 [b], the share of them that was right; NaN in an empty bin.
    """

    counts: Array
    predicted: Array
    observed: Array


def reliability(scores: Array, outcomes: Array, num_bins: int = 15) -> Reliability:
    """Compares confidence with outcome in bins of equal width over 0 to 1 (Guo et al. 2017).

    Args:
        scores: [n], 0 to 1, the probability of the predicted class. A score on the edge of two bins
            is in the lower one, and 0 in the first.
        outcomes: bool [n], whether it was the true one.
        num_bins: number of bins b, 15 in that paper.
    """
    bins = np.searchsorted(np.linspace(0.0, 1.0, num_bins + 1)[1:-1], scores)
    counts, predicted, observed = (
        np.bincount(bins, weights, num_bins) for weights in (None, scores, outcomes)
    )
    size = np.where(counts > 0, counts, np.nan)
    return Reliability(counts.astype(np.float64), predicted / size, observed / size)


def expected_calibration_error(bins: Reliability) -> float:
    """Mean distance of confidence and accuracy over the bins, 0 to 1 (ibid., eq. 3)."""
    distance = bins.counts * np.abs(bins.predicted - bins.observed)
    return float(np.nansum(distance) / bins.counts.sum())


def brier(probabilities: Array, truth: Array) -> float:
    """Mean squared distance of the probabilities from the truth, 0 for certain and right.

    Summed over three classes or more, 0 to 2 (Brier 1950); with two it is that of one, 0 to 1.

    Args:
        probabilities: [n, C], of the classes.
        truth: int [n], 0 to C - 1.
    """
    num_classes = probabilities.shape[1]
    distance = np.square(probabilities - np.eye(num_classes)[truth]).sum(1).mean()
    return float(distance / (2 if num_classes == 2 else 1))


def reliability_figure(diagrams: Mapping[str, tuple[Reliability, str]]) -> Figure:
    """Accuracy by confidence, a panel for each title; at most four in a row.

    Args:
        diagrams: {title: (bins, a line to stand below the panel)}.
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


def curves_figure(table: pd.DataFrame, target: str) -> Figure:
    """Probability of the second class, the knees of each true class in descending order.

    Wang et al., Fig. 5. Both curves span the width, however many knees a class has.

    Args:
        table: a predictions table in which every knee has a class of the target.
        target: one of two classes.
    """
    with matplotlib.rc_context(figures.STYLE):
        figure, (axes,), _ = figures.make_panels(1, 1, (5.6, 3.9))
        axes.axhline(0.5, color="#999999", lw=1, ls=":")
        for value, colour in enumerate((figures.BLUE, figures.ORANGE)):
            knees = table[table[target] == value].sort_values(
                f"{target}_p1", ascending=False, kind="stable"
            )
            place = 100 * (np.arange(len(knees)) + 0.5) / max(1, len(knees))
            probability = knees[f"{target}_p1"].to_numpy()
            wrong = (knees[f"{target}_pred"] != value).to_numpy()
            label = f"{class_title(target, value)}: {len(knees):,} knees, {wrong.sum():,} wrong"
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
            title=target_title(target),
            xlabel="Knees of each true class (%), by descending probability",
            ylabel=f"Probability of {class_title(target, 1)}",
            xlim=(0, 100),
            ylim=(-0.02, 1.02),
        )
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
        return figure


def confidence_section(table: pd.DataFrame) -> Section:
    """Reliability diagrams of all that was predicted, and sorted probabilities of two classes.

    Args:
        table: a predictions table.
    """
    targets = figures.labelled_grades(table)
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
    diagrams = {target_title(target): _diagram(table, target) for target in targets}
    if diagrams:
        drawings.append(
            Drawing("reliability", "Reliability diagrams", reliability_figure(diagrams))
        )
    for target in targets:
        if NUM_CLASSES[target] == 2:
            known = table[table[target] != MISSING]
            alt = f"Sorted probabilities, {target_title(target)}"
            drawings.append(Drawing(f"confidence_{target}", alt, curves_figure(known, target)))
            notes.append(
                f"{target_title(target)}: the knees of each true class by descending probability; "
                "a cross is a knee that was predicted wrongly (Wang et al., Fig. 5)."
            )
    return Section("Confidence", notes, (), drawings)


def _diagram(table: pd.DataFrame, target: str) -> tuple[Reliability, str]:
    known = table[table[target] != MISSING]
    probabilities = known[probability_columns(target)].to_numpy(np.float64)
    truth = known[target].to_numpy(np.int64)
    right = truth == known[f"{target}_pred"].to_numpy(np.int64)
    bins = reliability(probabilities.max(1), right)
    error = expected_calibration_error(bins)
    return bins, f"ECE {error:.3f}, Brier {brier(probabilities, truth):.3f}"
