import collections
import re

import cv2
import numpy as np
import pytest

from knee_jax.errors import UnusableKnee, UserError
from knee_jax.ingest.film import Roi
from knee_jax.ingest.ready_crops import find_crops, read_crop, side_of

OAI, MOST = re.compile(r"\d{7}"), re.compile(r"M\d{5}")
IMAGE = np.random.default_rng(0).integers(0, 256, (700, 700), np.uint8)


def save(path, image=IMAGE):
    path.parent.mkdir(parents=True, exist_ok=True)
    ok, data = cv2.imencode(".png", image)
    assert ok
    path.write_bytes(data.tobytes())
    return path


def block_means(image, factor):
    height, width = image.shape
    blocks = image.reshape(height // factor, factor, width // factor, factor)
    return blocks.astype(float).mean(axis=(1, 3))


class TestRead:
    @pytest.mark.parametrize("side", ["R", "L"])
    def test_half_the_pixels_are_means_of_four(self, tmp_path, side):
        found = read_crop(save(tmp_path / "crop.png"), side, 0.2, Roi())
        expected = block_means(IMAGE if side == "R" else IMAGE[:, ::-1], 2)
        assert found.shape == (350, 350)
        # Means end in quarters, and a half may be rounded either way.
        assert np.abs(found - expected).max() <= 0.5

    def test_middle_of_a_larger_canvas(self, tmp_path):
        canvas = np.pad(IMAGE, ((10, 11), (20, 20)))
        found = read_crop(save(tmp_path / "crop.png", canvas), "R", 0.2, Roi())
        np.testing.assert_array_equal(
            found, read_crop(save(tmp_path / "crop.png"), "R", 0.2, Roi())
        )

    def test_other_spacing_and_region(self, tmp_path):
        found = read_crop(save(tmp_path / "crop.png"), "R", 0.2, Roi(120, 300))
        assert np.abs(found - block_means(IMAGE[50:650, 50:650], 2)).max() <= 0.5
        found = read_crop(save(tmp_path / "crop.png"), "R", 0.4, Roi(140, 350))
        np.testing.assert_array_equal(found, IMAGE[175:525, 175:525])

    @pytest.mark.parametrize(
        ("reason", "image"),
        [
            ("wrong_size", IMAGE[:699]),
            ("wrong_size", IMAGE[:, 1:]),
            ("wrong_depth", IMAGE.astype(np.uint16) * 257),
            ("colour_image", np.repeat(IMAGE[..., None], 3, axis=2)),
        ],
    )
    def test_bad_image(self, tmp_path, reason, image):
        with pytest.raises(UnusableKnee) as caught:
            read_crop(save(tmp_path / "crop.png", image), "R", 0.2, Roi())
        assert caught.value.reason == reason

    def test_no_image(self, tmp_path):
        path = tmp_path / "crop.png"
        for reason, data in (("empty_file", b""), ("not_an_image", b"a note\n" * 99)):
            path.write_bytes(data)
            with pytest.raises(UnusableKnee) as caught:
                read_crop(path, "R", 0.2, Roi())
            assert caught.value.reason == reason


class TestFind:
    def find(self, root, names, subjects=OAI, months=(0, 12)):
        (root / "crops").mkdir(exist_ok=True)
        for name in names:
            (root / "crops" / name).touch()
        notes = collections.Counter()
        found, dropped = find_crops(root, subjects, months, notes)
        return dict(found), [(k.subject, k.side, k.visit, k.reason) for k in dropped], dict(notes)

    def test_both_studies_in_one_folder(self, tmp_path):
        names = ["9000001_00_L.png", "9000001_00_R.png", "9000001_12_L.png", "M00123_00_R.png"]
        found, dropped, notes = self.find(tmp_path, names)
        assert found == {
            ("9000001", 0): ["crops/9000001_00_L.png", "crops/9000001_00_R.png"],
            ("9000001", 12): ["crops/9000001_12_L.png"],
        }
        assert [side_of(source) for source in found["9000001", 0]] == ["L", "R"]
        assert dropped == []
        assert notes == {"crops_of_another_study": 1, "files_of_other_names": 0}
        found, _, notes = self.find(tmp_path, [], subjects=MOST)
        assert found == {("M00123", 0): ["crops/M00123_00_R.png"]}
        assert notes == {"crops_of_another_study": 3, "files_of_other_names": 0}

    def test_names_and_visits_that_nobody_knows(self, tmp_path):
        names = ["9000001_00_L.png", "9000001_0_R.png", "9000001_00_R.jpg", "9000001_18_L.png"]
        names += ["9000001_00_X.png", "Doe_Jane.png", "Thumbs.db", ".DS_Store"]
        _, dropped, notes = self.find(tmp_path, names)
        assert dropped == [("9000001", "L", -1, "visit_unknown")]
        assert notes["files_of_other_names"] == 5

    def test_none(self, tmp_path):
        with pytest.raises(UserError, match="no crops of this study"):
            self.find(tmp_path, ["M00123_00_R.png"])
