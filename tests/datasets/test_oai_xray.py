"""OAI's films from a tree that is cluttered as real ones are, through the builder."""

import json
import shutil
import time

import numpy as np
import pandas as pd
import pydicom
import pytest

from knee_jax.datasets.prepare import prepare
from knee_jax.ingest import headers
from knee_jax.phantom import clutter
from knee_jax.phantom.study import write_study
from tests.folders import contents
from tests.ingest.conftest import dataset, make_endless, write


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    knees = write_study(root, num_subjects=5, visits=(0,), seed=3, rows=512, progress=False)
    films = [root / source for source in knees["source"].unique()]
    clutter.add_rescan(films[0])
    clutter.add_other_films(films[1])
    clutter.separate_knees(films[2])
    return root, knees


def files(root):
    return {
        path.relative_to(root).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_a_cluttered_tree_gives_all_knees(study, tmp_path):
    root, knees = study
    before = files(root)
    folder = prepare("oai_xray", tmp_path, root, workers=1)
    counts = json.loads((folder / "ingest_report.json").read_text())
    assert (counts["kept"], counts["excluded"]) == (10, {"repeated_film": 2})
    assert counts["notes"]["other_films_pa_right_hand"] == 1
    assert counts["notes"]["other_films_lateral_right_knee"] == 1
    index = pd.read_csv(folder / "index.csv", dtype={"subject": str})
    assert list(zip(index["subject"], index["side"])) == list(zip(knees["subject"], knees["side"]))
    assert files(root) == before


def test_kept_headers_do_not_change_the_set(study, tmp_path, monkeypatch):
    """A second preparation reads no header again; one with another data_dir does."""
    root, _ = study
    first = prepare("oai_xray", tmp_path / "a", root, workers=1)
    assert len(list((tmp_path / "a" / "inventories").glob("*.jsonl"))) == 1
    expected = contents(first)
    shutil.rmtree(first)
    opened = []
    read = headers._read_all
    monkeypatch.setattr(
        headers,
        "_read_all",
        lambda root, paths, *rest: opened.extend(paths) or read(root, paths, *rest),
    )
    assert contents(prepare("oai_xray", tmp_path / "a", root, workers=1)) == expected
    assert not opened
    assert contents(prepare("oai_xray", tmp_path / "b", root, workers=1)) == expected
    assert len(opened) == len(list(root.rglob("001")))


@pytest.mark.parametrize(
    "place", ["after the pixels", pytest.param("header", marks=pytest.mark.long)]
)
def test_a_film_that_is_never_read_to_its_end(study, tmp_path, place):
    """Its knees are excluded, whether it is read first among the headers or among the films."""
    original, knees = study
    root = shutil.copytree(original, tmp_path / "study")
    subject = knees["subject"].unique()[3]
    (source,) = knees["source"][knees["subject"] == subject].unique()
    if place == "header":
        write(root / source, dataset(np.zeros((4, 6), np.uint16), PixelData=None))
    make_endless(root / source)
    begin = time.monotonic()
    folder = prepare("oai_xray", tmp_path / "data", root, workers=2, file_timeout=3)
    assert time.monotonic() - begin < 60
    lost = pd.read_csv(folder / "exclusions.csv", dtype={"subject": str})
    lost = lost[lost["reason"] != "repeated_film"]
    assert lost["reason"].tolist() == ["timed_out"] * 2
    assert lost["detail"].unique().tolist() == ["not read within 3 seconds"]
    assert list(zip(lost["subject"], lost["side"])) == [(subject, side) for side in "RL"]
    kept = pd.read_csv(folder / "index.csv", dtype={"subject": str})
    others = knees[knees["subject"] != subject]
    assert list(zip(kept["subject"], kept["side"])) == list(zip(others["subject"], others["side"]))


def test_strange_films_are_listed(tmp_path):
    """A film without a pixel size has the given one, and what was strange is in a table."""
    root = tmp_path / "raw"
    knees = write_study(root, num_subjects=3, visits=(0,), seed=3, rows=512, progress=False)
    without, upside_down, _ = (root / source for source in knees["source"].unique())
    spacing = change(without, ImagerPixelSpacing=None)
    change(upside_down, PatientOrientation=["L", "H"])
    folder = prepare("oai_xray", tmp_path / "a", root, workers=1)
    excluded = pd.read_csv(folder / "exclusions.csv")
    assert excluded["reason"].tolist() == ["no_spacing"] * 2
    folder = prepare("oai_xray", tmp_path / "b", root, workers=1, spacing_mm=spacing)
    assert not len(pd.read_csv(folder / "exclusions.csv"))
    notes = pd.read_csv(folder / "notes.csv", dtype=str)
    assert notes["note"].tolist() == ["spacing_given", "header_upside_down"]
    assert notes["meaning"][0].endswith(f": {spacing:g} mm")
    assert list(notes["subject"]) == list(knees["subject"].unique()[:2])
    counts = json.loads((folder / "ingest_report.json").read_text())["notes"]
    assert (counts["spacing_given"], counts["header_upside_down"]) == (1, 1)


def change(path, **tags):
    """Set tags of a film, or remove those of None; return its pixel size."""
    film = pydicom.dcmread(path)
    spacing = float(film.ImagerPixelSpacing[0])
    for name, value in tags.items():
        if value is None:
            delattr(film, name)
        else:
            setattr(film, name, value)
    film.save_as(path)
    return spacing
