"""Comparison of readers and a model: tables as text, CSV and page, and their confidence."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from knee_jax import targets
from knee_jax.files import write_text
from knee_jax.metrics.bootstrap import subjects_of
from knee_jax.metrics.readers import (
    KAPPA,
    LABEL,
    MODEL,
    Comparison,
    Study,
    kappa_with,
    positive_probabilities,
)
from knee_jax.report import figures
from knee_jax.report.front import Front
from knee_jax.report.page import write_page
from knee_jax.report.sections import Drawing, Section
from knee_jax.report.tables import (
    METRIC_TITLES,
    Table,
    format_interval,
    format_value,
    target_title,
)
from knee_jax.targets.kinds import Classes

Array = np.ndarray

_SCORES = ("accuracy", "sensitivity", "specificity")


def write_readers(folder: Path, study: Study, comparison: Comparison, intervals: str) -> str:
    """Write `readers.txt`, `.csv` (one number per row), `.html`, and the figure of the page.

    Args:
        folder: Folder to write to, made if missing; earlier files of these names are replaced.
        study: Knees with their grades.
        comparison: Result of `knee_jax.metrics.readers.compare`.
        intervals: Description of the intervals, from `knee_jax.metrics.bootstrap.describe`.

    Returns:
        Text of the tables.
    """
    tables = readers_tables(study, comparison)
    title = f"Readers beside the model: {target_title(study.target)}"
    notes = _notes(study, intervals)
    text = "\n\n".join([title, *(table.text() for table in tables), "\n".join(notes)])
    folder.mkdir(parents=True, exist_ok=True)
    drawn = folder / "readers_confidence.png"
    drawn.unlink(missing_ok=True)
    drawings = []
    if probabilities := positive_probabilities(study):
        figure = confidence_figure(probabilities, study)
        figures.save(figure, drawn)
        alt = "How probable the model and the readers find it that each knee is positive"
        drawings.append(Drawing("readers_confidence", alt, figure))
    numbers = readers_numbers(study, comparison)
    write_text(folder / "readers.txt", text + "\n")
    write_text(folder / "readers.csv", numbers.to_csv(index=False, float_format="%.6g"))
    sections = [Section("Readers and model", notes, tables, drawings)]
    write_page(folder / "readers.html", title, sections, Front())
    return text


def readers_tables(study: Study, comparison: Comparison) -> list[Table]:
    """Make tables of the raters' accuracy, McNemar's tests with the model, and pairs of readers.

    Wang et al., Table VII, whose one column of kappas is two here, each of which names the raters.
    """
    raters, readers = comparison.raters, list(study.grades)
    kappa = METRIC_TITLES[KAPPA[study.target]]
    metrics = (*_SCORES, kappa_with(LABEL), kappa_with(MODEL))
    rows = [
        (
            rater,
            f"{estimates['accuracy']['n']:,}",
            *(_cell(estimates, metric) for metric in metrics),
        )
        for rater, estimates in raters.items()
    ]
    titles = (*(METRIC_TITLES[metric] for metric in _SCORES), f"{kappa}, label", f"{kappa}, model")
    tables = [Table("Against the label, [95 % interval]", ("", "n", *titles), tuple(rows))]

    header = ("", "Only model right", "Only reader right", "p, exact", "p, corrected", "p, plain")
    tests = tuple(
        (reader, str(test.only_first), str(test.only_second), *map(_p, test[2:]))
        for reader, test in comparison.tests.items()
    )
    note = (
        "p: binomial; chi-squared with continuity correction; and without. The test takes knees as "
        "independent, which those of one subject are not."
    )
    tables.append(Table("McNemar's test of model and reader", header, tests, (note,)))

    if len(readers) > 1:
        pairs = tuple(
            (second, *(_cell(raters[second], kappa_with(first)) for first in readers[:-1]))
            for second in readers[1:]
        )
        tables.append(Table(f"{kappa} of readers", ("", *readers[:-1]), pairs))
    return tables


def readers_numbers(study: Study, comparison: Comparison) -> pd.DataFrame:
    """Return a table with one row per number: rater, against, metric, value, low, high, n."""
    rows = []
    for rater, estimates in comparison.raters.items():
        for metric, estimate in estimates.items():
            against = LABEL if metric in _SCORES else metric.removeprefix(kappa_with(""))
            name = metric if metric in _SCORES else KAPPA[study.target]
            rows.append({"rater": rater, "against": against, "metric": name, **estimate})
    for reader, test in comparison.tests.items():
        count = comparison.raters[reader]["accuracy"]["n"]
        names = (
            *("only_model_right", "only_reader_right"),
            *("mcnemar_p_exact", "mcnemar_p_corrected", "mcnemar_p_uncorrected"),
        )
        rows += [
            {"rater": reader, "against": MODEL, "metric": name, "value": value, "n": count}
            for name, value in zip(names, test, strict=True)
        ]
    return pd.DataFrame(rows, columns=["rater", "against", "metric", "value", "low", "high", "n"])


def confidence_figure(probabilities: Mapping[str, Array], study: Study) -> Figure:
    """Draw each rater's confidence, from the surest positive knee to the surest negative one.

    Wang et al., Fig. 7.

    Args:
        probabilities: Probability that each knee is positive, {rater: [n]}, one panel each.
        study: Study of two classes, by which the knees are coloured.
    """
    titles = targets.of_kind([study.target], Classes)[0].class_names
    with matplotlib.rc_context(figures.STYLE):
        figure, panels, _ = figures.make_panels(len(probabilities), 2, (4.4, 3.4), share_y=True)
        for axes, (rater, values) in zip(panels, probabilities.items(), strict=True):
            order = np.argsort(-values, kind="stable")
            axes.axhline(0.5, color="#999999", lw=1, ls=":")
            for label, colour in zip((0, 1), figures.COLOURS):
                places = np.flatnonzero(study.truth[order] == label)
                axes.plot(
                    *(places + 1, values[order][places], "."),
                    color=colour,
                    ms=4,
                    label=f"label {titles[label]}",
                )
            axes.set(title=rater.capitalize(), xlabel="Knees, sorted", ylim=(-0.03, 1.03))
        panels[0].set_ylabel(f"Probability of {titles[1]}")
        panels[0].legend()
        return figure


def _notes(study: Study, intervals: str) -> list[str]:
    num_subjects = len(set(subjects_of(study.knees)))
    notes = [
        f"{len(study.knees):,} knees of {num_subjects:,} subjects, each graded by "
        f"{', '.join(study.grades)}; {study.num_unread:,} other knees of the predictions were not, "
        "and are left out.",
        intervals,
        "Kappa is Cohen's: with the label (the study's reading), and with the model's grade.",
    ]
    if study.target == "kl":
        notes.append("Accuracy is of five grades; sensitivity and specificity are of KL >= 2.")
    if study.confidences:
        notes.append(
            f"The readers' probability is the mean of {', '.join(study.confidences)}: confidence "
            "in a positive grade, or 1 minus that in a negative one."
        )
    return notes


def _cell(estimates: Mapping, metric: str) -> str:
    if metric not in estimates:
        return "-"
    return f"{format_value(estimates[metric])}\n{format_interval(estimates[metric])}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
