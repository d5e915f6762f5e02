"""What a report may show beside the results of its splits: sections made of tables and figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from knee_jax import targets
from knee_jax.metrics.summary import Summary
from knee_jax.report import figures
from knee_jax.report.tables import Table, counts_table, selection_tables
from knee_jax.targets.grades import GRADES
from knee_jax.targets.kinds import Classes

LATERAL, MEDIAL = ("osfl", "ostl", "jsl"), ("osfm", "ostm", "jsm")


class Drawing(NamedTuple):
    """A figure for the page.

    Attributes:
        name: Name of its file without `.png`, unique in the report.
        alt: what it shows, for those who cannot see it.
        figure: made without pyplot, see `knee_jax.report.figures`.
        caption: a line under it. Captioned drawings stand in a grid, as pictures of knees do.
    """

    name: str
    alt: str
    figure: Figure
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the page: its notes, then its tables, then its drawings.

    Attributes:
        title: its heading.
        notes: paragraphs of plain text.
        tables: shown in full.
        drawings: saved beside the page.
    """

    title: str
    notes: Sequence[str] = ()
    tables: Sequence[Table] = ()
    drawings: Sequence[Drawing] = ()


def selection_section(summaries: Mapping[str, Summary], split: str = "out_of_fold") -> Section:
    """The model selection of a cross-validation (Tiulpin & Saarakkala 2020, Table 2, S1).

    Args:
        summaries: {model, or ensemble: metrics of the split}, in the order of the rows.
        split: which knees the metrics are of.
    """
    note = f"Every model's {split.replace('_', '-')} knees. In brackets: 95 % interval."
    return Section("Model selection", (note,), selection_tables(summaries))


def cohorts_section(cohorts: Mapping[str, pd.DataFrame]) -> Section:
    """The grades of the training and the test cohort (ibid., Table 1, Supplementary Figures 2-3).

    Args:
        cohorts: {name: table with columns of true grades, -1 missing}: an index of knees, or a
            predictions table.
    """
    present = [grade for grade in GRADES if all(grade in table for table in cohorts.values())]
    drawings = []
    for name, title, wanted in (
        ("kl", "KL grade", ("kl",)),
        ("lateral", "lateral OARSI grades", LATERAL),
        ("medial", "medial OARSI grades", MEDIAL),
    ):
        if grades := [grade for grade in wanted if grade in present]:
            figure = figures.cohorts_figure(cohorts, targets.of_kind(grades, Classes))
            drawings.append(Drawing(f"cohorts_{name}", f"Distribution of the {title}", figure))
    note = "Knee images by the grade that was read: the table counts, the figures are in percent."
    return Section("Cohorts", (note,), (counts_table(cohorts),), drawings)
