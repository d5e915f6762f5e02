"""Sets of a study whose knees were found by other means than BoneFinder, from files on disk."""

import json
import shutil

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
import tensorflow_datasets as tfds

from knee_jax.datasets.prepare import prepare
from knee_jax.phantom import placements
from knee_jax.phantom.study import write_study

CONFIGS = ("keypoints", "boxes", "crops")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    knees = write_study(root, num_subjects=3, visits=(0,), rows=512, progress=False)
    for write in placements.WRITERS.values():
        write(root, knees)
    path = next(root.rglob("001"))
    film = pydicom.dcmread(path)
    film.PatientOrientation = ["R", "F"]
    film.save_as(path)
    # None of these sets needs the landmark files.
    for path in list(root.rglob("*.pts")):
        path.unlink()
    return root


@pytest.fixture(scope="module", params=CONFIGS)
def folder(request, tree, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("data")
    return prepare(f"oai_xray/{request.param}", data_dir, tree, workers=1)


def test_report(folder):
    counts = json.loads((folder / "ingest_report.json").read_text())
    assert (counts["seen"], counts["kept"]) == (6, 6)
    by_film = folder.parent.name != "crops"
    assert counts["notes"].get("header_mirrored") == (1 if by_film else None)
    index = pd.read_csv(folder / "index.csv")
    assert index["side"].tolist() == ["R", "L"] * 3
    assert not index["keypoints_valid"].any()
    assert (index["spacing_mm"] == 0.4).all()


def test_every_knee_looks_like_a_right_one(folder):
    """Left and right knees are alike, and not alike in a mirror: the fibula is lateral."""
    knees = list(tfds.builder_from_directory(folder).as_data_source("study"))
    profile = {
        side: np.mean([k["image"][280:345] for k in knees if k["side"].decode() == side], (0, 1))
        for side in "LR"
    }
    same = np.corrcoef(profile["L"], profile["R"])[0, 1]
    assert same > np.corrcoef(profile["L"], profile["R"][::-1])[0, 1]
    assert same > 0.9


def test_contact_sheet_shows_the_records(folder):
    """Right knees first; their pixels on the sheet are those of the records, shrunk."""
    sheet = cv2.imread(str(folder / "contact_sheet.png"))
    assert sheet.shape == (34 + 238, 8 * 204, 3)
    knees = list(tfds.builder_from_directory(folder).as_data_source("study"))
    shown = [cv2.resize(k["image"], (200, 200), interpolation=cv2.INTER_AREA) for k in knees]
    places = []
    for picture in shown:
        differences = [
            np.median(np.abs(sheet[34:234, x : x + 200, 0].astype(int) - picture))
            for x in range(0, 6 * 204, 204)
        ]
        assert min(differences) == 0
        places.append(int(np.argmin(differences)))
    assert sorted(places) == list(range(6))
    assert {places[i] for i, knee in enumerate(knees) if knee["side"] == b"R"} == {0, 1, 2}


@pytest.mark.long
@pytest.mark.parametrize("config", CONFIGS)
def test_bytes_do_not_depend_on_run_or_workers(tree, tmp_path, config):
    one = prepare(f"oai_xray/{config}", tmp_path / "one", tree, workers=1)
    moved = shutil.copytree(tree, tmp_path / "moved")
    two = prepare(f"oai_xray/{config}", tmp_path / "two", moved, workers=2)
    assert {path.name: path.read_bytes() for path in one.iterdir()} == {
        path.name: path.read_bytes() for path in two.iterdir()
    }
