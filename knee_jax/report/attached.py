"""Figures, pictures and tables within a page that stands alone, and beside it as files."""

import base64
import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from matplotlib.figure import Figure

from knee_jax.errors import UserError
from knee_jax.files import atomic_write, write_text
from knee_jax.pictures import data_uri
from knee_jax.report import figures
from knee_jax.report.tables import Table

FORMATS = ("svg", "pdf", "png")
"""Formats of figures that are written beside a page."""

_CSS_PIXELS_PER_INCH = 96

_LATEX = {
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "±": r"$\pm$",
    "²": r"\textsuperscript{2}",
    "→": r"$\rightarrow$",
    "\N{MINUS SIGN}": r"$-$",
}
"""Characters that LaTeX would take for something else, or does not know."""


class Picture(NamedTuple):
    """Picture on a page: its source, width in CSS pixels, alternative text and caption."""

    source: str
    width: int
    alt: str
    caption: str = ""


class Attachment(NamedTuple):
    """Table on a page, with its CSV and LaTeX as links that hold them."""

    table: Table
    csv: str
    latex: str


def picture_of(content: Figure | np.ndarray, alt: str, caption: str = "") -> Picture:
    """Return a figure (as SVG) or a picture uint8 [rows, columns, 3] (as JPEG) for a page."""
    if isinstance(content, Figure):
        source = _link("image/svg+xml", figures.rendered(content, "svg"))
        return Picture(source, round(content.get_figwidth() * _CSS_PIXELS_PER_INCH), alt, caption)
    return Picture(data_uri(content), content.shape[1], alt, caption)


def attach(table: Table) -> Attachment:
    """Return a table with links that hold its CSV and LaTeX."""
    return Attachment(
        table,
        _link("text/csv", csv_of(table).encode()),
        _link("text/x-tex", latex_of(table).encode()),
    )


def csv_of(table: Table) -> str:
    """Return a table as CSV; the lines of a cell are joined by a space."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([table.header, *([_one_line(c) for c in row] for row in table.rows)])
    return text.getvalue()


def latex_of(table: Table) -> str:
    """Return a table as a LaTeX `table` that needs no package."""
    columns = "l" + "r" * (len(table.header) - 1)
    lines = [" & ".join(map(_escaped, row)) + r" \\" for row in (table.header, *table.rows)]
    caption = " ".join((table.title + ".", *table.notes)) if table.title else ""
    return "\n".join(
        [
            r"\begin{table}",
            *([rf"\caption{{{_escaped(caption)}}}"] if caption else []),
            rf"\begin{{tabular}}{{{columns}}}",
            r"\hline",
            lines[0],
            r"\hline",
            *lines[1:],
            r"\hline",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def write_beside(
    folder: Path,
    drawings: Sequence[tuple[str, Figure | np.ndarray]],
    tables: Sequence[Table],
    formats: Sequence[str],
) -> None:
    """Write `figures/*` in some formats, pictures of knees as PNG, and `tables/*.csv` and `.tex`.

    Args:
        folder: Folder of the page.
        drawings: Name and content of each figure or picture.
        tables: Tables.
        formats: Some of `FORMATS`; none: no figures are written.
    """
    if formats:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
    for name, content in drawings if formats else ():
        if isinstance(content, Figure):
            for each in formats:
                figures.save(content, folder / "figures" / f"{name}.{each}")
        else:
            with atomic_write(folder / "figures" / f"{name}.png") as unfinished:
                _, data = cv2.imencode(".png", content[..., ::-1])
                unfinished.write_bytes(data.tobytes())
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    for number, table in enumerate(tables, start=1):
        words = re.sub(r"[^a-z0-9]+", "_", table.title.lower()).strip("_")[:50]
        path = folder / "tables" / f"{number:02d}_{words or 'table'}"
        write_text(path.with_suffix(".csv"), csv_of(table))
        write_text(path.with_suffix(".tex"), latex_of(table))


def parse_formats(text: str) -> tuple[str, ...]:
    """Parse formats of figures, such as `svg,pdf`.

    Raises:
        UserError: One of them is unknown.
    """
    formats = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if unknown := [each for each in formats if each not in FORMATS]:
        raise UserError(f"--figures={text}: {unknown[0]!r} is none of {', '.join(FORMATS)}")
    return formats


def _link(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _one_line(cell: str) -> str:
    return " ".join(cell.split("\n")).strip()


def _escaped(text: str) -> str:
    escaped = "".join(_LATEX.get(c, c) for c in _one_line(text))
    # After the end of a row, either would be an argument of it.
    return "{}" + escaped if escaped.startswith(("[", "*")) else escaped
