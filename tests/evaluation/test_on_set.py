"""A finished network on any prepared set; `knee-jax evaluate`."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from knee_jax import targets
from knee_jax.config.schema import Evaluation
from knee_jax.data.prepared import open_set
from knee_jax.datasets.prepare import prepare
from knee_jax.errors import UserError
from knee_jax.evaluation import on_set
from knee_jax.inference.predictor import Predictor
from tests.commands import run_here, run_here_well, run_well, train_flags

SETTINGS = Evaluation(num_resamples=20)


def predictor_of(forward, reads="image", side=0, names=("kl",)):
    return Predictor("made", targets.get_all(names), False, reads, side, forward, None)


def brightness(batch):
    """Probabilities of KL that tell how bright each image is."""
    level = np.asarray(batch["image"], np.float32).mean(axis=(1, 2)) / 255
    rest = (1 - level)[:, None] / 4
    return {"kl": np.concatenate([level[:, None], np.repeat(rest, 4, axis=1)], axis=1)}


@pytest.fixture(scope="module")
def prepared(tiny_data_dir):
    return open_set(tiny_data_dir / "phantom_xray/tiny/1.1.0", ("kl",))


@pytest.fixture(scope="module")
def table(prepared):
    rows = np.flatnonzero(prepared.index["kl"] >= 0)
    return on_set.predict(predictor_of(brightness), prepared, rows)


def test_every_prediction_stands_with_its_knee(prepared, table):
    rows = prepared.find(table)
    images = prepared.load(rows)["image"]
    np.testing.assert_allclose(table["kl_p0"], images.mean(axis=(1, 2)) / 255, rtol=1e-5)
    assert table["kl"].tolist() == prepared.index["kl"].iloc[rows].tolist()
    assert set(table["dataset"]) == {"phantom_xray/tiny"}


def test_images_come_in_the_size_of_the_training(prepared, table):
    seen = []

    def forward(batch):
        seen.append((batch["image"].shape[1:], batch["keypoints"]))
        return brightness(batch)

    rows = prepared.find(table)[:8]
    side = prepared.image_shape[0] // 2
    found = on_set.predict(predictor_of(forward, side=side), prepared, rows)
    (shape, points), *_ = seen
    assert shape == (side, side)
    np.testing.assert_allclose(found["kl_p0"], table["kl_p0"].iloc[:8], atol=2e-3)
    whole = prepared.load(rows)["keypoints"]
    np.testing.assert_allclose(points[:8], whole * side / prepared.image_shape[0], rtol=1e-6)


def test_a_set_of_something_else_is_refused(prepared):
    volumes = predictor_of(brightness, reads="volume", names=("progression",))
    with pytest.raises(UserError, match=r"made reads volumes, and phantom_xray/tiny has images"):
        on_set.predict(volumes, prepared, np.arange(2))


def test_results_and_report_are_written_beside_the_own_ones(prepared, table, tmp_path):
    own = {"kl": {"accuracy": {"value": 0.123, "low": 0.1, "high": 0.2, "std": 0.1, "n": 77}}}
    summary = on_set.write(
        tmp_path,
        table,
        title="made on a set",
        settings=SETTINGS,
        notes=["Seven knees were left out."],
        facts={"scored": len(table)},
        own=own,
        prepared=prepared,
    )
    accuracy = (table["kl"] == table["kl_pred"]).mean()
    assert summary["kl"]["accuracy"]["value"] == pytest.approx(accuracy)
    assert json.loads((tmp_path / "metrics.json").read_text())["test"] == summary
    facts = json.loads((tmp_path / "evaluation.json").read_text())
    assert facts == {"scored": len(table), "notes": ["Seven knees were left out."]}
    page = (tmp_path / "report/index.html").read_text()
    assert page.index("Seven knees were left out.") < page.index("Accuracy")
    assert "0.123 [0.100, 0.200] (n = 77)" in page
    assert f"(n = {len(table)})" in page


MISTAKES = {
    "no run": ([], "name a run"),
    "no set": (["run"], "name what the run is scored on"),
    "no folder": (["--predictions=x.csv"], "name a folder for the results, as --out=FOLDER"),
    "no such run": (["none", "--data=phantom_xray/tiny", "--out={tmp}/o"], "none: no model of"),
    "twice": (["a", "a", "--data=x"], "a: is named twice"),
    "no such set": (["{tmp}", "--data=nothing"], "no data set is called 'nothing'"),
    "no set in there": (["{tmp}", "--data={tmp}"], "`knee-jax prepare folder` makes one"),
    "own files": (["{tmp}", "--data=oai_xray"], "name their folder, with --manual_dir"),
    "no file": (["--predictions={tmp}/x.csv", "--out={tmp}/o"], "x.csv: no such predictions table"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_line(mistake, tmp_path, tiny_data_dir):
    words, message = MISTAKES[mistake]
    words = [word.format(tmp=tmp_path) for word in words]
    data = tiny_data_dir if mistake == "no such run" else tmp_path / "data"
    done = run_here("evaluate", *words, f"--data_dir={data}")
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_predictions_of_other_software_are_scored(prepared, table, tmp_path, tiny_data_dir):
    file = tmp_path / "theirs.csv"
    kept = ["subject", "side", "visit", *(f"kl_p{grade}" for grade in range(5))]
    table[kept].to_csv(file, index=False)
    where = ["--data=phantom_xray/tiny", f"--data_dir={tiny_data_dir}", f"--out={tmp_path / 'out'}"]
    done = run_here("evaluate", f"--predictions={file}", *where)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    accuracy = (table["kl"] == table["kl_pred"]).mean()
    assert metrics["test"]["kl"]["accuracy"]["value"] == pytest.approx(accuracy)
    assert "It is not known whom" in done.stdout
    assert "not a medical device" in done.stdout


@pytest.mark.slow
def test_a_run_is_evaluated_on_another_set_without_its_own(tmp_path, tiny_data_dir):
    """Its own test knees are the other set here, so that both must find the same."""
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(tiny_data_dir / "phantom_xray/tiny", data / "phantom_xray/tiny")
    changes = ("--config.data.split=k_fold", "--config.data.test_dataset=phantom_most/tiny")
    run_well(*train_flags(run, data, "kl.py:demo", changes))
    own = pd.read_csv(run / "predictions/test.csv", dtype={"subject": str})
    listed = pd.read_csv(run / "knees.csv", dtype=str, keep_default_na=False)
    other = tmp_path / "other"
    shutil.move(data, other)
    shutil.rmtree(other / "phantom_xray")

    where = f"--data_dir={other}"
    done = run_here_well("evaluate", run, "--data=phantom_most/tiny", where)
    out = run / "evaluations/phantom_most_tiny"
    found = pd.read_csv(out / "predictions/test.csv", dtype={"subject": str})
    key = ["subject", "side", "visit"]
    chances = [f"kl_p{grade}" for grade in range(5)]
    joined = found.merge(own, on=key, suffixes=("", "_own"), validate="1:1")
    assert len(joined) == len(found) == len(own) > 0
    for column in chances:
        np.testing.assert_allclose(joined[column], joined[f"{column}_own"], atol=2e-5)
    metrics = json.loads((out / "metrics.json").read_text())["test"]
    before = json.loads((run / "metrics.json").read_text())["test"]
    assert metrics["kl"]["quadratic_kappa"]["value"] == pytest.approx(
        before["kl"]["quadratic_kappa"]["value"], abs=1e-4
    )
    assert "beside its own test knees" in done.stdout
    assert not (other / "phantom_xray").exists()

    # On the set that it was trained on, only those that it has not learnt from.
    learnt = set(listed["subject"][listed["part"].isin(["train", "validation", "unlabelled"])])
    prepare("phantom_xray/tiny", tmp_path / "data", workers=1)
    copy = tmp_path / "run_2"
    shutil.copytree(run, copy)
    trained_on = ["--data=phantom_xray/tiny", f"--data_dir={tmp_path / 'data'}"]
    refused = run_here("evaluate", run, *trained_on)
    assert refused.returncode == 1
    assert "so that none is left to be scored" in refused.stderr
    done = run_here_well("evaluate", run, *trained_on, "--training_knees")
    assert "training knees among them" in done.stdout
    place = run / "evaluations/phantom_xray_tiny_training_knees"
    facts = json.loads((place / "evaluation.json").read_text())
    assert facts["training_knees"] == facts["scored"] > 0
    assert "training knees among them" in (place / "report/index.html").read_text()
    assert not (run / "evaluations/phantom_xray_tiny").exists()
    knees = pd.read_csv(copy / "knees.csv", dtype=str, keep_default_na=False)
    some = sorted(learnt)[: len(learnt) // 2]
    knees[~knees["subject"].isin(some)].to_csv(copy / "knees.csv", index=False)
    (copy / "manifest.json").unlink()
    run_here_well("evaluate", copy, *trained_on)
    out = copy / "evaluations/phantom_xray_tiny"
    scored = pd.read_csv(out / "predictions/test.csv", dtype={"subject": str})
    assert set(scored["subject"]) <= set(some)
    page = (out / "report/index.html").read_text()
    assert "are known to the network" in page

    # Both at once, with a table of predictions: compared on the same knees.
    file = tmp_path / "theirs.csv"
    own[[*key, *chances]].iloc[:-5].to_csv(file, index=False)
    both = [run, copy, f"--predictions={file}", f"--out={tmp_path / 'out'}"]
    done = run_here_well("evaluate", *both, "--data=phantom_most/tiny", where)
    table = pd.read_csv(tmp_path / "out/comparison.csv")
    kappa = table[(table["target"] == "kl") & (table["metric"] == "quadratic_kappa")]
    assert kappa["row"].tolist() == ["run", "run_2", "theirs", "mean of all"]
    assert set(kappa["n"]) == {len(own) - 5}
    assert kappa["value"].round(3).nunique() == 1
    assert f"On the {len(own) - 5} knees that all were scored on" in done.stdout
