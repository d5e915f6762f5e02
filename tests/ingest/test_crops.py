import pathlib

import cv2
import numpy as np
import pytest

from knee_jax.errors import UserError
from knee_jax.ingest.account import Dropped
from knee_jax.ingest.crops import CropJob, find_crops, find_progression

IMAGE = np.random.default_rng(0).integers(0, 256, (224, 224), np.uint8)


def save(root, name, image=IMAGE):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    ok, data = cv2.imencode(".png", image)
    assert ok
    path.write_bytes(data.tobytes())
    return pathlib.PurePosixPath(name)


def read(root, source):
    (knee,) = CropJob(root, pathlib.PurePosixPath(source))()
    return knee


def test_right_knee_as_it_is_left_knee_mirrored(tmp_path):
    right = read(tmp_path, save(tmp_path, "train/3/9001695R.png"))
    left = read(tmp_path, save(tmp_path, "train/0/9001695L.png"))
    np.testing.assert_array_equal(right["image"], IMAGE)
    np.testing.assert_array_equal(left["image"], IMAGE[:, ::-1])
    assert right["grades"].tolist() == [3, -1, -1, -1, -1, -1, -1]
    assert left["grades"][0] == 0
    assert (right["subject"], right["side"], left["side"]) == ("9001695", "R", "L")
    assert not right["keypoints_valid"]
    assert np.isnan(right["keypoints"]).all()
    assert np.isnan(right["spacing_mm"])


BAD = {
    "not_an_image": b"this is text, not a picture\n" * 20,
    "empty_file": b"",
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_content(tmp_path, reason):
    source = save(tmp_path, "val/1/9000001L.png")
    (tmp_path / source).write_bytes(BAD[reason])
    drop = read(tmp_path, source)
    assert drop.reason == reason
    assert (drop.subject, drop.side, drop.source) == ("9000001", "L", str(source))


@pytest.mark.parametrize("keep", [0.01, 0.5, 0.99])
def test_cut_short(tmp_path, keep):
    source = save(tmp_path, "val/1/9000001L.png")
    data = (tmp_path / source).read_bytes()
    (tmp_path / source).write_bytes(data[: int(keep * len(data))])
    assert read(tmp_path, source).reason == "not_an_image"


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (IMAGE[:200], "wrong_size"),
        (IMAGE.astype(np.uint16) * 257, "wrong_size"),
        (np.dstack([IMAGE] * 3), "colour_image"),
    ],
)
def test_bad_image(tmp_path, image, reason):
    assert read(tmp_path, save(tmp_path, "val/1/9000001L.png", image)).reason == reason


@pytest.mark.parametrize("name", ["9000001.png", "9000001X.png", "9000001L.jpg", "kneeL.png"])
def test_unknown_name(tmp_path, name):
    drop = read(tmp_path, save(tmp_path, "train/2/9000001L.png").with_name(name))
    assert isinstance(drop, Dropped)
    assert drop.reason == "unknown_name"


def test_unknown_grade(tmp_path):
    assert read(tmp_path, save(tmp_path, "train/5/9000001L.png")).reason == "unknown_name"


def test_any_subset_of_splits_hidden_files_apart(tmp_path):
    for name in ("val/1/9000002R.png", "val/0/9000001L.png", "test/0/9000003L.png"):
        save(tmp_path, name)
    (tmp_path / "val" / ".DS_Store").write_text("")
    (tmp_path / "elsewhere").mkdir()
    assert {split: [str(f) for f in files] for split, files in find_crops(tmp_path).items()} == {
        "val": ["val/0/9000001L.png", "val/1/9000002R.png"],
        "test": ["test/0/9000003L.png"],
    }


def test_no_split(tmp_path):
    with pytest.raises(UserError, match="train, val, test is here"):
        find_crops(tmp_path)


def test_empty_split(tmp_path):
    save(tmp_path, "train/1/9000002R.png")
    (tmp_path / "val").mkdir()
    with pytest.raises(UserError, match="val: no files"):
        find_crops(tmp_path)


@pytest.mark.real
def test_the_published_crops(request):
    root = request.config.rootpath.parent / "shared" / "data" / "kneekl224"
    if not root.is_dir():
        pytest.skip("kneekl224 is not beside the project")
    splits = find_crops(root)
    assert {split: len(files) for split, files in splits.items()} == {"train": 5778, "val": 826}
    knees = [read(root, source) for source in splits["val"][:100]]
    assert not any(isinstance(knee, Dropped) for knee in knees)


class TestFindProgression:
    @pytest.fixture
    def root(self, tmp_path):
        for name in ("train/3/9000001L", "train/0/9000001R", "val/2/9000002L", "val/2/notes"):
            save(tmp_path / "crops", f"{name}.png")
        return tmp_path / "crops"

    LABELS = "ID,Side,KL,Prog_increase,Progressor\n9000001,L,3,1,1\n9000002,L,2,0,0\n"

    @pytest.mark.parametrize("place", ["crops", "."])
    def test_every_crop_has_its_label_or_none(self, root, place):
        extra = "9000003,R,1,2,2\n"
        (root.parent / place / "progression_labels.csv").write_text(self.LABELS + extra)
        found, notes = find_progression(root, find_crops(root))
        assert {str(source): value for source, value in found.items()} == {
            "train/0/9000001R.png": -1,
            "train/3/9000001L.png": 1,
            "val/2/9000002L.png": 0,
            "val/2/notes.png": -1,
        }
        assert notes == {"crops_without_progression": 2, "labels_without_a_crop": 1}

    def test_the_table_in_the_folder_counts_before_the_one_beside_it(self, root):
        (root / "progression_labels.csv").write_text(self.LABELS)
        (root.parent / "progression_labels.csv").write_text("nonsense")
        assert find_progression(root, find_crops(root))[1]["labels_without_a_crop"] == 0

    def test_no_table(self, root):
        with pytest.raises(UserError, match="neither here nor beside this folder"):
            find_progression(root, find_crops(root))

    def test_a_table_of_other_knees(self, root):
        (root / "progression_labels.csv").write_text(self.LABELS.replace("L,3", "L,2"))
        with pytest.raises(UserError, match=r"KL 2 of 9000001 L is not that of train/3/9000001L"):
            find_progression(root, find_crops(root))

    @pytest.mark.real
    def test_published_labels(self, real_data):
        """3,672 of the 6,604 crops have one (README of the data)."""
        root = real_data / "kneekl224"
        found, notes = find_progression(root, find_crops(root))
        counts = np.bincount(np.array(list(found.values())) + 1)
        assert counts.tolist() == [2932, 2715, 677, 280]
        assert notes == {"crops_without_progression": 2932, "labels_without_a_crop": 0}


def test_progression_is_in_the_example_only_of_sets_that_have_it(tmp_path):
    source = save(tmp_path, "train/3/9001695R.png")
    assert "progression" not in read(tmp_path, source)
    for value in (-1, 2):
        (knee,) = CropJob(tmp_path, source, value)()
        assert knee["progression"] == value
        assert knee["progression"].dtype == np.int8
