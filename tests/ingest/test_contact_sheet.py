import cv2
import numpy as np

from knee_jax.ingest import contact_sheet
from knee_jax.ingest.report import example
from knee_jax.pictures import LATERAL, MEDIAL
from knee_jax.targets.grades import GRADES

BLANK = np.zeros((100, 100), np.uint8)


def rows(num_subjects, visits=(0, 24)):
    return [
        {"subject": f"{9000000 + number}", "side": side, "visit": visit, "split": "study"}
        for number in range(num_subjects)
        for visit in visits
        for side in "RL"
    ]


GRADED = (4, 0, 1, 2, 3, 0, 1)


def knee(image=BLANK, keypoints=None, grades=(-1,) * 7, **identity):
    identity = {"subject": "9000001", "side": "R", "visit": 0} | identity
    return example(
        image, np.array(grades), cohort="test", source="001", keypoints=keypoints, **identity
    )


def draw(path, *knees):
    contact_sheet.write(path, knees)
    return cv2.imread(str(path))


class TestChoice:
    def test_one_of_each_subject_before_a_second(self):
        chosen = contact_sheet.choose(rows(100))
        assert len(chosen) == 48
        assert len({row["subject"] for row in chosen}) == 48
        sides = [row["side"] for row in chosen]
        assert sides == sorted(sides, reverse=True)
        assert 12 < sides.count("L") < 36

    def test_few_subjects(self):
        chosen = contact_sheet.choose(rows(20))
        counts = [
            sum(row["subject"] == s for row in chosen) for s in {r["subject"] for r in chosen}
        ]
        assert sorted(counts) == [2] * 12 + [3] * 8
        assert len(contact_sheet.choose(rows(3))) == 12

    def test_neither_order_nor_a_dropped_knee_matters(self):
        every = rows(100)
        chosen = contact_sheet.choose(every)
        assert contact_sheet.choose(every[::-1]) == chosen
        spare = [row for row in every if row not in chosen]
        assert contact_sheet.choose([row for row in every if row != spare[0]]) == chosen


class TestDrawing:
    def test_the_picture_is_the_knees(self, tmp_path):
        """Of a knee at the second place of the first row, all that is not text."""
        image = np.random.default_rng(0).integers(0, 256, (200, 200), np.uint8)
        sheet = draw(tmp_path / "sheet.png", knee(), knee(image))
        assert sheet.shape == (34 + 238, 8 * 204, 3)
        np.testing.assert_array_equal(sheet[34:234, 204:404], np.repeat(image[..., None], 3, -1))
        assert not sheet[34:234, :204].any()

    def test_landmarks_by_their_side(self, tmp_path):
        """On a picture twice as large as the example; NaN are left out, beyond is cut off."""
        points = np.full((74, 2), np.nan)
        points[[47, 63]] = (20, 50), (80.5, 50.5)
        points[50] = (-10, 300)
        sheet = draw(tmp_path / "sheet.png", knee(keypoints=points))
        picture = sheet[34:234, :200]
        assert picture[100, 40].tolist() == list(LATERAL[::-1])
        assert picture[100, 160].tolist() == list(MEDIAL[::-1])
        marked = np.argwhere(picture.any(axis=-1))
        assert (np.abs(marked[:, 0] - 100) <= 3).all()
        assert ((np.abs(marked[:, 1] - 40) <= 3) | (np.abs(marked[:, 1] - 160) <= 3)).all()

    def test_captions_tell_the_knees_apart(self, tmp_path):
        """Each fact about a knee changes its caption, and nothing else."""
        facts = {"subject": "9000002", "side": "L", "visit": 24}
        base = draw(tmp_path / "sheet.png", knee(grades=GRADED))
        for name, value in facts.items():
            other = draw(tmp_path / "sheet.png", knee(grades=GRADED, **{name: value}))
            assert (other != base)[34 + 200 : 34 + 200 + 17].any()
            assert not (other != base)[: 34 + 200].any()
            assert not (other != base)[34 + 200 + 17 :].any()
        for index in range(len(GRADES)):
            grades = list(GRADED)
            grades[index] = -1
            other = draw(tmp_path / "sheet.png", knee(grades=grades))
            assert (other != base)[34 + 200 + 17 :].any()

    def test_captions_tell_the_further_labels_that_are_known(self, tmp_path):
        base = draw(tmp_path / "sheet.png", knee())
        sheets = []
        for value in (-1, np.nan, 1, 2.5):
            labels = {"stage": value}
            contact_sheet.write(tmp_path / "sheet.png", [knee(labels=labels)], list(labels))
            sheets.append(cv2.imread(str(tmp_path / "sheet.png")))
        assert [bool((sheet != base).any()) for sheet in sheets] == [False, False, True, True]
        assert (sheets[2] != sheets[3]).any()

    def test_volumes(self, tmp_path):
        """Middle sagittal slice, and the coronal one to its right, as bright as they can be."""
        volume = np.zeros((40, 40, 20), np.uint8)
        volume[:20, :21, :] = 50
        volume[:, :, :10] += 10
        identity = {"subject": "9000001", "side": "R", "visit": 0}
        made = identity | {"volume": volume, "progression": np.int8(1), "grades": np.full(7, -1)}
        contact_sheet.write(tmp_path / "sheet.png", [made], ["progression"])
        sheet = cv2.imread(str(tmp_path / "sheet.png"))
        # 40 rows and 40 + 20 columns at 200 / 60.
        height = round(40 * 200 / 60)
        top = 34 + (200 - height) // 2
        tile = sheet[top : top + height, :200, 0].astype(int)
        assert tile[10, 10] == tile[10, 5] > 200  # Anterior and superior, of the sagittal slice.
        assert tile[10, 120] == tile[120, 10] == 0
        assert tile[10, 140] > tile[120, 140] > tile[120, 190] == 0  # Lateral at the left.

    def test_bytes_are_a_function_of_the_knees(self, tmp_path):
        image = np.random.default_rng(0).integers(0, 256, (350, 350), np.uint8)
        for name in "ab":
            contact_sheet.write(tmp_path / name, (knee(image) for _ in range(9)))
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
