import pathlib

import cv2
import numpy as np
import pytest

from knee_jax.errors import UserError
from knee_jax.ingest.account import Dropped
from knee_jax.ingest.crops import find_crops, read_crop

IMAGE = np.random.default_rng(0).integers(0, 256, (224, 224), np.uint8)


def save(root, name, image=IMAGE):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    ok, data = cv2.imencode(".png", image)
    assert ok
    path.write_bytes(data.tobytes())
    return pathlib.PurePosixPath(name)


def read(root, source):
    (knee,) = read_crop(root, pathlib.PurePosixPath(source))
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
