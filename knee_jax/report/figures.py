"""Figures of a report, each a matplotlib figure that the caller saves.

Figures are made without pyplot, hence without global state, a window system or anything to close.
Colours are those of Okabe & Ito (2008), which people with any form of colour blindness can
distinguish.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from knee_jax import targets
from knee_jax.files import write_bytes
from knee_jax.metrics import agreement, discrimination
from knee_jax.metrics.decision_curve import DecisionCurve
from knee_jax.metrics.endpoints import dichotomy_samples
from knee_jax.metrics.predictions import targets_in
from knee_jax.metrics.scoring import LIMITS
from knee_jax.metrics.summary import Summary
from knee_jax.report.tables import METRIC_TITLES, format_estimate
from knee_jax.targets.kinds import Classes, Continuous, Dichotomy

Array = np.ndarray

BLUE, ORANGE, GREEN, PURPLE, SKY, RED, YELLOW, BLACK = COLOURS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#B8A800",
    "#222222",
)

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.edgecolor": "#666666",
    "axes.labelcolor": "#222222",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=COLOURS),
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.8,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "svg.hashsalt": "knee_jax",
    "pdf.fonttype": 42,
}
_DPI = 150


def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format that the suffix names; the same figure gives the same bytes."""
    write_bytes(path, rendered(figure, path.suffix.removeprefix(".")))


def rendered(figure: Figure, kind: str) -> bytes:
    """Return a figure as the content of a `png`, `svg` or `pdf` file.

    Letters are outlines, so that no font is missing elsewhere.
    """
    dates: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    content = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        # Laid out once: to save it with its engine would draw it twice.
        if (engine := figure.get_layout_engine()) is not None:
            engine.execute(figure)
            figure.set_layout_engine("none")
        figure.savefig(
            content, format=kind, dpi=_DPI, facecolor="white", metadata=dates.get(kind, {})
        )
    return content.getvalue()


def confusion_figure(table: pd.DataFrame, grades: Sequence[Classes]) -> Figure:
    """Draw confusion matrices of the grades: percent of each true grade, and counts.

    Args:
        table: Predictions table in which each of the grades has labelled rows.
        grades: Grades to draw, one panel each, at most three in a row.
    """
    with matplotlib.rc_context(STYLE):
        size = 4.2 if len(grades) == 1 else 3.4
        figure, panels, _ = make_panels(len(grades), 3, (size, size))
        for axes, grade in zip(panels, grades, strict=True):
            _draw_confusion(axes, table, grade)
        return figure


def curves_figure(table: pd.DataFrame, tasks: Sequence[Dichotomy], summary: Summary) -> Figure:
    """Draw ROC and precision-recall curves of dichotomies, with the areas and their intervals.

    Tiulpin & Saarakkala 2020, Figure 3. Dotted lines are the prevalences, which a precision-recall
    curve would follow by chance.

    Args:
        table: Predictions table; in each of the dichotomies both classes occur.
        tasks: Dichotomies, at most as many as `COLOURS`.
        summary: Metrics of the same table.
    """
    with matplotlib.rc_context(STYLE):
        figure, (left, right), _ = make_panels(2, 2, (4.6, 4.8 + 0.25 * len(tasks)))
        left.plot([0, 1], [0, 1], color="#999999", lw=1, ls=":")
        for task, colour in zip(tasks, COLOURS):
            _, scores, positives = dichotomy_samples(table, task)
            x, y, _ = discrimination.roc_curve(scores, positives)
            area = format_estimate(summary[task.name]["roc_auc"])
            left.plot(x, y, color=colour, label=f"{task.title}: AUC {area}")
            x, y, _ = discrimination.precision_recall_curve(scores, positives)
            area = format_estimate(summary[task.name]["average_precision"])
            label = f"{task.title}: AP {area}"
            right.step(x, y, where="pre", color=colour, label=label)
            right.axhline(positives.mean(), color=colour, lw=1, ls=":")
        left.set(
            title="ROC",
            xlabel="False positive rate (1 - specificity)",
            ylabel="True positive rate (sensitivity)",
        )
        right.set(
            title="Precision-recall",
            xlabel="Recall (sensitivity)",
            ylabel="Precision (positive predictive value)",
        )
        for axes in (left, right):
            axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), fontsize=8.5)
        return figure


def distribution_figure(table: pd.DataFrame, grades: Sequence[Classes]) -> Figure:
    """Draw how often each class occurs among true and predicted grades of labelled knees.

    Args:
        table: Predictions table.
        grades: Grades to draw, one panel each, at most four in a row.
    """
    labelled = {t.name: table[t.is_known(table[t.name])] for t in grades}
    read = {name: knees[name] for name, knees in labelled.items()}
    predicted = {name: knees[f"{name}_pred"] for name, knees in labelled.items()}
    return _shares_figure({"read": read, "predicted": predicted}, ("#8A8A8A", BLUE), grades)


def cohorts_figure(cohorts: Mapping[str, pd.DataFrame], grades: Sequence[Classes]) -> Figure:
    """Draw how often each class of the grades was read in each cohort.

    Tiulpin & Saarakkala 2020, Supplementary Figures 2 (lateral) and 3 (medial).

    Args:
        cohorts: Table with columns of true grades by name: an index or a predictions table; at most
            as many as `COLOURS`.
        grades: Grades to draw, one panel each, at most four in a row; each cohort has them all.
    """
    read = {
        f"{name} ({len(table):,} knees)": {
            t.name: table.loc[t.is_known(table[t.name]), t.name] for t in grades
        }
        for name, table in cohorts.items()
    }
    return _shares_figure(read, COLOURS, grades)


def training_figure(history: pd.DataFrame, best_step: int | None = None) -> Figure | None:
    """Draw the course of the loss, and of the metric that chose the checkpoint.

    Args:
        history: Long table with the columns step, name, value; `train/loss` is the loss of
            training, and every name that begins with `validation/` is of the validation knees.
        best_step: Step of the best checkpoint, which is marked.

    Returns:
        Figure with one panel for the loss and one for every other metric of the validation knees;
        None if nothing has two points.
    """
    panels: dict[str, list[tuple[str, pd.DataFrame]]] = {}
    for name, rows in history.groupby("name", sort=False):
        part, _, quantity = str(name).rpartition("/")
        if len(rows) > 1 and (part == "validation" or (part, quantity) == ("train", "loss")):
            panels.setdefault(quantity, []).append((part, rows))
    if not panels:
        return None
    with matplotlib.rc_context(STYLE):
        figure, all_axes, _ = make_panels(len(panels), 3, (4.6, 3.1))
        for axes, (quantity, lines) in zip(all_axes, panels.items(), strict=True):
            for part, rows in lines:
                axes.plot(
                    rows["step"],
                    rows["value"],
                    color=ORANGE if part == "validation" else BLUE,
                    marker="o" if len(rows) < 30 else "",
                    ms=3,
                    label={"train": "training", "validation": "validation"}[part],
                )
            if best_step is not None:
                axes.axvline(best_step, color="#999999", lw=1, ls="--", label="best checkpoint")
            title = METRIC_TITLES.get(quantity, quantity.replace("_", " "))
            axes.set(title=title[:1].upper() + title[1:], xlabel="Step")
            axes.ticklabel_format(axis="y", scilimits=(-3, 4))
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.legend(fontsize=8)
        return figure


def bland_altman_figure(table: pd.DataFrame, target: Continuous) -> Figure:
    """Draw differences by means of prediction and label, with bias and limits of agreement.

    Bland & Altman 1986. Solid line: bias; dashed lines: bias plus and minus 1.96 standard
    deviations of the differences.

    Args:
        table: Predictions table in which the target has labelled rows.
        target: Target to draw.
    """
    labelled = table[target.is_known(table[target.name])]
    truth, prediction = (
        labelled[name].to_numpy(np.float64) for name in (target.name, f"{target.name}_pred")
    )
    errors = prediction - truth
    bias, spread = errors.mean(), LIMITS * errors.std(ddof=1) if len(errors) > 1 else 0.0
    with matplotlib.rc_context(STYLE):
        figure, (left, right), _ = make_panels(2, 2, (4.6, 3.9))
        left.scatter((truth + prediction) / 2, errors, 12, color=BLUE, alpha=0.5, lw=0)
        for value, style, words in (
            (bias, "-", f"bias {bias:.2f}"),
            (bias + spread, "--", f"{bias + spread:.2f}"),
            (bias - spread, "--", f"{bias - spread:.2f}"),
        ):
            left.axhline(value, color=RED, lw=1.2, ls=style)
            left.annotate(
                words,
                (1.0, value),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
                fontsize=8.5,
                color=RED,
            )
        left.set(
            title="Bland-Altman",
            xlabel=f"Mean of prediction and label ({target.unit})",
            ylabel=f"Prediction minus label ({target.unit})",
        )
        right.scatter(truth, prediction, 12, color=BLUE, alpha=0.5, lw=0)
        ends = [min(truth.min(), prediction.min()), max(truth.max(), prediction.max())]
        right.plot(ends, ends, color="#999999", lw=1, ls=":")
        right.set(
            title=target.title,
            xlabel=f"Label ({target.unit})",
            ylabel=f"Prediction ({target.unit})",
        )
        return figure


def decision_figure(curve: DecisionCurve, title: str) -> Figure:
    """Draw a decision curve, up to the probabilities at which acting on nobody is as good.

    Vickers & Elkin 2006. The band is the 95 % interval by subject.

    Args:
        curve: Decision curve.
        title: Title of the endpoint.
    """
    with matplotlib.rc_context(STYLE):
        figure, (axes,), _ = make_panels(1, 1, (4.6, 3.6))
        axes.fill_between(curve.thresholds, curve.low, curve.high, color=BLUE, alpha=0.18, lw=0)
        axes.plot(curve.thresholds, curve.model, color=BLUE, label="act on the model")
        axes.plot(curve.thresholds, curve.everybody, color="#777777", lw=1.2, label="on everybody")
        axes.axhline(0, color="#777777", lw=1.2, ls=":", label="on nobody")
        top = float(curve.model.max())
        axes.set(
            title=f"Decision curve: {title}",
            xlabel="Probability to act from",
            ylabel="Net benefit",
            xlim=(0, 1),
            ylim=(-0.12 * top, 1.08 * top),
        )
        axes.legend(loc="upper right")
        return figure


def labelled_targets(table: pd.DataFrame) -> list[str]:
    """Return the targets of a predictions table for which at least one knee has a label."""
    return [t for t in targets_in(table) if targets.get(t).is_known(table[t]).any()]


def _draw_confusion(axes: Axes, table: pd.DataFrame, target: Classes) -> None:
    labelled = table[target.is_known(table[target.name])]
    indicators = agreement.pair_indicators(
        labelled[target.name].to_numpy(),
        labelled[f"{target.name}_pred"].to_numpy(),
        target.num_outputs,
    )
    counts = agreement.confusion_matrices(np.ones(len(labelled)), indicators)
    percent = 100.0 * counts / np.maximum(1.0, counts.sum(1, keepdims=True))
    axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    for (t, p), share in np.ndenumerate(percent):
        colour = "white" if share > 55 else "#222222"
        axes.text(p, t - 0.08, f"{share:.0f}%", ha="center", va="center", color=colour)
        axes.text(
            p, t + 0.25, f"{counts[t, p]:.0f}", ha="center", va="center", color=colour, fontsize=7.5
        )
    titles = target.class_names
    noun = target.noun
    axes.set(title=target.title, xlabel=f"Predicted {noun}", ylabel=f"True {noun}")
    axes.set_xticks(range(len(titles)), titles)
    axes.set_yticks(range(len(titles)), titles)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _shares_figure(
    series: Mapping[str, Mapping[str, pd.Series]], colours: Sequence[str], grades: Sequence[Classes]
) -> Figure:
    """Draw bars of percent by class, one panel per grade, from {label: {grade: its classes}}."""
    with matplotlib.rc_context(STYLE):
        figure, panels, columns = make_panels(len(grades), 4, (2.75, 2.3), share_y=True)
        width = 0.8 / len(series)
        for axes, grade in zip(panels, grades, strict=True):
            classes = np.arange(grade.num_outputs)
            for i, ((label, values), colour) in enumerate(zip(series.items(), colours)):
                of_grade = values[grade.name].to_numpy(np.int64)
                counts = np.bincount(of_grade, minlength=len(classes))
                share = 100.0 * counts / max(1, len(of_grade))
                centres = classes + (i - (len(series) - 1) / 2) * width
                axes.bar(centres, share, width=0.95 * width, color=colour, label=label)
            axes.set_xticks(classes, grade.class_names)
            axes.set_xlabel(grade.noun.capitalize())
            axes.set_title(grade.title, fontsize=9.5)
        for axes in panels[::columns]:
            axes.set_ylabel("Knees (%)")
        # Above a single panel there is no room for labels side by side.
        ncols = len(series) if len(grades) > 1 else 1
        handles = panels[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside upper right", ncols=ncols)
        return figure


def make_panels(
    count: int, max_columns: int, size: tuple[float, float], share_y: bool = False
) -> tuple[Figure, list[Axes], int]:
    """Make a figure with `count` panels of `size` inches; return the panels per row as well."""
    columns = min(count, max_columns)
    rows = -(-count // columns)
    figure = Figure(
        figsize=(size[0] * columns, size[1] * rows),
        layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08),
    )
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=share_y).flat)
    for axes in panels[count:]:
        axes.remove()
    return figure, panels[:count], columns
