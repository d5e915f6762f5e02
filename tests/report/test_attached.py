"""Tables as CSV and LaTeX, and figures in the formats that are asked for."""

import base64
import csv
import dataclasses
import io
import re
import shutil
import subprocess

import pytest

from knee_jax.errors import UserError
from knee_jax.report.attached import attach, csv_of, latex_of, parse_formats
from knee_jax.report.tables import Table

TABLE = Table(
    "Share in % & more",
    ("", "A_1", "B #2"),
    (("KL >= 2 {x}", "0.5\n[0.4, 0.6]", "1 ± 2"), ("≥ 3, ~$5^2\\", "", "5 kg/m²")),
    ("A note: 95 %.",),
)


def test_csv_has_the_cells():
    rows = list(csv.reader(io.StringIO(csv_of(TABLE))))
    assert rows[0] == ["", "A_1", "B #2"]
    assert rows[1] == ["KL >= 2 {x}", "0.5 [0.4, 0.6]", "1 ± 2"]
    assert len(rows) == 3


def test_latex_is_well_formed():
    """By hand: every special character escaped, braces in pairs, as many cells as columns."""
    text = latex_of(TABLE)
    bare = re.sub(r"\\text\w+\{[^}]*\}|\$\\\w+\$|\\[&%$#_{}]", "", text)
    body = bare.split(r"\begin{tabular}{lrr}")[1].split(r"\end{tabular}")[0]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert [row.count("&") for row in rows] == [2, 2, 2]
    assert not re.search(r"[%#_^~<>$]", body)
    depth = 0
    for character in bare:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    for name in ("table", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == 1
    assert bare.isascii() or set(re.sub(r"[ -~\n]", "", bare)) == set()
    assert r"KL \textgreater{}= 2 \{x\}" in text
    assert r"\caption{Share in \% \& more. A note: 95 \%.}" in text


def test_latex_is_typeset(tmp_path):
    """By LaTeX itself, with the cells that it would read as commands."""
    if not (latex := shutil.which("pdflatex")):
        pytest.skip("no pdflatex on this machine")
    rows = (*TABLE.rows, ("[0.1, 0.9]", "", ""), ("* a star", "é \u2212 \u2264", "a~b^c"))
    text = latex_of(dataclasses.replace(TABLE, rows=rows))
    (tmp_path / "table.tex").write_text(
        rf"\documentclass{{article}}\begin{{document}}{text}\end{{document}}", "utf-8"
    )
    command = [latex, "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Output written on table.pdf (1 page" in done.stdout


def test_the_page_holds_both():
    found = attach(TABLE)
    for link, text in ((found.csv, csv_of(TABLE)), (found.latex, latex_of(TABLE))):
        assert base64.b64decode(link.partition(",")[2]).decode() == text


def test_formats_are_checked():
    assert parse_formats("") == ()
    assert parse_formats("pdf, svg,pdf") == ("pdf", "svg")
    with pytest.raises(UserError, match="'eps' is none of svg, pdf, png"):
        parse_formats("svg,eps")
