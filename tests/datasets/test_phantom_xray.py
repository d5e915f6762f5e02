import json

import numpy as np
import pandas as pd
import pytest
import tensorflow_datasets as tfds

from knee_jax.datasets.prepare import prepare
from knee_jax.targets.grades import GRADES, NUM_CLASSES


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prepare("phantom_xray/tiny", tmp_path_factory.mktemp("data"), workers=2)


@pytest.fixture(scope="module")
def knees(folder):
    return list(tfds.builder_from_directory(folder).as_data_source("study"))


def test_report(folder):
    counts = json.loads((folder / "ingest_report.json").read_text())
    assert counts["seen"] == counts["kept"] + sum(counts["excluded"].values())
    assert counts["kept"] > 80
    index = pd.read_csv(folder / "index.csv")
    assert len(index) == counts["kept"]
    assert index["subject"].nunique() == 24
    assert set(index["visit"]) == {0, 24}
    assert set(index["side"]) == {"L", "R"}
    assert set(index["site"]) <= set("ABCDE")


def test_joint_space_width(folder, knees):
    """In the records as in the index, 6 digits of it; empty where nothing was measured."""
    index = pd.read_csv(folder / "index.csv", dtype=str, keep_default_na=False)
    assert index.columns[-1] == "jsw_medial"
    cells = index["jsw_medial"].tolist()
    assert cells == [
        "" if np.isnan(knee["jsw_medial"]) else str(float(format(knee["jsw_medial"], ".6g")))
        for knee in knees
    ]
    assert 0 < cells.count("") < 20
    widths = np.array([float(cell) for cell in cells if cell])
    assert 0 <= widths.min() < 3 < widths.max() < 8


def test_subjects(folder):
    index = pd.read_csv(folder / "index.csv")
    people = pd.read_csv(folder / "subjects.csv", keep_default_na=False)
    assert people.columns.tolist() == ["subject", "site", "sex", "race", "age", "bmi"]
    assert people["subject"].tolist() == index["subject"].drop_duplicates().tolist()
    sites = index.drop_duplicates("subject").set_index("subject")["site"]
    assert (people.set_index("subject")["site"] == sites).all()
    assert set(people["sex"]) == {"M", "F"}
    assert people["age"].astype(int).between(45, 79).all()


def test_raw_films_are_gone(folder):
    assert not any(path.is_dir() for path in folder.iterdir())


def test_grades(knees):
    grades = np.array([knee["grades"] for knee in knees])
    assert (grades >= -1).all()
    assert (grades < [NUM_CLASSES[grade] for grade in GRADES]).all()
    assert ((grades >= 0).any(axis=0)).all()


def test_every_knee_looks_like_a_right_one(knees):
    keypoints = np.array([knee["keypoints"] for knee in knees])
    assert all(knee["keypoints_valid"] for knee in knees)
    np.testing.assert_allclose(keypoints[:, 55], 175, atol=1e-3)
    lateral, medial = keypoints[:, 47], keypoints[:, 63]
    np.testing.assert_allclose(lateral[:, 1], medial[:, 1], atol=1e-2)
    assert (medial[:, 0] - lateral[:, 0] > 50 / 0.4).all()
    # The fibula lies laterally, below the plateau: bone where the medial side has none.
    sides = np.array([knee["side"].decode() for knee in knees])
    images = np.array([knee["image"] for knee in knees], np.float32)
    bone = images[:, 300:345].mean(axis=(1, 2))
    assert (bone > 0).all()
    profile = {side: images[sides == side, 280:345].mean(axis=(0, 1)) for side in "LR"}
    same = np.corrcoef(profile["L"], profile["R"])[0, 1]
    mirrored = np.corrcoef(profile["L"], profile["R"][::-1])[0, 1]
    assert same > mirrored


def test_landmarks_lie_on_the_joint_line(knees):
    """Tibial plateau: brighter below its edge than in the joint space above it."""
    below, above = [], []
    for knee in knees:
        for x, y in knee["keypoints"][[50, 51, 52, 58, 59, 60]]:
            column = knee["image"][:, int(x)].astype(float)
            below.append(column[int(y) + 3 : int(y) + 8].mean())
            above.append(column[int(y) - 6 : int(y) - 2].mean())
    assert np.mean(np.array(below) > np.array(above)) > 0.9


@pytest.mark.long
def test_bytes_do_not_depend_on_run_or_workers(folder, tmp_path):
    again = prepare("phantom_xray/tiny", tmp_path, workers=1)
    assert {p.name: p.read_bytes() for p in again.iterdir()} == {
        p.name: p.read_bytes() for p in folder.iterdir()
    }
