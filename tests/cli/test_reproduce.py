"""The command that makes a paper's table again, with runs that are played by a function."""

import json
import re
import subprocess
import sys

import pandas as pd
import pytest

from knee_jax import papers
from knee_jax.errors import UserError
from knee_jax.papers import reproduce
from tests.commands import run_here


def play(command, log, value=0.6):
    """Leave what a run does: every target and metric that a table may ask for."""
    flags = dict(word[2:].split("=", 1) for word in command if word.startswith("--"))
    folder = log.parent
    assert str(folder) == flags["workdir"]
    targets = ("kl", "osfl", "osfm", "ostl", "ostm", "jsl", "jsm", "oarsi")
    metrics = ("accuracy", "rmse", "quadratic_kappa", "balanced_accuracy", "f1_weighted", "mse")
    estimate = {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 9}
    summary = {target: dict.fromkeys(metrics, estimate) for target in targets}
    splits = dict.fromkeys(("test", "test_first_visit", "out_of_fold"), summary)
    models = ("se_resnet50", "se_resnext50") if flags["mode"] == "cv" else ()
    data = {"dataset": "phantom_xray/demo", "test_dataset": ""}
    config = {"data": data, "evaluation": {"num_resamples": 200, "scheme": "subject"}}
    for place in (folder, *(folder / model for model in models)):
        place.mkdir(exist_ok=True)
        (place / "metrics.json").write_text(json.dumps(splits))
        if flags["mode"] == "train" or place != folder:
            where = place / "fold_0" if place != folder else place
            where.mkdir(exist_ok=True)
            (where / "config.json").write_text(json.dumps(config))
    return 0


@pytest.fixture
def commands(monkeypatch):
    """Every command that is run; `no_cl` fails, others leave results."""
    ran = []

    def execute(command, log):
        ran.append(command)
        log.write_text("training\nerror: config.x is wrong\nbye\n")
        return 1 if any("no_cl" in word for word in command) else play(command, log)

    monkeypatch.setattr(reproduce, "_execute", execute)
    return ran


def variants(commands):
    return [re.search(r"--config=(\S+)", " ".join(c))[1] for c in commands]


def test_every_row_is_run_once_with_the_variant_of_the_budget(tmp_path, commands):
    for budget, expected in (
        (
            "demo",
            ["kpn:resnet50,demo", "kpn:no_cl,demo", "kpn:no_kpn,demo", "kpn:demo"],
        ),
        ("paper", ["kpn:resnet50", "kpn:no_cl", "kpn:no_kpn", "kpn"]),
    ):
        commands.clear()
        reproduce.reproduce("kpn/3", budget, tmp_path / "runs", tmp_path / "data")
        assert variants(commands) == expected
        assert all(f"--data_dir={tmp_path / 'data'}" in command for command in commands)
        assert {"--mode=train"} <= set(commands[0])
        assert (tmp_path / "runs" / budget / "kpn" / "no_kpn" / "metrics.json").exists()


def test_a_failed_run_is_told_and_the_others_go_on(tmp_path, commands, capsys):
    assert reproduce.reproduce("kpn/3", "demo", tmp_path, tmp_path) == 1
    assert len(commands) == 4
    out = capsys.readouterr().out
    log = tmp_path / "demo" / "kpn" / "no_cl" / "log.txt"
    assert f"Failed: KPN (status 1): error: config.x is wrong; log: {log}" in out
    assert "0.708 | 0.600" in out
    assert "0.705 | failed" in out
    assert "[4/4] KPN and CL" in out
    assert (tmp_path / "demo" / "kpn" / "table_3.txt").read_text().rstrip() in out
    frame = pd.read_csv(tmp_path / "demo" / "kpn" / "table_3.csv")
    assert set(frame.loc[frame["row"] == "KPN", "state"]) == {"failed"}
    assert set(frame.loc[frame["row"] != "KPN", "ours"]) == {0.6}
    assert (tmp_path / "demo" / "kpn" / "table_3.html").exists()


def test_what_has_been_run_is_not_run_again(tmp_path, commands, capsys):
    reproduce.reproduce("kpn/3", "demo", tmp_path, tmp_path)
    commands.clear()
    assert reproduce.reproduce("kpn/3", "demo", tmp_path, tmp_path) == 1
    assert variants(commands) == ["kpn:no_cl,demo"]
    assert "done before" in capsys.readouterr().out
    # Another table has two of these rows.
    commands.clear()
    assert reproduce.reproduce("kpn/2", "demo", tmp_path, tmp_path) == 0
    assert variants(commands) == ["kpn:resnet18,demo", "kpn:resnet34,demo"]


def test_the_run_of_the_ensemble_serves_the_rows_of_its_models(tmp_path, commands, capsys):
    rows = ["SE-ResNeXt-50"]
    assert reproduce.reproduce("oarsi/2", "demo", tmp_path, tmp_path, rows) == 0
    assert variants(commands) == ["oarsi:demo"]
    assert "--mode=cv" in commands[0]
    frame = pd.read_csv(tmp_path / "demo" / "oarsi" / "table_2.csv")
    assert set(frame.loc[frame["state"] == "run", "row"]) == {
        *("Ensemble", "SE-ResNet-50", "SE-ResNeXt-50")
    }
    assert "on phantom_xray/demo" in capsys.readouterr().out
    assert reproduce.reproduce("oarsi/3", "demo", tmp_path, tmp_path) == 0
    assert len(commands) == 1


def test_a_run_that_leaves_no_metrics_has_failed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reproduce, "_execute", lambda _, log: log.write_text("") * 0)
    assert reproduce.reproduce("kpn/3", "demo", tmp_path, tmp_path, ["CL"]) == 1
    out = capsys.readouterr().out
    assert "Failed: CL (status 1): it left no metrics.json" in out
    assert "Ours: no run has been finished yet." in out


def test_rows_from_scratch_begin_with_random_weights(tmp_path):
    changes = ["config.init_from=resnet50.npz", "config.epochs=1"]
    runs = reproduce.make_runs(papers.read("mri_progression/2"), "demo", tmp_path, changes=changes)
    for run in runs:
        assert "--config.epochs=1" in run.settings
        with_weights = "--config.init_from=resnet50.npz" in run.settings
        assert with_weights == ("scratch" not in run.config)
    assert {run.config for run in runs} >= {"mri_progression.py:scratch", "mri_progression.py"}


def test_a_study_is_read_by_the_rows_that_have_it(tmp_path):
    paper = papers.read("mri_progression/1")
    for budget, more in (("demo", ",demo"), ("paper", "")):
        runs = reproduce.make_runs(paper, budget, tmp_path, study="oai")
        read = {run.config: run.settings[0] for run in runs}
        assert read["mri_progression.py:coronal"] == f"mri_progression.py:coronal,oai{more}"
        assert read["mri_progression.py"] == f"mri_progression.py:oai{more}"
        # Films are of another set.
        assert read["mri_progression.py:xray"] == f"mri_progression.py:xray{more}"
    with pytest.raises(UserError, match="--study=most: no config of mri_progression/1 has such"):
        reproduce.make_runs(paper, "demo", tmp_path, study="most")


def test_the_table_says_what_its_numbers_are_of(tmp_path, commands, capsys):
    changes = ["config.epochs=1", "--config.batch_size=8"]
    reproduce.reproduce("kpn/3", "demo", tmp_path, tmp_path, changes=changes)
    out = capsys.readouterr().out
    assert "budget demo (the variant demo of every config" in out
    assert "Numbers of demo networks on knees that a program has drawn are NOT comparable" in out
    assert "percentiles of 200 bootstrap resamples: subjects drawn" in out
    assert "Changed in every run: config.epochs=1" in out
    assert all({"--config.epochs=1", "--config.batch_size=8"} <= set(c) for c in commands)


def test_runs_of_real_knees_are_not_called_phantoms(tmp_path, commands, monkeypatch, capsys):
    def execute(command, log):
        play(command, log)
        file = log.parent / "config.json"
        file.write_text(file.read_text().replace("phantom_xray/demo", "oai_xray"))
        log.write_text("")
        return 0

    monkeypatch.setattr(reproduce, "_execute", execute)
    reproduce.reproduce("kpn/3", "paper", tmp_path, tmp_path)
    out = capsys.readouterr().out
    assert "on oai_xray." in out
    assert "NOT comparable" not in out


def test_a_folder_of_other_settings_is_refused(tmp_path, commands):
    reproduce.reproduce("kpn/3", "demo", tmp_path, tmp_path, changes=["config.epochs=1"])
    commands.clear()
    with pytest.raises(UserError, match=r"resnet50 holds a run of .*epochs=1, not of .*--out"):
        reproduce.reproduce("kpn/3", "demo", tmp_path, tmp_path)
    assert commands == []
    # Runs of another seed have folders of their own.
    reproduce.reproduce("kpn/3", "demo", tmp_path, tmp_path, ["CL"], seed=5)
    assert "--config.seed=5" in commands[0]
    assert (tmp_path / "demo" / "kpn" / "no_kpn_seed_5" / "metrics.json").exists()


def test_a_dry_run_runs_nothing(tmp_path, commands, capsys):
    assert reproduce.reproduce("kpn/4", "demo", tmp_path / "x", tmp_path, dry_run=True) == 0
    out = capsys.readouterr().out
    assert out.count("to run: ") == 6
    assert "labels_20,demo" in out
    assert commands == []
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"table": "kpn/1"}, "no paper's table is called 'kpn/1': choose kpn/2"),
        ({"rows": ["CL", "All"]}, "kpn/3 has no row 'All' that can be run: choose from Neither; K"),
        ({"changes": ["epochs=1"]}, "--change=epochs=1: write it as --change=config.FIELD=VALUE"),
        ({"changes": ["config.epochs"]}, "write it as"),
        ({"budget": "large"}, "--budget=large: choose demo or paper"),
    ],
)
def test_a_mistake_is_named(tmp_path, changes, message):
    arguments = {"table": "kpn/3", "budget": "demo", "out": tmp_path, "data_dir": tmp_path}
    with pytest.raises(UserError, match=re.escape(message)):
        reproduce.reproduce(**(arguments | changes))


def test_a_row_of_another_system_cannot_be_run(tmp_path):
    with pytest.raises(UserError, match="no row 'Antony 2018'"):
        reproduce.reproduce("oarsi/3", "demo", tmp_path, tmp_path, ["Antony 2018"])


def test_a_process_is_logged_and_its_status_returned(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reproduce, "_HEARTBEAT_S", 0.05)
    log = tmp_path / "log.txt"
    code = "import sys, time; print('step 1', flush=True); time.sleep(0.4); sys.exit('error: gone')"
    assert reproduce._execute([sys.executable, "-c", code], log) == 1
    assert log.read_text().splitlines()[1:] == ["step 1", "error: gone"]
    assert log.read_text().startswith(f"$ {sys.executable} -c ")
    assert "0:00  step 1" in capsys.readouterr().out
    assert reproduce._last_line(log) == "error: gone"
    # What an earlier attempt said stays in the log, and is not taken for the later one's.
    code = "print('half\\rnearly done\\r', end='')"
    assert reproduce._execute([sys.executable, "-c", code], log) == 0
    assert "error: gone" in log.read_text()
    assert reproduce._last_line(log) == "nearly done"


def test_an_interrupted_command_ends_its_run(tmp_path, monkeypatch):
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1]
    )

    def interrupt(self, timeout=None):
        monkeypatch.setattr(popen, "wait", wait)
        raise KeyboardInterrupt

    wait = popen.wait
    monkeypatch.setattr(popen, "wait", interrupt)
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(KeyboardInterrupt):
        reproduce._execute(command, tmp_path / "log.txt")
    assert started[0].poll() is not None


def test_the_command_lists_tables_and_names_mistakes():
    listed = run_here("knee_jax.reproduce", "--table=list")
    assert listed.returncode == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == papers.names()
    wrong = run_here("knee_jax.reproduce", "--table=oarsi/9")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: no paper's table is called 'oarsi/9': choose")
