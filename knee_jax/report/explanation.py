"""Report sections that explain a network: its features on a plane, and its evidence."""

import types
from collections.abc import Hashable, Mapping
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from knee_jax import targets
from knee_jax.evaluation.explain import MOST_KNEES, Explanation, SliceMaps
from knee_jax.models.patches import first_row
from knee_jax.report import figures
from knee_jax.report.sections import Drawing, Section
from knee_jax.report.tables import target_title
from knee_jax.targets.kinds import Classes

Array = np.ndarray

FEWEST_KNEES = 10
"""Minimum number of knees for a map of features."""

PERPLEXITY = 30.0
"""Perplexity of t-SNE (van der Maaten & Hinton 2008), usually 5 to 50."""

ENDS = types.MappingProxyType(
    {
        "sagittal": ("lateral", "medial"),
        "axial": ("superior", "inferior"),
        "coronal": ("anterior", "posterior"),
    }
)
"""Position of the first and of the last slice in each view."""

_HEAT: Colormap = matplotlib.colormaps["inferno"]


def t_sne(features: Array) -> Array:
    """Map features to a plane; neighbours stay neighbours (van der Maaten & Hinton 2008).

    Args:
        features: Features, [n, d], of at least four knees, which are not all equal.

    Returns:
        Positions, float32 [n, 2]; the same for the same features.
    """
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    # On one thread, since sums, and with them all else, would depend on the number of cores.
    with threadpool_limits(1):
        plane = TSNE(perplexity=perplexity, init="pca", random_state=0, n_jobs=1)
        return plane.fit_transform(features)


def features_figure(places: Array, table: pd.DataFrame, target: str) -> Figure:
    """Draw knees on a plane, coloured by label; those predicted wrongly are hollow.

    Args:
        places: Positions, [n, 2].
        table: Predictions table of these knees.
        target: Name of a target of the table, with at most as many classes as `COLOURS`.
    """
    kind = targets.get(target)
    truth, predicted = (table[c].to_numpy() for c in (target, f"{target}_pred"))
    with matplotlib.rc_context(figures.STYLE):
        width, height = np.ptp(places, axis=0)
        tall = np.clip(4.6 * height / max(width, 1e-9), 2.4, 6.0)
        figure, (axes,), _ = figures.make_panels(1, 1, (6.8, tall + 0.4))
        size = 34 if len(table) < 500 else 16
        if isinstance(kind, Classes):
            for value, colour in zip(range(kind.num_outputs), figures.COLOURS):
                for right, face in ((True, colour), (False, "none")):
                    chosen = (truth == value) & ((predicted == truth) == right)
                    x, y = places[chosen].T
                    axes.scatter(x, y, s=size, facecolors=face, edgecolors=colour, linewidths=1.1)
                label = f"{kind.class_label(value)} ({(truth == value).sum():,})"
                axes.scatter([], [], s=34, color=colour, label=label)
            axes.scatter(
                [], [], s=34, facecolors="none", edgecolors="#444444", label="predicted wrongly"
            )
        else:
            points = axes.scatter(places[:, 0], places[:, 1], s=size, c=truth, cmap="cividis")
            figure.colorbar(points, ax=axes, label=kind.title)
        axes.set(title=f"t-SNE of the features, by {target_title(target)}", xticks=[], yticks=[])
        axes.set_aspect("equal", "datalim")
        axes.spines[:].set_visible(True)
        if isinstance(kind, Classes):
            figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper")
        return figure


def heat_figure(image: Array, heat: Array, patch: int = 0) -> Figure:
    """Draw a knee as the network sees it, and beside it the location of the evidence.

    Args:
        image: Image, uint8 [size, size], lateral at the left.
        heat: Evidence, [size, size], 0 to 1.
        patch: Side of the side patches that the network reads, pixels, which are framed; 0: none.
    """
    height, width = image.shape
    with matplotlib.rc_context(figures.STYLE):
        figure = Figure(figsize=(4.2, 2.1 * height / width))
        # Colours stand out from a darker picture, even where the film is white.
        for left, white in ((0.0, 255), (0.503, 400)):
            axes = figure.add_axes((left, 0.0, 0.497, 1.0))
            axes.axis("off")
            _draw_grey(axes, image, white)
        _draw_heat(axes, heat)
        if patch:
            top = first_row(height, width, patch)
            for left, line in ((0, "-"), (width - patch, "--")):
                frame = Rectangle((left, top), patch, patch, fill=False, ls=line)
                frame.set(edgecolor="white", linewidth=0.9)
                axes.add_patch(frame)
        return figure


def slices_figure(slices: Mapping[str, SliceMaps], knee: int, attended: bool) -> Figure:
    """Draw the weight of each slice of a volume, and the strongest slices with heat.

    Args:
        slices: Maps of several knees for each view.
        knee: Number of the knee to draw.
        attended: Whether the bars are attention.
    """
    with matplotlib.rc_context(figures.STYLE):
        pictures = [
            (view, int(number), image, heat)
            for view, maps in slices.items()
            for number, image, heat in zip(maps.numbers[knee], maps.images[knee], maps.heat[knee])
        ]
        figure = Figure(figsize=(3.2 + 1.9 * len(pictures), 2.3), layout=ConstrainedLayoutEngine())
        widths = [3.2, *[1.9] * len(pictures)]
        axes, *panels = figure.subplots(1, 1 + len(pictures), width_ratios=widths)
        first, middles = 0, []
        shown = {(view, number) for view, number, _, _ in pictures}
        for view, maps in slices.items():
            count = maps.strength.shape[1]
            colours = [figures.ORANGE if (view, i) in shown else figures.BLUE for i in range(count)]
            axes.bar(first + np.arange(count), maps.strength[knee], 1.0, color=colours)
            middles.append((first + (count - 1) / 2, "\n".join((view, " to ".join(ENDS[view])))))
            first += count
        axes.set_xticks(*zip(*middles))
        axes.tick_params(axis="x", length=0, labelsize=8 if len(middles) == 1 else 6)
        axes.set(xlim=(-1, first), ylabel="Attention" if attended else "Share of evidence")
        axes.set_title("Slices", fontsize=9.5)
        for panel, (view, number, image, heat) in zip(panels, pictures, strict=True):
            panel.axis("off")
            _draw_grey(panel, image, 330)
            _draw_heat(panel, heat)
            panel.set_title(f"{view} {number + 1}", fontsize=9)
        return figure


def features_section(table: pd.DataFrame, explanation: Explanation) -> Section:
    """Show the network's features on a plane (Wang et al., Fig. 6).

    Args:
        table: Predictions table that was explained.
        explanation: Explanation of the network.
    """
    title, found = "Features", explanation.features
    if found is None:
        return Section(title, ("Not shown: the network does not let its features be seen.",))
    knees = table.iloc[explanation.gathered]
    if len(knees) < FEWEST_KNEES:
        few = f"Not shown: {len(knees)} knees are too few, at least {FEWEST_KNEES} are needed."
        return Section(title, (few,))
    if not np.ptp(found, axis=0).any():
        return Section(title, ("Not shown: they are the same for all knees.",))
    note = (
        f"The {found.shape[1]:,} features that the network's last layer reads, of {len(knees):,} "
        "knees, laid out by t-SNE (van der Maaten & Hinton 2008): knees that the network sees "
        "alike lie side by side. Distances between groups, their sizes and the directions mean "
        "nothing."
    )
    if len(knees) == MOST_KNEES:
        note += " Of more knees, so many were drawn evenly."
    drawing = Drawing(
        "features",
        f"t-SNE of the network's features, coloured by {target_title(explanation.target)}",
        features_figure(t_sne(found), knees, explanation.target),
    )
    return Section(title, (note,), (), (drawing,))


def heat_section(table: pd.DataFrame, explanation: Explanation) -> Section:
    """Show where the network looked: Grad-CAM of a few telling knees (Wang et al., Fig. 4).

    Args:
        table: Predictions table that was explained.
        explanation: Explanation of the network.
    """
    title, target, maps = "Where the network looked", explanation.target, explanation.heat_maps
    if maps is None:
        return Section(title, ("Not shown: the network does not let its maps be seen.",))
    drawings = []
    for number, row in enumerate(table.iloc[explanation.shown].to_dict("records")):
        words = _verdict(row, target)
        if not maps.heat[number].any():
            words += ", for which nothing in its last maps speaks"
        drawings.append(
            Drawing(
                f"heat_{number:02d}",
                f"Knee radiograph and heat map, {words}",
                figure=heat_figure(maps.images[number], maps.heat[number], maps.patch),
                caption=_caption(row, target, words),
            )
        )
    notes = [
        f"{target_title(target)}: each knee as the network reads it, lateral at the left, and "
        "beside it where the evidence for the predicted class lay (Grad-CAM, Selvaraju et al. "
        f"2017), brightest where it was strongest; each knee has its own scale. {_ORDER}",
        _HEAT_NOTE,
    ]
    if maps.patch:
        notes.append(
            f"The network reads two patches of {maps.patch} px, lateral (solid frame) and medial "
            "(dashed), and nothing else of the knee."
        )
    return Section(title, notes, (), drawings)


def slices_section(table: pd.DataFrame, explanation: Explanation) -> Section:
    """Show which slices of volumes the network looked at, and where in them, for a few knees.

    Args:
        table: Predictions table that was explained.
        explanation: Explanation of the network.
    """
    title, target, slices = "Where the network looked", explanation.target, explanation.slices
    if slices is None:
        return Section(title, ("Not shown: the network does not let its maps be seen.",))
    # In the order in which the network reads them.
    slices = {view: slices[view] for view in ENDS if view in slices}
    drawings = []
    for number, row in enumerate(table.iloc[explanation.shown].to_dict("records")):
        words = _verdict(row, target)
        drawings.append(
            Drawing(
                f"slices_{number:02d}",
                f"Strength of the slices, and the strongest of them with heat, {words}",
                figure=slices_figure(slices, number, explanation.attended),
                caption=_caption(row, target, words),
            )
        )
    bars = (
        "how much the Transformer's class token attends to each slice in its last block, the mean "
        "of its heads (what lacks to 1 is its attention to itself)"
        if explanation.attended
        else "the share of the evidence that lay in each slice"
    )
    notes = [
        f"{target_title(target)}: at the left {bars}. At the right the slices of most strength "
        "(orange bars), in their order, with the evidence for the predicted class in colour "
        "(Grad-CAM, Selvaraju et al. 2017), brightest where it was strongest in all slices of the "
        f"knee. {_ORDER}",
        _HEAT_NOTE + " Attention says what was read, not what for."
        if explanation.attended
        else _HEAT_NOTE,
    ]
    return Section(title, notes, (), drawings)


_ORDER = (
    "First those that were right and most certain, of each class, then those that were wrong and "
    "most certain, then those that the network could hardly decide."
)
_HEAT_NOTE = (
    "Heat says what the prediction rests on, not that it is right, and is no finer than the "
    "network's last maps."
)


def _verdict(row: Mapping[Hashable, Any], target: str) -> str:
    """Describe what was read of a knee, and what was predicted."""
    kind, read, predicted = targets.get(target), row[target], row[f"{target}_pred"]
    if isinstance(kind, Classes):
        return (
            f"read {kind.class_label(read)}, predicted {kind.class_label(predicted)} with "
            f"probability {row[f'{target}_p{predicted}']:.2f}"
        )
    return f"label {kind.format(read)}, predicted {kind.format(predicted)}"


def _caption(row: Mapping[Hashable, Any], target: str, words: str) -> str:
    right = targets.get(target).agrees(row[target], row[f"{target}_pred"])
    knee = f"{row['subject']} {row['side']}, month {row['visit']}"
    return f"{'Right' if right else 'Wrong'}: {words}. {knee}"


def _draw_grey(axes: Axes, image: Array, white: int) -> None:
    """Draw the image as it is; darker if `white` is above 255."""
    height, width = image.shape
    axes.imshow(image, cmap="gray", vmin=0, vmax=white, extent=(0, width, height, 0))
    axes.set(xlim=(0, width), ylim=(height, 0))


def _draw_heat(axes: Axes, heat: Array) -> None:
    height, width = heat.shape
    colours = _HEAT(0.2 + 0.8 * heat)
    colours[..., 3] = 0.7 * heat**0.75
    axes.imshow(colours, extent=(0, width, height, 0), interpolation="bilinear")
