"""`knee-jax predict`: what it says at the end."""

import pytest

from knee_jax.inference import models
from tests.commands import run_here
from tests.serve.conftest import knee, means


@pytest.fixture(autouse=True)
def a_small_model(monkeypatch):
    monkeypatch.setattr(models, "load", lambda name: means())


def test_a_command_that_grades_nothing_fails_and_says_where_the_reasons_are(tmp_path):
    (tmp_path / "notes.txt").write_text("a text")
    words = (
        "predict",
        tmp_path / "notes.txt",
        f"--out={tmp_path / 'out'}",
        "--workers=1",
        "--roi=landmarks",
    )
    done = run_here("knee_jax", *words)
    assert done.returncode == 1
    assert "0 knees graded, 1 refused, of 1 files" in done.stdout
    assert done.stderr.endswith(
        f"error: no knee was graded; the reasons are in {tmp_path / 'out' / 'predictions.csv'}\n"
    )
    assert (tmp_path / "out" / "index.html").stat().st_size > 0


def test_a_refusal_beside_a_grade_is_no_failure(tmp_path):
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "notes.txt").write_text("a text")
    (tmp_path / "films" / "a_R.png").write_bytes(knee(20))
    words = ("predict", tmp_path / "films", f"--out={tmp_path / 'out'}")
    done = run_here("knee_jax", *words, "--workers=1", "--roi=landmarks")
    assert done.returncode == 0, done.stderr
    assert "1 knees graded, 1 refused, of 2 files" in done.stdout
    assert "before" not in done.stdout
    # With one of the files alone, it is said that the other has left the table.
    words = ("predict", tmp_path / "films" / "a_R.png", *words[2:])
    done = run_here("knee_jax", *words, "--workers=1", "--roi=landmarks")
    assert done.returncode == 0, done.stderr
    assert "1 files that were graded into" in done.stdout


def test_a_flag_that_is_needed_is_named(tmp_path):
    done = run_here("knee_jax", "predict", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: --out=... is needed")
    assert done.stderr.count("\n") == 1
