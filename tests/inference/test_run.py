"""A finished run as an object that predicts, without its training set."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import knee_jax
from knee_jax.errors import UserError
from tests.commands import REPOSITORY

pytestmark = pytest.mark.usefixtures("few_optimisations")


@pytest.mark.parametrize("batch_size", [3, 64])
def test_it_predicts_what_the_evaluation_did(run, test_knees, batch_size):
    table, knees = test_knees
    predictor = knee_jax.load(run[0])
    found = predictor.predict(knees["image"], knees["keypoints"], batch_size)
    assert list(found) == [target.name for target in predictor.targets]
    for target in predictor.targets:
        expected = table[target.output_columns()].to_numpy()
        np.testing.assert_allclose(found[target.name], expected, atol=2e-5)
    joined = predictor.table(table[["subject", "side"]], found)
    assert joined["kl_pred"].tolist() == table["kl_pred"].tolist()
    assert joined["subject"].tolist() == table["subject"].tolist()


def test_knees_without_landmarks_are_read_globally(run, test_knees):
    _, knees = test_knees
    predictor = knee_jax.load(run[0])
    assert predictor.needs_landmarks
    points = knees["keypoints"].copy()
    points[1] = np.nan
    found = predictor.predict(knees["image"], points)
    whole = predictor.predict(knees["image"], knees["keypoints"])
    assert np.isfinite(found["kl"]).all()
    assert not np.allclose(found["kl"][1], whole["kl"][1])
    np.testing.assert_allclose(np.delete(found["kl"], 1, 0), np.delete(whole["kl"], 1, 0), 1e-5)


def test_the_folder_alone_is_enough(run, test_knees, tmp_path):
    """In a process of its own, after a move, with neither the data set's library nor its files."""
    copy = tmp_path / "elsewhere"
    shutil.copytree(run[0], copy)
    (copy / "knees.json").unlink()
    table, knees = test_knees
    np.savez(tmp_path / "knees.npz", image=knees["image"], keypoints=knees["keypoints"])
    code = f"""
import sys, numpy as np
class Trap:
    def find_spec(self, name, path=None, target=None):
        banned = ("tensorflow_datasets", "grain", "array_record", "knee_jax.datasets",
                  "knee_jax.training", "knee_jax.cohort", "knee_jax.ingest")
        assert not name.startswith(banned), name
sys.meta_path.insert(0, Trap())
import knee_jax
knees = np.load({str(tmp_path / "knees.npz")!r})
found = knee_jax.load({str(copy)!r}).predict(knees["image"], knees["keypoints"])
np.save({str(tmp_path / "kl.npy")!r}, found["kl"])
"""
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""
    expected = table[[f"kl_p{c}" for c in range(5)]].to_numpy()
    np.testing.assert_allclose(np.load(tmp_path / "kl.npy"), expected, atol=2e-5)


def test_images_that_cannot_be_read_are_named(run, test_knees):
    _, knees = test_knees
    predictor = knee_jax.load(run[0])
    images, points = knees["image"], knees["keypoints"]
    for wrong, message in (
        (images.astype(np.float32), "images are float32"),
        (images[0], r"uint8 \[n, side, side\] is needed"),
        (images[:, :20], "is needed"),
        (images[:0], "no image is given"),
    ):
        with pytest.raises(UserError, match=message):
            predictor.predict(wrong, points[: len(wrong)])
    with pytest.raises(UserError, match="reads landmarks: give"):
        predictor.predict(images)
    with pytest.raises(UserError, match="landmarks have the shape"):
        predictor.predict(images, points[:-1])


def test_folders_that_hold_no_network_are_named(run, tmp_path):
    with pytest.raises(UserError, match=r"holds no run \(config.json is missing\)"):
        knee_jax.load(tmp_path)
    shutil.copy(run[0] / "config.json", tmp_path)
    with pytest.raises(UserError, match="holds no trained network"):
        knee_jax.load(tmp_path)
    other = tmp_path / "other"
    shutil.copytree(run[0], other)
    config = json.loads((other / "config.json").read_text())
    config["model"]["width"] = 16
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config\.json is not as the run wrote it"):
        knee_jax.load(other)
    # A run of a version that kept no hashes.
    (other / "manifest.json").unlink()
    with pytest.raises(UserError, match="the checkpoint is not of the network in config"):
        knee_jax.load(other)


@pytest.mark.parametrize("name", ["config.json", "statistics.json"])
def test_a_damaged_file_is_named(run, tmp_path, name):
    other = shutil.copytree(run[0], tmp_path / "other")
    content = (other / name).read_text()
    (other / name).write_text(content.replace("0.", "1.", 1))
    with pytest.raises(UserError, match=f"{name} is not as the run wrote it"):
        knee_jax.load(other)
    (other / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        knee_jax.load(other)
