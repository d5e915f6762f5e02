import json

import numpy as np
import pandas as pd
import pytest
import tensorflow_datasets as tfds

import knee_jax.datasets as datasets
from knee_jax.data import prepared
from knee_jax.datasets.prepare import prepare


@pytest.fixture(scope="module")
def folder(tiny_mri_data_dir):
    return tiny_mri_data_dir / "phantom_mri" / "tiny" / "1.0.0"


def test_report_and_index(folder):
    counts = json.loads((folder / "ingest_report.json").read_text())
    assert counts["seen"] == counts["kept"] + sum(counts["excluded"].values()) == 48
    index = pd.read_csv(folder / "index.csv")
    assert len(index) == counts["kept"] > 36
    assert not index.duplicated(["subject", "side"]).any()
    assert set(index["site"]) == set("ABCDE")
    assert set(index["visit"]) == {0}
    assert set(index["spacing_mm"]) == {"5.385 x 5.385 x 5.6"}
    assert not index["keypoints_valid"].any()
    assert index["kl"].between(0, 3).all()
    assert (index[["osfl", "osfm", "ostl", "ostm", "jsl", "jsm"]] == -1).all(axis=None)
    # On site D, as elsewhere, there are knees of every class to test and to train on.
    classes = index.groupby(index["site"] == "D")["progression"].value_counts().unstack()
    assert classes.columns.tolist() == [0, 1, 2]
    assert (classes >= 2).all(axis=None)


def test_the_index_opens_as_a_prepared_set(folder):
    index = prepared.open_set(folder).index
    assert index["progression"].dtype == np.int8
    assert index["spacing_mm"].iloc[0] == "5.385 x 5.385 x 5.6"


def test_records(folder):
    knees = tfds.builder_from_directory(folder).as_data_source("study")
    index = pd.read_csv(folder / "index.csv", dtype={"subject": str})
    assert len(knees) == len(index)
    for knee, row in zip(knees, index.itertuples()):
        assert knee["volume"].shape == (24, 24, 20)
        assert knee["volume"].dtype == np.uint8
        assert knee["volume"].std() > 10
        np.testing.assert_allclose(knee["spacing_mm"], [280 / 52, 280 / 52, 5.6], rtol=1e-3)
        assert (knee["progression"], knee["grades"][0]) == (row.progression, row.kl)
        assert (knee["subject"].decode(), knee["side"].decode()) == (row.subject, row.side)


def test_every_knee_looks_like_a_right_one(folder):
    """Slices from lateral to medial: profiles of left and right knees agree, and not mirrored."""
    knees = prepared.open_set(folder)
    volumes = knees.load(np.arange(len(knees.index)))["volume"].astype(np.float64)
    sides = knees.index["side"].to_numpy()
    # Below the joint the fibula is lateral.
    left, right = (volumes[sides == side, 16:].mean(axis=(0, 1)) for side in "LR")
    same = np.corrcoef(left.ravel(), right.ravel())[0, 1]
    mirrored = np.corrcoef(left.ravel(), right[:, ::-1].ravel())[0, 1]
    assert same > mirrored + 0.01


def test_raw_series_are_gone(folder):
    assert not any(path.is_dir() for path in folder.iterdir())


def test_all_configs_can_be_named(tmp_path):
    shapes = {"tiny": (24, 24, 20), "demo": (88, 88, 40), "full": (176, 176, 80)}
    for name, shape in shapes.items():
        builder = datasets.builder(f"phantom_mri/{name}", tmp_path)
        assert builder.preparation.result_shape == shape
    assert datasets.builder("phantom_mri", tmp_path).builder_config.name == "demo"


@pytest.mark.long
def test_bytes_do_not_depend_on_run_or_workers(folder, tmp_path):
    again = prepare("phantom_mri/tiny", tmp_path, workers=2)
    assert {p.name: p.read_bytes() for p in again.iterdir()} == {
        p.name: p.read_bytes() for p in folder.iterdir()
    }


def test_a_phantom_is_made_from_no_folder(tmp_path):
    """The runs of a table share their flags, and a folder of raw films among them."""
    folder = prepare("phantom_mri/tiny", tmp_path / "data", tmp_path / "films", workers=1)
    assert prepare("phantom_mri/tiny", tmp_path / "data", tmp_path / "others") == folder
