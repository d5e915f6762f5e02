import collections
import re

import cv2
import numpy as np
import pytest

from knee_jax.errors import UserError
from knee_jax.ingest.crops import (
    KNEEKL224,
    CropJob,
    MiddleOfCrop,
    add_progression,
    find_crops_of_study,
    find_kneekl224,
    read_crop,
    side_of,
)
from knee_jax.ingest.film import Roi
from knee_jax.ingest.report import Exclusion
from tests.ingest.conftest import reason_of

OAI, MOST = re.compile(r"\d{7}"), re.compile(r"M\d{5}")

IMAGE = np.random.default_rng(0).integers(0, 256, (224, 224), np.uint8)
LARGE = np.random.default_rng(0).integers(0, 256, (700, 700), np.uint8)


def save(root, name, image=IMAGE):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    ok, data = cv2.imencode(".png", image)
    assert ok
    path.write_bytes(data.tobytes())
    return name


def save_as(root, name):
    """A crop under any name, also of another kind of file."""
    path = root / save(root, "train/2/9000009L.png")
    path.rename(root / name)
    return name


def saved(folder, image=LARGE):
    return folder / save(folder, "crop.png", image)


def values(splits):
    return {f.source: int(f.labels["progression"]) for files in splits.values() for f in files}


def read(root, source):
    files = [file for of_split in find_kneekl224(root).values() for file in of_split]
    (knee,) = CropJob(root, next(file for file in files if file.source == source), KNEEKL224)()
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
    exclusion = read(tmp_path, source)
    assert exclusion.reason == reason
    assert (exclusion.subject, exclusion.side, exclusion.source) == ("9000001", "L", source)


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
        (np.dstack([IMAGE, IMAGE, IMAGE // 2]), "colour_image"),
    ],
)
def test_bad_image(tmp_path, image, reason):
    assert read(tmp_path, save(tmp_path, "val/1/9000001L.png", image)).reason == reason


@pytest.mark.parametrize("name", ["9000001.png", "9000001X.png", "9000001L.jpg", "kneeL.png"])
def test_unknown_name(tmp_path, name):
    exclusion = read(tmp_path, save_as(tmp_path, f"train/2/{name}"))
    assert isinstance(exclusion, Exclusion)
    assert exclusion.reason == "unknown_name"


def test_unknown_grade(tmp_path):
    assert read(tmp_path, save(tmp_path, "train/5/9000001L.png")).reason == "unknown_name"


def test_any_subset_of_splits_hidden_files_apart(tmp_path):
    for name in ("val/1/9000002R.png", "val/0/9000001L.png", "test/0/9000003L.png"):
        save(tmp_path, name)
    (tmp_path / "val" / ".DS_Store").write_text("")
    (tmp_path / "elsewhere").mkdir()
    found = find_kneekl224(tmp_path)
    assert {split: [file.source for file in files] for split, files in found.items()} == {
        "val": ["val/0/9000001L.png", "val/1/9000002R.png"],
        "test": ["test/0/9000003L.png"],
    }


def test_no_split(tmp_path):
    with pytest.raises(UserError, match="train, val, test is here"):
        find_kneekl224(tmp_path)


def test_empty_split(tmp_path):
    save(tmp_path, "train/1/9000002R.png")
    (tmp_path / "val").mkdir()
    with pytest.raises(UserError, match="val: no files"):
        find_kneekl224(tmp_path)


@pytest.mark.real
def test_the_published_crops(request):
    root = request.config.rootpath.parent / "shared" / "data" / "kneekl224"
    if not root.is_dir():
        pytest.skip("kneekl224 is not beside the project")
    splits = find_kneekl224(root)
    assert {split: len(files) for split, files in splits.items()} == {"train": 5778, "val": 826}
    knees = [CropJob(root, file, KNEEKL224)()[0] for file in splits["val"][:100]]
    assert not any(isinstance(knee, Exclusion) for knee in knees)


class TestAddProgression:
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
        found, notes = add_progression(root, find_kneekl224(root))
        assert values(found) == {
            "train/0/9000001R.png": -1,
            "train/3/9000001L.png": 1,
            "val/2/9000002L.png": 0,
            "val/2/notes.png": -1,
        }
        assert notes == {"crops_without_progression": 2, "labels_without_a_crop": 1}

    def test_the_table_in_the_folder_counts_before_the_one_beside_it(self, root):
        (root / "progression_labels.csv").write_text(self.LABELS)
        (root.parent / "progression_labels.csv").write_text("nonsense")
        assert add_progression(root, find_kneekl224(root))[1]["labels_without_a_crop"] == 0

    def test_no_table(self, root):
        with pytest.raises(UserError, match="neither here nor beside this folder"):
            add_progression(root, find_kneekl224(root))

    def test_a_table_of_other_knees(self, root):
        (root / "progression_labels.csv").write_text(self.LABELS.replace("L,3", "L,2"))
        with pytest.raises(UserError, match=r"KL 2 of 9000001 L is not that of train/3/9000001L"):
            add_progression(root, find_kneekl224(root))

    @pytest.mark.real
    def test_published_labels(self, real_data):
        """3,672 of the 6,604 crops have one (README of the data)."""
        root = real_data / "kneekl224"
        found, notes = add_progression(root, find_kneekl224(root))
        counts = np.bincount(np.array(list(values(found).values())) + 1)
        assert counts.tolist() == [2932, 2715, 677, 280]
        assert notes == {"crops_without_progression": 2932, "labels_without_a_crop": 0}


def test_progression_is_in_the_example_only_of_sets_that_have_it(tmp_path):
    source = save(tmp_path, "train/3/9001695R.png")
    save(tmp_path, "train/3/9001695L.png")
    assert "progression" not in read(tmp_path, source)
    (tmp_path / "progression_labels.csv").write_text("ID,Side,KL,Progressor\n9001695,R,3,2\n")
    splits, _ = add_progression(tmp_path, find_kneekl224(tmp_path))
    for file, value in zip(splits["train"], (-1, 2)):
        (knee,) = CropJob(tmp_path, file, KNEEKL224)()
        assert knee["progression"] == value
        assert knee["progression"].dtype == np.int8


def block_means(image, factor):
    height, width = image.shape
    blocks = image.reshape(height // factor, factor, width // factor, factor)
    return blocks.astype(float).mean(axis=(1, 3))


class TestCropsOfAStudy:
    @pytest.mark.parametrize("side", ["R", "L"])
    def test_half_the_pixels_are_means_of_four(self, tmp_path, side):
        found = read_crop(saved(tmp_path), side, MiddleOfCrop(0.2, Roi()))
        expected = block_means(LARGE if side == "R" else LARGE[:, ::-1], 2)
        assert found.shape == (350, 350)
        # Means end in quarters, and a half may be rounded either way.
        assert np.abs(found - expected).max() <= 0.5

    def test_grey_in_three_channels(self, tmp_path):
        channels = saved(tmp_path, np.dstack([LARGE] * 3))
        found = read_crop(channels, "R", MiddleOfCrop(0.2, Roi()))
        grey = read_crop(saved(tmp_path), "R", MiddleOfCrop(0.2, Roi()))
        np.testing.assert_array_equal(found, grey)

    def test_middle_of_a_larger_canvas(self, tmp_path):
        canvas = np.pad(LARGE, ((10, 11), (20, 20)))
        found = read_crop(saved(tmp_path, canvas), "R", MiddleOfCrop(0.2, Roi()))
        np.testing.assert_array_equal(
            found, read_crop(saved(tmp_path), "R", MiddleOfCrop(0.2, Roi()))
        )

    def test_other_spacing_and_region(self, tmp_path):
        found = read_crop(saved(tmp_path), "R", MiddleOfCrop(0.2, Roi(120, 300)))
        assert np.abs(found - block_means(LARGE[50:650, 50:650], 2)).max() <= 0.5
        found = read_crop(saved(tmp_path), "R", MiddleOfCrop(0.4, Roi(140, 350)))
        np.testing.assert_array_equal(found, LARGE[175:525, 175:525])

    @pytest.mark.parametrize(
        ("reason", "image"),
        [
            ("wrong_size", LARGE[:699]),
            ("wrong_size", LARGE[:, 1:]),
            ("wrong_depth", LARGE.astype(np.uint16) * 257),
            ("colour_image", np.dstack([LARGE, LARGE, LARGE // 2])),
        ],
    )
    def test_bad_image(self, tmp_path, reason, image):
        path = saved(tmp_path, image)
        assert reason_of(read_crop, path, "R", MiddleOfCrop(0.2, Roi())) == reason

    def test_no_image(self, tmp_path):
        path = tmp_path / "crop.png"
        for reason, data in (("empty_file", b""), ("not_an_image", b"a note\n" * 99)):
            path.write_bytes(data)
            assert reason_of(read_crop, path, "R", MiddleOfCrop(0.2, Roi())) == reason


class TestFindCropsOfStudy:
    def find(self, root, names, subjects=OAI, months=(0, 12)):
        (root / "crops").mkdir(exist_ok=True)
        for name in names:
            (root / "crops" / name).touch()
        notes = collections.Counter()
        found, exclusions = find_crops_of_study(root, subjects, months, notes)
        return (
            dict(found),
            [(k.subject, k.side, k.visit, k.reason) for k in exclusions],
            dict(notes),
        )

    def test_both_studies_in_one_folder(self, tmp_path):
        names = ["9000001_00_L.png", "9000001_00_R.png", "9000001_12_L.png", "M00123_00_R.png"]
        found, exclusions, notes = self.find(tmp_path, names)
        assert found == {
            ("9000001", 0): ["crops/9000001_00_L.png", "crops/9000001_00_R.png"],
            ("9000001", 12): ["crops/9000001_12_L.png"],
        }
        assert [side_of(source) for source in found["9000001", 0]] == ["L", "R"]
        assert exclusions == []
        assert notes == {"crops_of_another_study": 1, "files_of_other_names": 0}
        found, _, notes = self.find(tmp_path, [], subjects=MOST)
        assert found == {("M00123", 0): ["crops/M00123_00_R.png"]}
        assert notes == {"crops_of_another_study": 3, "files_of_other_names": 0}

    def test_names_and_unknown_visits(self, tmp_path):
        names = ["9000001_00_L.png", "9000001_0_R.png", "9000001_00_R.jpg", "9000001_18_L.png"]
        names += ["9000001_00_X.png", "Doe_Jane.png", "Thumbs.db", ".DS_Store"]
        _, exclusions, notes = self.find(tmp_path, names)
        assert exclusions == [("9000001", "L", -1, "visit_unknown")]
        assert notes["files_of_other_names"] == 5

    def test_none(self, tmp_path):
        with pytest.raises(UserError, match="no crops of this study"):
            self.find(tmp_path, ["M00123_00_R.png"])
