"""`knee-jax mislabelled`: a table becomes a list and a sheet."""

import numpy as np
import pandas as pd
import pytest

from knee_jax.errors import UserError
from knee_jax.metrics.label_quality import list_mislabelled
from knee_jax.report.mislabelled import target_in, write_sheet
from tests.commands import run_here
from tests.metrics.test_label_quality import KL, knees


def test_a_table_is_judged_on_the_command_line(tmp_path):
    table, out = tmp_path / "predictions.csv", tmp_path / "out"
    knees(100).to_csv(table, index=False)
    done = run_here("knee_jax", "mislabelled", table, f"--out={out}", "--plant=10")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Of 100 labelled knees 0 are predicted otherwise" in done.stdout
    assert "10 labels changed on purpose, 20 times" in done.stdout
    assert len(pd.read_csv(out / "mislabelled.csv")) == 100
    assert "Labels changed on purpose" in (out / "sheet.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name one run or predictions table"),
        (["nothing.csv"], "no such run or predictions table"),
        (["."], "holds no predictions"),
    ],
)
def test_what_cannot_be_judged_is_told(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    done = run_here("knee_jax", "mislabelled", *words, "--out=out")
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_sheet_shows_the_first_knees_in_order(tmp_path):
    listed = list_mislabelled(knees(60, sure=0.2), KL)
    images = [np.full((32, 32), 40 * place, np.uint8) for place in range(3)]
    page = write_sheet(tmp_path / "sheet.html", listed, KL, images).read_text()
    assert page.count("data:image/jpeg") == 3
    words = [f"read KL {row.kl}" for row in listed.head(3).itertuples()]
    assert [page.index(word) for word in words]


def test_a_target_of_the_table_is_named():
    assert target_in(knees(), None).name == "kl"
    with pytest.raises(UserError, match="no classes of osfl: it has kl"):
        target_in(knees(), "osfl")
