import json

import numpy as np
import pandas as pd
import pytest

import knee_jax.datasets as datasets
from knee_jax.data.prepared import open_set
from knee_jax.datasets import phantom_most, phantom_xray
from knee_jax.datasets.prepare import prepare
from knee_jax.ingest.inventory import Rules
from tests.folders import contents


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prepare("phantom_most/tiny", tmp_path_factory.mktemp("data"), workers=1)


def test_report(folder):
    counts = json.loads((folder / "ingest_report.json").read_text())
    assert counts["seen"] == counts["kept"] + sum(counts["excluded"].values())
    assert counts["kept"] > 80
    assert counts["notes"]["films_of_view_PA05"] > 0
    assert counts["notes"]["films_of_view_LATL"] == counts["seen"] / 2
    index = pd.read_csv(folder / "index.csv", keep_default_na=False)
    assert len(index) == counts["kept"]
    assert index["subject"].nunique() == 24
    assert index["subject"].str.startswith("M").all()
    assert set(index["visit"]) == {0, 30}
    assert set(index["cohort"]) == {"phantom_most"}
    assert set(index["site"]) == {""}
    assert "jsw_medial" not in index
    assert set(index["source"].str.split("/").str[-2]) == {"PA10"}
    assert not any(path.is_dir() for path in folder.iterdir())


def test_all_configs_can_be_named(tmp_path):
    names = ("tiny", "demo", "demo_half_even", "full")
    for name in names:
        builder = datasets.builder(f"phantom_most/{name}", tmp_path)
        assert builder.builder_config.name == name
    assert datasets.builder("phantom_most", tmp_path).builder_config.name == "demo"
    assert datasets.builder("phantom_xray", tmp_path).builder_config.name == "demo"
    unlevelled = datasets.builder("phantom_xray/demo_unlevelled", tmp_path).builder_config
    assert not unlevelled.roi.level_plateau


def test_rounding_of_the_config_reaches_the_ingest(tmp_path):
    """KL 1.9 is a 1, and a 2 to the published code."""
    found = {}
    for rounding in ("floor", "half_even"):
        config = phantom_xray.PhantomConfig(
            name="test", num_subjects=40, visits=(0,), rows=32, rules=Rules(rounding)
        )
        builder = phantom_most.Builder(data_dir=tmp_path, config=config)
        plan = builder.plan(tmp_path / rounding)
        found[rounding] = [
            job.file.readings[s].grades[0] for job in plan.jobs["study"] for s in "RL"
        ]
    floor, half_even = (np.array(found[name]) for name in found)
    assert ((half_even - floor)[floor != half_even] == 1).all()
    assert 0 < (floor != half_even).sum() < 10
    assert set(floor[floor != half_even]) == {1}


def test_every_knee_looks_like_a_right_one(folder):
    knees = open_set(folder)
    examples = knees.load(np.arange(len(knees.index)))
    keypoints = examples["keypoints"]
    np.testing.assert_allclose(keypoints[:, 55], 175, atol=1e-3)
    assert (keypoints[:, 63, 0] - keypoints[:, 47, 0] > 50 / 0.4).all()
    # The fibula lies laterally, below the plateau.
    sides, images = knees.index["side"].to_numpy(), examples["image"].astype(np.float32)
    profile = {side: images[sides == side, 280:345].mean(axis=(0, 1)) for side in "LR"}
    same = np.corrcoef(profile["L"], profile["R"])[0, 1]
    mirrored = np.corrcoef(profile["L"], profile["R"][::-1])[0, 1]
    assert same > mirrored


def test_it_looks_unlike_the_other_phantom(folder, tiny_data_dir):
    """Else a test on it would say nothing about other scanners."""
    greys = []
    for path in (folder, tiny_data_dir / "phantom_xray" / "tiny" / "1.1.0"):
        knees = open_set(path)
        images = knees.load(np.arange(len(knees.index)))["image"]
        greys.append(images[:, 100:250, 100:250].mean(axis=(1, 2)))
    shift = np.abs(np.mean(greys[0]) - np.mean(greys[1]))
    assert shift > np.std(greys[1])


@pytest.mark.long
def test_bytes_do_not_depend_on_run_or_workers(folder, tmp_path):
    again = prepare("phantom_most/tiny", tmp_path, workers=2)
    assert contents(again) == contents(folder)
