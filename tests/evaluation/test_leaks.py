"""A finished run that is evaluated on a set that was prepared again with other subjects."""

import json
import shutil

import pandas as pd
import pytest

from knee_jax.data.prepared import open_set
from tests.commands import run_here, run_well, train_flags

pytestmark = pytest.mark.slow

SET = "phantom_xray/tiny/1.1.0"


def test_a_set_with_one_subject_fewer_deals_nobody_anew(trained, tmp_path, tiny_data_dir):
    """The subjects would be dealt anew, and half of the test subjects have been trained on."""
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(tiny_data_dir / "phantom_xray/tiny", data / "phantom_xray/tiny")
    shutil.copytree(trained, run)
    flags = train_flags(run, data, "kpn.py:demo", ())
    listed = pd.read_csv(run / "knees.csv", dtype=str)
    before = pd.read_csv(run / "predictions/test.csv", dtype={"subject": str})
    trained = set(listed["subject"][listed["part"].isin(["train", "unlabelled", "validation"])])
    index = pd.read_csv(data / SET / "index.csv", dtype=str, keep_default_na=False)
    gone = min(trained)
    index[index["subject"] != gone].to_csv(data / SET / "index.csv", index=False)
    assert gone not in set(open_set(data / SET).index["subject"])

    done = run_well(*flags, "--mode=evaluate")
    after = pd.read_csv(run / "predictions/test.csv", dtype={"subject": str})
    assert not set(after["subject"]) & trained
    pd.testing.assert_frame_equal(after, before)
    assert "vanished" in done.stdout
    assert "not the one that the run began with" in (run / "report/index.html").read_text()

    again = run_here(*flags)
    assert again.returncode == 1
    assert "cannot go on with other knees" in again.stderr

    # Without its list, and with the same numbers of knees nowhere, the run is not scored at all.
    for name in ("knees.csv", "manifest.json"):
        (run / name).unlink()
    refused = run_here(*flags, "--mode=evaluate")
    assert refused.returncode == 1
    assert "knees that it was trained on might be scored" in refused.stderr


def test_weights_carry_their_knees_into_the_next_run(trained, tmp_path, tiny_data_dir):
    weights = tmp_path / "weights.npz"
    done = run_here("convert", f"--weights={trained}", f"--out={weights}")
    assert done.returncode == 0, done.stderr
    changes = (f"--config.init_from={weights}", "--config.data.seed=4")
    second = train_flags(tmp_path / "second", tiny_data_dir, "kpn.py:demo", changes)
    refused = run_here(*second)
    assert refused.returncode == 1
    assert "are known to the network" in refused.stderr
    run_well(*second, "--config.data.leaks=leave_out")
    learnt = pd.read_csv(trained / "knees.csv", dtype=str)
    learnt = learnt[learnt["part"].isin(["train", "unlabelled", "validation"])]
    table = pd.read_csv(tmp_path / "second/predictions/test.csv", dtype={"subject": str})
    assert not set(table["subject"]) & set(learnt["subject"])
    account = json.loads((tmp_path / "second/knees.json").read_text())
    assert account["test"]["subject_trained_on"] > 0
    assert "are known to the network" in (tmp_path / "second/report/index.html").read_text()
