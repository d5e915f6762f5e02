"""Landmarks found by the localiser beside those of a study's landmark files: tables and a picture.

Distances are radial errors in mm, scored as KNEEL was (Tiulpin et al. 2019): mean, median, shares
within 1, 1.5, 2 and 2.5 mm; of all knees and by KL grade, with 95 % intervals by subject, and by
landmark. Neither of the two is the truth: a file may be wrong as well, which the worst knees show.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from knee_jax import targets
from knee_jax.files import write_text
from knee_jax.landmarks import TIBIA
from knee_jax.metrics import summary
from knee_jax.report import figures
from knee_jax.targets.grades import MISSING
from knee_jax.targets.places import Places

KNEES, QUALITY, FIGURE = (
    "landmark_comparison.csv",
    "landmark_quality.csv",
    "landmark_quality.png",
)
"""Table of the knees, the worst first; that of groups of knees and landmarks; and the picture."""

FARTHEST_MM = 6.0
"""End of the axis of distances, mm."""


def write(folder: Path, table: pd.DataFrame, worst: Sequence[Any]) -> None:
    """Write the two tables and the picture.

    Args:
        folder: Folder, which exists.
        table: One row per knee: `subject, side, visit, source, kl`, why there are no landmarks
            (`by_files`, `by_model`, '' where there are), and the columns of the target
            `landmarks` of a predictions table, in units of `spacing_mm`.
        worst: Pictures of the knees on which they differ most: `name`, `error_mm`, `image`, and
            `by_files` and `by_model`, landmarks [74, 2] in pixels of it.
    """
    errors = _target().errors_mm(table)
    for name, each in ((KNEES, knees(table)), (QUALITY, quality(table))):
        write_text(folder / name, each.to_csv(index=False, float_format="%.4g"))
    if np.isfinite(errors).any():
        figures.save(figure(table, worst), folder / FIGURE)


def _target() -> Places:
    target = targets.get("landmarks")
    assert isinstance(target, Places)
    return target


def knees(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per knee, the worst first, then those that only one of the two has.

    Beside the identity: mean, median and largest distance, mm, and the landmark that has it; the
    mean error that the localiser expected of them; and the distance of each landmark, `d0` to
    `d73`.
    """
    target = _target()
    errors = target.errors_mm(table)
    found = table[target.output_columns()].to_numpy(np.float64).reshape(*errors.shape, 3)
    expected = np.where(np.isfinite(errors), found[..., 2], np.nan)
    known = np.isfinite(errors).any(axis=1)

    def over(values: np.ndarray, how: Any) -> np.ndarray:
        result = np.full(len(values), np.nan)
        result[known] = how(values[known], axis=1)
        return result

    identity = ["subject", "side", "visit", "source", "kl", "by_files", "by_model"]
    rows = table[identity].assign(
        mean_mm=over(errors, np.nanmean),
        median_mm=over(errors, np.nanmedian),
        largest_mm=over(errors, np.nanmax),
        farthest=over(errors, np.nanargmax),
        # The localiser expects half of the mean distance (`tasks.landmarks.laplace_loss`).
        expected_mm=2 * over(expected, np.nanmean),
    )
    rows["farthest"] = rows["farthest"].astype("Int64")
    distances = pd.DataFrame(errors, columns=[f"d{i}" for i in range(target.number)])
    both = pd.concat([rows.reset_index(drop=True), distances], axis=1)
    return both.sort_values("mean_mm", ascending=False, kind="stable")


def quality(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row for all knees, for those of each KL grade, and for each landmark.

    Columns: `group` (`all`, `kl 0` ..., `landmark 0` ...), `n` knees with both, and the metrics;
    those of knees have 95 % intervals (`_low`, `_high`), those of landmarks none.
    """
    target = _target()
    compared = table[np.isfinite(target.errors_mm(table)).any(axis=1)]
    groups = {"all": compared}
    for grade in sorted(set(compared["kl"]) - {MISSING}):
        groups[f"kl {grade}"] = compared[compared["kl"] == grade]
    rows: list[dict[str, Any]] = []
    for name, of_group in groups.items():
        row: dict[str, Any] = {"group": name, "n": len(of_group)}
        if len(of_group):
            metrics = summary.estimate([(target.name, target.scorer(of_group))])[target.name]
            for metric, found in metrics.items():
                row |= {metric: found["value"]}
                row |= {f"{metric}_{end}": found[end] for end in ("low", "high")}
        rows.append(row)
    errors = target.errors_mm(compared)
    for landmark in range(target.number):
        known = errors[np.isfinite(errors[:, landmark]), landmark]
        row = {"group": f"landmark {landmark}", "n": len(known)}
        if len(known):
            row |= {"radial_error": known.mean(), "radial_error_median": np.median(known)}
            row |= {f"within_{x:g}mm": (known <= x).mean() for x in target.limits_mm}
        rows.append(row)
    return pd.DataFrame(rows)


def figure(table: pd.DataFrame, worst: Sequence[Any]) -> Figure:
    """Draw distances by KL grade, by landmark, against the expected ones, and the worst knees.

    Args:
        table: Table of `write`, some knees of which have landmarks of both.
        worst: Pictures of knees.
    """
    rows = knees(table)
    rows = rows[rows["mean_mm"].notna()]
    errors = rows[[f"d{i}" for i in range(_target().number)]].to_numpy(np.float64)
    with matplotlib.rc_context(figures.STYLE):
        columns, deep = 6, max(1, -(-len(worst) // 6))
        drawing = Figure(figsize=(13, 4 + 2.3 * deep), layout="constrained")
        upper, lower = drawing.subfigures(2, 1, squeeze=False, height_ratios=(4, 2.3 * deep))[:, 0]
        shares, by_landmark, expected = upper.subplots(1, 3)
        _draw_shares(shares, errors, rows["kl"].to_numpy())
        _draw_landmarks(by_landmark, errors)
        _draw_expected(expected, rows)
        panels = lower.subplots(deep, columns, squeeze=False).ravel()
        title = "The knees that differ most: file (yellow dots), localiser (blue crosses)"
        lower.suptitle(title, x=0.005, ha="left", fontsize=11, weight="bold")
        for axes in panels:
            axes.set_axis_off()
        for axes, knee in zip(panels, worst, strict=False):
            _draw_knee(axes, knee)
        return drawing


def _draw_shares(axes: Axes, errors: np.ndarray, grades: np.ndarray) -> None:
    groups = [("all", np.ones(len(errors), bool))]
    groups += [(f"KL {g}", grades == g) for g in sorted(set(grades) - {MISSING})]
    for (name, chosen), colour in zip(groups, (figures.BLACK, *figures.COLOURS[:-1]), strict=False):
        known = np.sort(errors[chosen][np.isfinite(errors[chosen])])
        share = np.arange(1, len(known) + 1) / max(len(known), 1)
        label = f"{name} ({chosen.sum():,} knees)"
        axes.step(known, share, where="post", color=colour, label=label, linewidth=1.4)
    axes.set(
        xlim=(0, FARTHEST_MM),
        ylim=(0, 1),
        xlabel="distance, mm",
        ylabel="share of landmarks",
        title="Share within a distance",
    )
    axes.legend(loc="lower right")


def _draw_landmarks(axes: Axes, errors: np.ndarray) -> None:
    known = [column[np.isfinite(column)] for column in errors.T]
    places = np.array([i for i, column in enumerate(known) if len(column)])
    for share, colour, style in ((50, figures.BLUE, "-"), (90, figures.SKY, "--")):
        values = [np.percentile(known[i], share) for i in places]
        axes.plot(places, values, style, color=colour, label=f"{share} % of knees are below")
    axes.axvline(TIBIA.start - 0.5, color="#999999", linewidth=1)
    axes.set(
        xlabel="landmark (femur | tibia, lateral to medial)",
        ylabel="distance, mm",
        title="By landmark",
    )
    axes.set_ylim(bottom=0)
    axes.legend()


def _draw_expected(axes: Axes, rows: pd.DataFrame) -> None:
    top = max(FARTHEST_MM, float(rows["expected_mm"].max()))
    found = rows["mean_mm"].clip(upper=top)
    axes.plot([0, top], [0, top], color="#999999", linewidth=1)
    axes.scatter(rows["expected_mm"], found, s=9, color=figures.BLUE, alpha=0.6)
    axes.set(
        xlim=(0, top),
        ylim=(0, 1.02 * top),
        xlabel="expected by the localiser, mm",
        ylabel="mean distance, mm",
        title="Expected and found, by knee",
    )


def _draw_knee(axes: Axes, knee: Any) -> None:
    axes.imshow(knee.image, cmap="gray", vmin=0, vmax=255)
    for points, colour, mark in (
        (knee.by_files, figures.YELLOW, "o"),
        (knee.by_model, figures.SKY, "x"),
    ):
        inside = ((points > 0) & (points < knee.image.shape[::-1])).all(axis=1)
        x, y = points[inside].T - 0.5
        axes.scatter(x, y, s=7, c=colour, marker=mark, linewidths=0.7)
    axes.set_title(f"{knee.name}: {knee.error_mm:.1f} mm", fontsize=8)


def words(folder: Path) -> str:
    """Return the quality of the landmarks of a set in lines, '' if they were not compared."""
    path = folder / QUALITY
    if not path.is_file():
        return ""
    table, of_knees = pd.read_csv(path), pd.read_csv(folder / KNEES, keep_default_na=False)
    groups = table[~table["group"].str.startswith("landmark")]
    lines = [f"{'landmarks, model to files':<28}{'knees':>8}{'median':>8}{'mean':>8}{'<2.5 mm':>9}"]
    for row in groups.to_dict("records"):
        if not row["n"]:
            continue
        lines.append(
            f"{row['group']:<28}{row['n']:>8,}{row['radial_error_median']:>8.2f}"
            f"{row['radial_error']:>8.2f}{row['within_2.5mm']:>9.3f}"
        )
    missing = [
        (f"{words} {reason}", int((of_knees[column] == reason).sum()))
        for column, words in (("by_files", "no file:"), ("by_model", "model:"))
        for reason in sorted(set(of_knees[column]) - {""})
    ]
    lines += [f"{name:<28}{number:>8,}" for name, number in missing]
    return "\n".join(lines)
