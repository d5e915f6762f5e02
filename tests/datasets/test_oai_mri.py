"""`oai_mri`, of a phantom's tree of the same layout."""

import json
import subprocess
import sys

import numpy as np
import pytest

import knee_jax.datasets as datasets
from knee_jax.data import prepared
from knee_jax.datasets.prepare import prepare
from knee_jax.ingest.volume import Preparation
from knee_jax.phantom.mri import write_mri_study

SMALL = Preparation(shape=(32, 32, 16), border=0)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("oai")
    write_mri_study(root, num_subjects=6, seed=2, shape=SMALL.shape, progress=False)
    return root


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("sagittal", (16, 16, 8)),
        ("coronal", (16, 8, 16)),
        ("axial", (8, 16, 16)),
    ],
)
def test_views(study, tmp_path, monkeypatch, name, shape):
    monkeypatch.setattr(
        "knee_jax.datasets.oai_mri.Preparation",
        lambda view: Preparation(SMALL.shape, 0, view),
    )
    folder = prepare(f"oai_mri/{name}", tmp_path, study, workers=1)
    assert folder == tmp_path / "oai_mri" / name / "1.0.0"
    knees = prepared.open_set(folder, ["progression"])
    assert knees.image_shape == shape
    assert set(knees.index["cohort"]) == {"OAI"}
    counts = json.loads((folder / "ingest_report.json").read_text())
    assert counts["seen"] == 12
    loaded = knees.load(np.arange(len(knees.index)))
    assert (loaded["labels"]["progression"] >= 0).all()
    assert not any(path.is_dir() for path in folder.iterdir())
    # The user's own files stay.
    assert (study / "tables" / "enrollees.txt").exists()


def test_options_of_the_configs_reach_the_ingest(study, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "knee_jax.datasets.oai_mri.plan_study",
        lambda root, cohort, preparation, **given: (
            asked.append((root, preparation, given["rule"], given["outcomes"])) or ([], [], {})
        ),
    )
    for name in ("sagittal", "sagittal_published", "sagittal_outcomes"):
        builder = datasets.builder(f"oai_mri/{name}", tmp_path)
        builder.manual_dir = study
        builder.plan(tmp_path)
    whole = Preparation()
    assert asked == [
        (study, whole, "coded", False),
        (study, whole, "published", False),
        (study, whole, "coded", True),
    ]
    assert datasets.builder("oai_mri", tmp_path).builder_config.name == "sagittal"


@pytest.mark.long
@pytest.mark.parametrize("release", ["study", "archive"])
def test_a_phantom_by_command_at_full_size(tmp_path, release):
    root = tmp_path / "oai"
    flags = [f"--out={root}", "--subjects=3", "--rows=64", "--visit=0", "--mri"]
    flags += [f"--release={release}", "--clutter=rescans", "--clutter=single_films"]
    subprocess.run([sys.executable, "-m", "knee_jax.phantom", *flags], check=True)
    folder = prepare("oai_mri", tmp_path / "data", root)
    counts = json.loads((folder / "ingest_report.json").read_text())
    assert counts["seen"] == counts["notes"]["knees_in_the_tables"] == 6
    assert counts["notes"]["films"] == 3 + 1 + 1
    assert "no_series" not in counts["excluded"]
    knees = prepared.open_set(folder, ["progression"])
    assert len(knees.index) >= 3
    assert knees.image_shape == (176, 176, 80)
