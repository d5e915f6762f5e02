"""OAI's films from a tree that is cluttered as real ones are, through the builder."""

import json
import shutil

import pandas as pd
import pytest

from knee_jax.ingest import headers
from knee_jax.phantom import clutter
from knee_jax.phantom.study import write_study
from knee_jax.prepare import prepare


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    knees = write_study(root, num_subjects=5, visits=(0,), seed=3, rows=512, progress=False)
    films = [root / source for source in knees["source"].unique()]
    clutter.add_rescan(films[0])
    clutter.add_other_films(films[1])
    clutter.split(films[2])
    return root, knees


def files(root):
    return {
        path.relative_to(root).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_cluttered_tree_gives_all_knees(study, tmp_path):
    root, knees = study
    before = files(root)
    folder = prepare("oai_xray", tmp_path, root, workers=1)
    counts = json.loads((folder / "account.json").read_text())
    assert (counts["kept"], counts["dropped"]) == (10, {"repeated_film": 2})
    assert counts["notes"]["other_films_pa_right_hand"] == 1
    assert counts["notes"]["other_films_lateral_right_knee"] == 1
    index = pd.read_csv(folder / "index.csv", dtype={"subject": str})
    assert list(zip(index["subject"], index["side"])) == list(zip(knees["subject"], knees["side"]))
    assert files(root) == before


def test_kept_headers_do_not_change_the_set(study, tmp_path, monkeypatch):
    """A second preparation reads no header again; one with another data_dir does."""
    root, _ = study
    first = prepare("oai_xray", tmp_path / "a", root, workers=1)
    assert len(list((tmp_path / "a" / "inventories").iterdir())) == 1
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
