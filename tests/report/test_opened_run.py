"""A run opened in Python: what is read is what was written, and nothing is written."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest

import knee_jax
from knee_jax.data.prepared import open_set
from knee_jax.datasets.prepare import prepare
from knee_jax.errors import UserError
from knee_jax.metrics.predictions import write_predictions


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_data_dir):
    """A run's folder with predictions of two knees of `phantom_xray/tiny`."""
    from knee_jax.config import load

    folder = tmp_path_factory.mktemp("opened")
    prepared = open_set(prepare("phantom_xray/tiny", tiny_data_dir))
    config = load.changed(load.parse(load.base()), {"data.dataset": "phantom_xray/tiny"})
    (folder / "config.json").write_text(load.json_of(config))
    table = prepared.index.iloc[:3][["subject", "side", "visit", "cohort", "kl"]].copy()
    table["kl"] = [2, -1, 0]
    table["kl_pred"] = [2, 1, 0]
    for number in range(5):
        table[f"kl_p{number}"] = (table["kl_pred"] == number).astype(float)
    (folder / "predictions").mkdir()
    write_predictions(folder / "predictions" / "test.csv", table)
    (folder / "metrics.json").write_text(json.dumps({"test": {"kl": {"accuracy": {"value": 0.5}}}}))
    (folder / "metrics.jsonl").write_text('{"step": 5, "train/loss": 1.5}\n')
    listed = pd.DataFrame(
        {"part": ["test"], "dataset": ["phantom_xray/tiny"], "prepared": [prepared.fingerprint]}
    )
    listed.to_csv(folder / "knees.csv", index=False)
    return folder, prepared


def digests(folder):
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_what_is_read_is_what_was_written(folder, tiny_data_dir):
    path, prepared = folder
    before = digests(path)
    run = knee_jax.open_run(path, tiny_data_dir)
    assert run.metrics["test"]["kl"]["accuracy"]["value"] == 0.5
    assert (list(run.predictions), len(run.predictions)) == (["test"], 1)
    assert run.predictions["test"]["kl_pred"].tolist() == [2, 1, 0]
    assert run.history.to_dict("list") == {"step": [5], "train/loss": [1.5]}
    assert run.config.data.dataset == "phantom_xray/tiny"
    row = prepared.index.iloc[1]
    knee = run.knee(row["subject"], row["side"], row["visit"])
    np.testing.assert_array_equal(knee.image(), prepared.load(np.array([1]))["image"][0])
    figure = knee.plot()
    picture, bars = figure.axes
    assert len(picture.images) == 1
    assert [bar.get_height() for bar in bars.patches] == [0, 1, 0, 0, 0]
    assert "unknown" in bars.get_xlabel()
    assert digests(path) == before


def test_without_its_set_a_knee_still_has_its_probabilities(folder, tmp_path):
    run = knee_jax.open_run(folder[0], tmp_path)
    row = folder[1].index.iloc[0]
    knee = run.knee(row["subject"], row["side"], row["visit"])
    with pytest.raises(UserError, match=r"does not hold phantom_xray/tiny: open_run"):
        knee.image()
    (bars,) = knee.plot().axes
    assert bars.get_xlabel() == "read: 2"


def test_pictures_of_a_set_that_was_prepared_anew_are_not_shown(folder, tiny_data_dir, tmp_path):
    for name in ("config.json", "predictions/test.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((folder[0] / name).read_bytes())
    listed = pd.read_csv(folder[0] / "knees.csv").assign(prepared="another")
    listed.to_csv(tmp_path / "knees.csv", index=False)
    row = folder[1].index.iloc[0]
    knee = knee_jax.open_run(tmp_path, tiny_data_dir).knee(row["subject"], "L", None)
    with pytest.raises(UserError, match="was prepared anew since the run was trained"):
        knee.image()


def test_what_is_not_there_is_said(folder, tmp_path):
    with pytest.raises(UserError, match=r"holds no run \(config.json is missing\)"):
        knee_jax.open_run(tmp_path)
    run = knee_jax.open_run(folder[0])
    with pytest.raises(UserError, match="has no predictions of 'train'; it has test"):
        run.predictions["train"]
    with pytest.raises(UserError, match="no prediction of subject nobody, side L"):
        run.knee("nobody", "L")
    (tmp_path / "config.json").write_bytes((folder[0] / "config.json").read_bytes())
    empty = knee_jax.open_run(tmp_path)
    for name in ("metrics", "history", "knees"):
        with pytest.raises(UserError, match=str(tmp_path)):
            getattr(empty, name)
