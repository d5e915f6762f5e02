"""`knee-jax predict`: what it says at the end."""

import os
import subprocess

import pytest

from knee_jax.inference import models
from tests.commands import REPOSITORY, run_here
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


def task_of_slurm(tmp_path, number, *words, first=1, last=3, count=3):
    """Run the script of a task in which `knee-jax` only prints its arguments, one a line."""
    (tmp_path / "bin").mkdir(exist_ok=True)
    command = tmp_path / "bin" / "knee-jax"
    command.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    command.chmod(0o755)
    environment = {
        "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}",
        "SLURM_CPUS_PER_TASK": "1",
        "SLURM_ARRAY_TASK_ID": str(number),
        "SLURM_ARRAY_TASK_MIN": str(first),
        "SLURM_ARRAY_TASK_MAX": str(last),
        "SLURM_ARRAY_TASK_COUNT": str(count),
    }
    script = REPOSITORY / "docs/how-to/scripts/slurm_predict.sh"
    return subprocess.run(
        ["bash", script, *map(str, words)], env=environment, capture_output=True, text=True
    )


def test_the_tasks_of_the_slurm_array_write_the_table_of_one_command(tmp_path):
    films = tmp_path / "my films"
    for place in ("a/x_R.png", "b/x_R.png", "b/y_L.png", "c/z_R.png"):
        (films / place).parent.mkdir(parents=True, exist_ok=True)
        (films / place).write_bytes(knee(20 + 30 * len(list(films.rglob("*.png")))))
    (films / "notes.txt").write_text("a text")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    done = run_here(
        "knee_jax", "predict", films, f"--out={whole}", "--roi=landmarks", "--workers=1"
    )
    assert done.returncode == 0, done.stderr
    for number in (3, 1, 2):
        assert not (parts / "predictions.csv").exists()
        task = task_of_slurm(tmp_path, number, films, f"--out={parts}", "--roi=landmarks")
        assert (task.returncode, task.stderr) == (0, "")
        done = run_here("knee_jax", *task.stdout.splitlines())
        assert done.returncode == 0, done.stderr
    table = (whole / "predictions.csv").read_bytes()
    assert (parts / "predictions.csv").read_bytes() == table
    assert table.count(b",graded,") == 4
    names = {path.name for path in (whole / "knees").iterdir()}
    assert names == {path.name for path in (parts / "knees").iterdir()}
    assert {name[:4] for name in names} == {"a_x_", "b_x_", "b_y_", "c_z_"}


@pytest.mark.parametrize("array", [(2, 3, 2), (1, 5, 3), (0, 2, 3)])
def test_the_slurm_script_refuses_an_array_that_leaves_films_out(array, tmp_path):
    first, last, count = array
    task = task_of_slurm(tmp_path, last, "films", first=first, last=last, count=count)
    assert (task.returncode, task.stdout) == (1, "")
    assert "sbatch --array=1-N" in task.stderr
