"""Report sections that explain a network: its features on a plane, and its evidence."""

import types
from collections.abc import Hashable, Mapping
from typing import Any

import cv2
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from knee_jax import pictures, targets
from knee_jax.evaluation import deletion
from knee_jax.evaluation.explain import MOST_KNEES, Explanation, HeatMaps, SliceMaps
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

SIDES = types.MappingProxyType(
    {"sagittal": ("A", "P"), "axial": pictures.FILM_SIDES, "coronal": pictures.FILM_SIDES}
)
"""Marks at the left and right of the slices of each view: anterior, posterior; lateral, medial."""

PANEL = 240
"""Width of one knee in a picture, pixels."""


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


def heat_picture(maps: HeatMaps, number: int, words: str) -> Array:
    """Draw a knee as the network sees it, and beside it the location of the evidence.

    Args:
        maps: Maps of several knees.
        number: Number of the knee to draw.
        words: What the evidence speaks for.
    """
    image, heat = maps.images[number], maps.heat[number]
    size, (height, width) = maps.mm_per_pixel, image.shape
    patch = (maps.patch, first_row(height, width, maps.patch) if maps.patch else 0)
    read = pictures.knee(image, PANEL, mm_per_pixel=size)
    seen = pictures.evidence(image, heat, PANEL, mm_per_pixel=size, patch=patch)
    panels = [("as read", read), (f"evidence for {words}", seen)]
    return pictures.row(panels, bar=True)


def slices_picture(slices: Mapping[str, SliceMaps], knee: int, attended: bool, words: str) -> Array:
    """Draw the weight of each slice of a volume, and the strongest slices with heat.

    Args:
        slices: Maps of several knees for each view.
        knee: Number of the knee to draw.
        attended: Whether the bars are attention.
        words: What the evidence speaks for.
    """
    marked, panels, groups = [], [], []
    for view, maps in slices.items():
        marked.append(np.isin(np.arange(maps.strength.shape[1]), maps.numbers[knee]))
        groups.append((maps.strength.shape[1], "\n".join((view, " to ".join(ENDS[view])))))
        rows_mm, columns_mm = maps.spacing_mm
        aspect = rows_mm / columns_mm if np.isfinite(rows_mm / columns_mm) else 1.0
        for number, image, heat in zip(maps.numbers[knee], maps.images[knee], maps.heat[knee]):
            height, width = round(image.shape[0] * aspect), image.shape[1]
            drawn = pictures.evidence(
                cv2.resize(image, (width, height)),
                heat,
                round(PANEL * width / height),
                sides=SIDES[view],
                mm_per_pixel=columns_mm,
                brightest=max(1, int(np.percentile(image, 99.5))),
            )
            panels.append((f"{view} {number + 1}", drawn))
    strength = np.concatenate([maps.strength[knee] for maps in slices.values()])
    chart = pictures.bars(strength, np.concatenate(marked), groups, (PANEL, PANEL))
    first = "attention to each slice" if attended else "evidence in each slice"
    panels[0] = (f"{panels[0][0]}: evidence for {words}", panels[0][1])
    return pictures.row([(first, chart), *panels], bar=True)


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
    """Show where the network looked, for a few telling knees (Wang et al., Fig. 4).

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
            words += ", for which nothing in its maps speaks"
        drawings.append(
            Drawing(
                f"heat_{number:02d}",
                f"Knee radiograph and heat map, {words}",
                heat_picture(maps, number, _speaks_for(row, target)),
                caption=_caption(row, target, words),
            )
        )
    notes = [
        f"{target_title(target)}: each knee as the network reads it, lateral at the left, and "
        f"beside it where the evidence for {_for_what(target)} lay, brightest where it was "
        f"strongest; each knee has its own scale. {_order(target)}",
        _HEAT_NOTE,
    ]
    if maps.losses is not None:
        notes.append(_deletion_note(maps.losses))
    if maps.patch:
        notes.append(
            f"The network reads two patches of {maps.patch} px, lateral and medial (frames), and "
            "nothing else of the knee."
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
                slices_picture(slices, number, explanation.attended, _speaks_for(row, target)),
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
        f"(orange bars), in their order, with the evidence for {_for_what(target)} in colour, "
        f"brightest where it was strongest in all slices of the knee. {_order(target)}",
        _HEAT_NOTE + " Attention says what was read, not what for."
        if explanation.attended
        else _HEAT_NOTE,
    ]
    return Section(title, notes, (), drawings)


def misleads(maps: HeatMaps | None) -> bool:
    """Tell if heat failed the test by deletion."""
    means = _mean_losses(maps.losses) if maps and maps.losses is not None else None
    return means is not None and deletion.is_misleading(*means)


def _mean_losses(losses: Array) -> tuple[float, float] | None:
    """Return the means of `HeatMaps.losses` over the knees that have heat, None if none has."""
    known = losses[np.isfinite(losses).all(axis=1)]
    return (float(known[:, 0].mean()), float(known[:, 1].mean())) if len(known) else None


def _deletion_note(losses: Array) -> str:
    """Say how far the heat marks what the predictions rest on, by `HeatMaps.losses`."""
    if (means := _mean_losses(losses)) is None:
        return "Whether the heat marks what counts was not tested: there is none."
    hottest, elsewhere = means
    found = (
        f"Test by deletion, on {np.isfinite(losses[:, 0]).sum()} knees: blurring the hottest tenth "
        f"of a picture takes {hottest:.2f} off the margin of the predicted class (its logit above "
        f"the mean of the others), blurring the same shape elsewhere {elsewhere:.2f}."
    )
    if deletion.is_misleading(hottest, elsewhere):
        return f"{found} So the heat does NOT mark what these predictions rest on."
    return found


def _order(target: str) -> str:
    if not isinstance(targets.get(target), Classes):
        return "From the best predicted knee to the worst."
    return (
        "First those that were right and most certain, of each class, then those that were wrong "
        "and most certain, then those that the network could hardly decide."
    )


def _for_what(target: str) -> str:
    return "the predicted class" if isinstance(targets.get(target), Classes) else "a high value"


_HEAT_NOTE = (
    "Heat is gradient times activation, cell by cell of the network's maps (Draelos & Carin 2020; "
    "Jiang et al. 2021), drawn about the middle of what a cell reads: dark is where no head reads, "
    "or nothing speaks for it. It says what the prediction rests on, not that it is right, and is "
    "no finer than these maps. L lateral, M medial, A anterior, P posterior."
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


def _speaks_for(row: Mapping[Hashable, Any], target: str) -> str:
    """Name what heat speaks for: the predicted class, or a high value."""
    kind = targets.get(target)
    if isinstance(kind, Classes):
        return kind.class_label(row[f"{target}_pred"])
    return f"a high {kind.title}"


def _caption(row: Mapping[Hashable, Any], target: str, words: str) -> str:
    right = targets.get(target).agrees(row[target], row[f"{target}_pred"])
    knee = f"{row['subject']} {row['side']}, month {row['visit']}"
    return f"{'Right' if right else 'Wrong'}: {words}. {knee}"
