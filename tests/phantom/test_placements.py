"""Keypoints, boxes and crops of a tree, read here by other means than the ingest's."""

import subprocess
import sys

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest

from knee_jax.phantom import placements
from knee_jax.phantom.study import write_study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    knees = write_study(root, num_subjects=3, visits=(0, 96), seed=1, rows=512, progress=False)
    for write in placements.WRITERS.values():
        write(root, knees)
    return root, knees


def landmarks(root, row):
    """On the film in mm, and the film's pixel size."""
    path = root / row["source"]
    film = pydicom.dcmread(path, stop_before_pixels=True)
    name = {"L": "001.pts", "R": "001_f.pts"}[row["side"]]
    points = np.loadtxt(path.with_name(name), skiprows=3, max_rows=74)
    if row["side"] == "R":
        points[:, 0] = film.Columns * film.ImagerPixelSpacing[1] - points[:, 0]
    return points, film.ImagerPixelSpacing[0]


def each(root, knees):
    for row in knees[knees["code"] != "P"].to_dict("records"):
        yield row, *landmarks(root, row)


def test_every_marked_knee_is_there_once(study):
    root, knees = study
    marked = knees[knees["code"] != "P"]
    names = marked["subject"] + "_" + marked["visit"].map("{:02d}".format) + "_" + marked["side"]
    assert {path.stem for path in (root / "crops").iterdir()} == set(names)
    for kind in ("keypoints", "boxes"):
        table = pd.read_csv(root / "tables" / f"{kind}.csv")
        assert len(table) == len(marked) > 8
        assert table["side"].tolist() == marked["side"].tolist()


def test_keypoints(study):
    root, knees = study
    table = pd.read_csv(root / "tables" / "keypoints.csv", dtype=str)
    for (row, points, _), (_, cells) in zip(each(root, knees), table.iterrows()):
        assert (cells["subject"], int(cells["visit"])) == (row["subject"], row["visit"])
        tibia = np.array(cells["tibia_mm"].split(","), float).reshape(9, 2)
        femur = np.array(cells["femur_mm"].split(","), float).reshape(7, 2)
        np.testing.assert_allclose(tibia, points[47:64:2], atol=1e-5)
        np.testing.assert_allclose(femur, points[12:25:2], atol=1e-5)


def test_boxes(study):
    root, knees = study
    table = pd.read_csv(root / "tables" / "boxes.csv")
    for (row, points, spacing), (_, cells) in zip(each(root, knees), table.iterrows()):
        assert cells["source"] == row["source"]
        centre = cells[["centre_x_px", "centre_y_px"]].to_numpy(float) * spacing
        np.testing.assert_allclose(centre, points[55], atol=1e-3)
        assert cells["width_px"] * spacing == pytest.approx(120, abs=1e-2)


def test_crops_lie_on_the_film_as_it_is(study):
    """Their middle is the plateau's on the film; neither side is mirrored."""
    root, knees = study
    for row, points, spacing in each(root, knees):
        name = f"{row['subject']}_{row['visit']:02d}_{row['side']}.png"
        crop = cv2.imread(str(root / "crops" / name), cv2.IMREAD_UNCHANGED)
        assert crop.shape == (700, 700)
        assert crop.dtype == np.uint8
        film = pydicom.dcmread(root / row["source"])
        grey = film.pixel_array.astype(float)
        if film.PhotometricInterpretation == "MONOCHROME1":
            grey = grey.max() - grey
        # 100 mm about the middle: a tilt of some degrees moves nothing there by much.
        x, y = (points[55] / spacing).round().astype(int)
        half = round(50 / spacing)
        part = grey[y - half : y + half, x - half : x + half].astype(np.float32)
        middle = cv2.resize(crop[100:600, 100:600], part.shape[::-1], interpolation=cv2.INTER_AREA)
        as_it_is = np.corrcoef(part.ravel(), middle.ravel())[0, 1]
        mirrored = np.corrcoef(part.ravel(), middle[:, ::-1].ravel())[0, 1]
        assert as_it_is > 0.8
        assert as_it_is > mirrored


def test_command(tmp_path):
    command = [sys.executable, "-m", "knee_jax.phantom", "--rows=64", "--subjects=1", "--visit=0"]
    kinds = ["--landmarks=keypoints", "--landmarks=crops"]
    subprocess.run([*command, *kinds, f"--out={tmp_path}"], check=True, capture_output=True)
    assert (tmp_path / "tables" / "keypoints.csv").exists()
    assert not (tmp_path / "tables" / "boxes.csv").exists()
    assert len(list((tmp_path / "crops").iterdir())) == 2
