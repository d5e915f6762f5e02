"""Sections of a report besides the results of its splits, made of tables and figures."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
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
    """Figure or picture for the page.

    Attributes:
        name: Name of its file without suffix, unique in the report.
        alt: Alternative text that describes it.
        content: Figure made without pyplot (`knee_jax.report.figures`), or a picture uint8 [rows,
            columns, 3] (`knee_jax.pictures`).
        caption: Line under it. Captioned drawings are laid out in a grid, like pictures of knees.
    """

    name: str
    alt: str
    content: Figure | np.ndarray
    caption: str = ""


class Box(NamedTuple):
    """Box of a flow diagram.

    Attributes:
        title: What is counted.
        number: Number, in words.
        aside: Lines on those that left here, with reasons.
    """

    title: str
    number: str
    aside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """Part of the page: its notes, then flow, tables and drawings.

    Attributes:
        title: Heading of the section.
        notes: Paragraphs of plain text.
        tables: Tables, shown in full.
        drawings: Figures and pictures.
        flow: Boxes of a flow diagram, from the first to the last; those of the last list stand
            side by side.
        terms: Words and their meaning.
        folded: Whether tables are shown only when they are unfolded.
        sortable: Whether a click on a title sorts the tables, which needs a script.
    """

    title: str
    notes: Sequence[str] = ()
    tables: Sequence[Table] = ()
    drawings: Sequence[Drawing] = ()
    flow: Sequence[Sequence[Box]] = ()
    terms: Sequence[tuple[str, str]] = ()
    folded: bool = False
    sortable: bool = False

    @property
    def anchor(self) -> str:
        """Name by which a link leads to the section."""
        return "-".join(re.findall(r"[a-z0-9]+", self.title.lower()))


def selection_section(summaries: Mapping[str, Summary], split: str = "out_of_fold") -> Section:
    """Show the model selection of a cross-validation.

    Tiulpin & Saarakkala 2020, Table 2 and Supplementary Table 1.

    Args:
        summaries: Metrics of the split for each model, and the ensemble, in the order of the rows.
        split: Split that the metrics belong to.
    """
    note = f"Every model's {split.replace('_', '-')} knees. In brackets: 95 % interval."
    return Section("Model selection", (note,), selection_tables(summaries))


def cohorts_section(cohorts: Mapping[str, pd.DataFrame]) -> Section:
    """Show the grades of the training and the test cohort.

    Tiulpin & Saarakkala 2020, Table 1 and Supplementary Figures 2 and 3.

    Args:
        cohorts: Table with columns of true grades (-1 missing) by name: an index of knees, or a
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
