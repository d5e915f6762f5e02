import json

import cv2
import numpy as np
import pandas as pd
import pytest
import tensorflow_datasets as tfds

from knee_jax.data.prepared import open_set
from knee_jax.datasets.prepare import prepare
from knee_jax.errors import UserError
from knee_jax.ingest.fingerprint import checksum
from knee_jax.targets.grades import GRADES
from tests.folders import contents

GOOD = ("train/0/9000001L", "train/0/9000001R", "train/4/9000002R", "val/2/9000003L")


def crop(name):
    seed = list(name.encode())
    return np.random.default_rng(seed).integers(0, 256, (224, 224), np.uint8)


def save(root, name):
    path = root / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), crop(name))
    return path


@pytest.fixture
def raw(tmp_path):
    for name in GOOD:
        save(tmp_path / "raw", name)
    return tmp_path / "raw"


def test_records_and_index(raw, tmp_path):
    folder = prepare("kneekl224", tmp_path / "data", raw, workers=1)
    assert folder == tmp_path / "data" / "kneekl224" / "1.0.0"
    index = pd.read_csv(folder / "index.csv", dtype={"subject": str}, keep_default_na=False)
    assert index["source"].tolist() == [f"{name}.png" for name in GOOD]
    builder = tfds.builder_from_directory(folder)
    for split, rows in index.groupby("split"):
        knees = builder.as_data_source(split)
        assert rows["record"].tolist() == list(range(len(knees)))
        for row, knee in zip(rows.itertuples(), knees):
            assert knee["source"].decode() == row.source
            assert knee["subject"].decode() == row.subject
            assert knee["side"].decode() == row.side
            assert knee["grades"].tolist() == [getattr(row, grade) for grade in GRADES]
            expected = crop(row.source.removesuffix(".png"))
            flip = -1 if row.side == "L" else 1
            np.testing.assert_array_equal(knee["image"], expected[:, ::flip])
    counts = json.loads((folder / "ingest_report.json").read_text())
    assert counts["kept"] == counts["seen"] == 4
    assert counts["splits"] == {"train": 3, "val": 1}


def test_bad_files_are_excluded_and_harm_no_other(raw, tmp_path):
    clean = contents(prepare("kneekl224", tmp_path / "clean", raw, workers=1))
    (raw / "train" / "3").mkdir()
    (raw / "train/3/9000004L.png").write_text("text\n" * 100)
    (raw / "train/3/9000004R.png").write_bytes(b"")
    (raw / "train/3/notes.txt").write_text("text")
    cv2.imwrite(str(raw / "val/2/9000005L.png"), np.zeros((10, 10), np.uint8))
    folder = prepare("kneekl224", tmp_path / "data", raw, workers=1)
    found = contents(folder)
    differing = {name for name in clean if clean[name] != found[name]}
    assert differing == {"ingest_report.json", "flow.csv", "exclusions.csv"}
    exclusions = pd.read_csv(folder / "exclusions.csv")
    assert dict(zip(exclusions["source"], exclusions["reason"])) == {
        "train/3/9000004L.png": "not_an_image",
        "train/3/9000004R.png": "empty_file",
        "train/3/notes.txt": "unknown_name",
        "val/2/9000005L.png": "wrong_size",
    }
    counts = json.loads((folder / "ingest_report.json").read_text())
    assert (counts["seen"], counts["kept"]) == (8, 4)


def test_bytes_do_not_depend_on_run_workers_or_place(raw, tmp_path):
    sets = [
        contents(prepare("kneekl224", tmp_path / f"data{workers}", raw, workers=workers))
        for workers in (1, 2, 3)
    ]
    assert sets[0] == sets[1] == sets[2]
    assert not any(str(tmp_path).encode() in data for data in sets[0].values())


def test_more_records_than_a_shard(raw, tmp_path, monkeypatch):
    monkeypatch.setattr("knee_jax.datasets.builders.KneeBuilder.jobs_per_shard", 2)
    # The second of three shards of `train` has no knee to keep.
    save(raw, "train/1/9000006R")
    for name in ("train/0/9000001R", "train/0/9000001L"):
        (raw / f"{name}.png").unlink()
        save(raw, name.replace("0/9000001", "0/9000000"))
    (raw / "train/1/9000006R.png").write_text("text")
    (raw / "train/1/9000007R.png").write_text("text")
    folder = prepare("kneekl224", tmp_path / "data", raw, workers=1)
    knees = tfds.builder_from_directory(folder).as_data_source("train")
    assert len(list(folder.glob("*train*"))) == 3
    assert [knee["source"].decode() for knee in knees] == [
        "train/0/9000000L.png",
        "train/0/9000000R.png",
        "train/4/9000002R.png",
    ]


class TestUserErrors:
    def test_nothing_usable_leaves_nothing(self, raw, tmp_path):
        (raw / "val/2/9000003L.png").write_text("text")
        with pytest.raises(UserError, match=r"'val'.*1 not_an_image"):
            prepare("kneekl224", tmp_path / "data", raw, workers=1)
        left = [path.name for path in (tmp_path / "data" / "kneekl224").iterdir()]
        assert left == [".lock"]

    def test_no_manual_dir(self, tmp_path):
        with pytest.raises(UserError, match="--manual_dir"):
            prepare("kneekl224", tmp_path)

    def test_manual_dir_that_is_not_there(self, tmp_path):
        with pytest.raises(UserError, match="nowhere: no such folder"):
            prepare("kneekl224", tmp_path, tmp_path / "nowhere")

    @pytest.mark.parametrize(
        "name", ["kneekl225", "", "radiographs", "builders", "kneekl224/small"]
    )
    def test_unknown_data_set(self, tmp_path, name):
        with pytest.raises(UserError, match=r"there are: adapted_windows|it has: progression"):
            prepare(name, tmp_path)


@pytest.mark.long
@pytest.mark.real
def test_the_published_set(request, tmp_path):
    root = request.config.rootpath.parent / "shared" / "data" / "kneekl224"
    if not root.is_dir():
        pytest.skip("kneekl224 is not beside the project")
    folder = prepare("kneekl224", tmp_path, root)
    index = pd.read_csv(folder / "index.csv")
    assert index["split"].value_counts().to_dict() == {"train": 5778, "val": 826}
    assert index["kl"].value_counts(sort=False).sort_index().tolist() == [
        2614,
        1199,
        1728,
        863,
        200,
    ]
    # Left and right knees look alike once the left ones are mirrored.
    knees = tfds.builder_from_directory(folder).as_data_source("val")
    sides = np.array([knee["side"].decode() for knee in knees])
    images = np.array([knee["image"] for knee in knees], np.float32)
    left, right = (images[sides == side].mean(axis=0).ravel() for side in "LR")
    mirrored = images[sides == "R"].mean(axis=0)[:, ::-1].ravel()
    assert np.corrcoef(left, right)[0, 1] > np.corrcoef(left, mirrored)[0, 1]


def test_another_folder_is_not_taken_for_the_one_it_was_made_from(raw, tmp_path):
    folder = prepare("kneekl224", tmp_path / "data", raw)
    assert prepare("kneekl224", tmp_path / "data", raw) == folder
    assert prepare("kneekl224", tmp_path / "data") == folder
    with pytest.raises(UserError, match=r"was prepared from .*raw, not from .*other: delete it"):
        prepare("kneekl224", tmp_path / "data", tmp_path / "other")


LABELS = "ID,Side,KL,Progressor\n9000001,L,0,2\n9000003,L,2,0\n"


def test_progression_is_a_config_of_its_own(raw, tmp_path):
    (raw / "progression_labels.csv").write_text(LABELS)
    folder = prepare("kneekl224/progression", tmp_path / "data", raw, workers=1)
    assert folder == tmp_path / "data" / "kneekl224" / "progression" / "1.0.0"
    index = pd.read_csv(folder / "index.csv", keep_default_na=False)
    assert index["progression"].tolist() == [2, -1, -1, 0]
    builder = tfds.builder_from_directory(folder)
    for split, rows in index.groupby("split"):
        records = [int(knee["progression"]) for knee in builder.as_data_source(split)]
        assert records == rows["progression"].tolist()
    counts = json.loads((folder / "ingest_report.json").read_text())
    assert counts["notes"] == {"crops_without_progression": 2, "labels_without_a_crop": 0}

    # The set without it is as if there were no such table, and no such config.
    plain = prepare("kneekl224", tmp_path / "data", raw, workers=1)
    assert plain == tmp_path / "data" / "kneekl224" / "1.0.0"
    (raw / "progression_labels.csv").unlink()
    again = prepare("kneekl224", tmp_path / "again", raw, workers=1)
    assert contents(plain) == contents(again)
    without = pd.read_csv(plain / "index.csv", keep_default_na=False)
    assert without.equals(index.drop(columns="progression"))
    assert not any(b"progression" in data for data in contents(plain).values())


def test_progression_without_a_table(raw, tmp_path):
    with pytest.raises(UserError, match="neither here nor beside this folder"):
        prepare("kneekl224/progression", tmp_path / "data", raw, workers=1)


def test_negatives_are_listed(tmp_path):
    raw = tmp_path / "raw"
    x = np.linspace(-1, 1, 224)
    knee = np.tile((200 - 150 * np.abs(x)).astype(np.uint8), (224, 1))
    for name, image in {"1R": knee, "2R": 255 - knee}.items():
        path = raw / "train/2" / f"900000{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), image)
    folder = prepare("kneekl224", tmp_path / "data", raw, workers=1)
    notes = pd.read_csv(folder / "notes.csv", dtype=str)
    assert notes[["source", "note"]].values.tolist() == [
        ["train/2/9000002R.png", "bones_look_dark"]
    ]


def test_knees_that_are_there_twice_and_links_to_nothing_are_listed(raw, tmp_path):
    save(raw, "val/0/9000001L")  # Also in train, with the same grade.
    save(raw, "train/3/9000002R")  # With another grade.
    (raw / "train/1").mkdir()
    (raw / "train/1/9000009R.png").write_bytes((raw / "train/0/9000001R.png").read_bytes())
    (raw / "train/1/9000010L.png").symlink_to(raw / "gone.png")
    for number in range(20, 24):
        save(raw, f"train/1/90000{number}L")
    folder = prepare("kneekl224", tmp_path / "data", raw, workers=1)
    left = pd.read_csv(folder / "exclusions.csv").set_index("source")["reason"]
    assert left.to_dict() == {
        "train/0/9000001L.png": "repeated_knee",
        "train/4/9000002R.png": "two_readings",
        "train/3/9000002R.png": "two_readings",
        "train/0/9000001R.png": "pixels_of_another_knee",
        "train/1/9000009R.png": "pixels_of_another_knee",
        "train/1/9000010L.png": "dangling_link",
    }
    report = json.loads((folder / "ingest_report.json").read_text())
    assert (report["seen"], report["kept"]) == (12, 6)
    # What is kept is found by its record all the same.
    knees = open_set(folder)
    for row, image in zip(knees.index.itertuples(), knees.load(np.arange(6))["image"]):
        assert checksum(image) == row.checksum
        flip = -1 if row.side == "L" else 1
        np.testing.assert_array_equal(image, crop(row.source.removesuffix(".png"))[:, ::flip])
