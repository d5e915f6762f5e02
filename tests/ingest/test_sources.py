"""The same knees through all that can tell where they are, as the phantom writes it to disk."""

import shutil

import numpy as np
import pydicom
import pytest

from knee_jax.errors import UserError
from knee_jax.ingest.film import Roi
from knee_jax.ingest.inventory import Rules
from knee_jax.ingest.report import Exclusion, Note
from knee_jax.ingest.study import plan_study
from knee_jax.landmarks import PRESETS
from knee_jax.phantom import placements
from knee_jax.phantom.study import write_study
from tests.ingest.conftest import reasons

KNEEL = list(PRESETS["kneel16"])


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """A clean tree in each layout; do not change them."""
    roots = {layout: tmp_path_factory.mktemp(layout) for layout in ("oai", "most")}
    for layout, root in roots.items():
        knees = write_study(
            root, num_subjects=2, visits=(0,), rows=640, progress=False, study=layout
        )
        for write in placements.WRITERS.values():
            write(root, knees)
    return roots


@pytest.fixture(params=["oai", "most"])
def tree(request, trees):
    """Name of a layout, and a tree in it."""
    return request.param, trees[request.param]


@pytest.fixture
def study(trees, tmp_path):
    """A copy of the tree laid out as OAI's, to be spoilt."""
    return shutil.copytree(trees["oai"], tmp_path / "study")


def ingest(root, kind, roi=None, layout="oai"):
    """Kept and excluded knees by (subject, side), and notes."""
    rules = Rules(landmarks=kind)
    jobs, exclusions, notes = plan_study(root, "test", roi or Roi(), layout, rules)
    kept, noted = {}, dict(notes)
    exclusions = {(knee.subject, knee.side): knee for knee in exclusions}
    for found in (found for job in jobs for found in job()):
        if isinstance(found, Note):
            noted[found.note] = noted.get(found.note, 0) + 1
        elif isinstance(found, Exclusion):
            exclusions[found.subject, found.side] = found
        else:
            kept[found["subject"], found["side"]] = found
    return kept, exclusions, noted


def same_but_for_pixels(one, other):
    fields = ("subject", "side", "visit", "cohort", "site", "spacing_mm")
    assert {name: one[name] for name in fields} == {name: other[name] for name in fields}
    np.testing.assert_array_equal(one["grades"], other["grades"])


def test_keypoints_are_a_part_of_the_landmarks(tree):
    """The region depends on three landmarks of the 16, and these are the same: the same pixels."""
    layout, root = tree
    expected, _, _ = ingest(root, "bonefinder", layout=layout)
    kept, exclusions, notes = ingest(root, "keypoints", layout=layout)
    assert len(kept) == 4
    assert kept.keys() == expected.keys()
    assert not exclusions
    assert notes["rows_of_landmarks_without_a_film"] == 0
    for knee, found in kept.items():
        same_but_for_pixels(found, expected[knee])
        np.testing.assert_array_equal(found["image"], expected[knee]["image"])
        points, of_file = found["keypoints"], expected[knee]["keypoints"]
        np.testing.assert_allclose(points[KNEEL], of_file[KNEEL], atol=1e-4)
        assert np.isnan(np.delete(points, KNEEL, axis=0)).all()
        assert expected[knee]["keypoints_valid"]
        assert not found["keypoints_valid"]


def test_boxes_are_not_levelled(tree):
    """Their centres have three decimals of a pixel: a grey level at most, where it is rounded."""
    layout, root = tree
    expected, _, _ = ingest(root, "bonefinder", Roi(level_plateau=False), layout)
    kept, exclusions, _ = ingest(root, "boxes", layout=layout)
    assert len(kept) == 4
    assert kept.keys() == expected.keys()
    assert not exclusions
    for knee, found in kept.items():
        same_but_for_pixels(found, expected[knee])
        assert np.abs(found["image"].astype(int) - expected[knee]["image"]).max() <= 1
        assert not found["keypoints_valid"]


def test_crops_need_no_films(tree, tmp_path):
    """They were cut to whole grey levels (half of one darker) at 0.2 mm by another resampler.

    That makes half a grey level on the average. One pixel's shift of the result would make two, and
    a tilt of two degrees more.
    """
    layout, root = tree
    expected, _, _ = ingest(root, "bonefinder", layout=layout)
    for folder in ("tables", "crops"):
        shutil.copytree(root / folder, tmp_path / folder)
    kept, exclusions, _ = ingest(tmp_path, "crops", layout=layout)
    assert list(kept) == list(expected)
    assert not exclusions
    for knee, found in kept.items():
        same_but_for_pixels(found, expected[knee])
        difference = np.abs(found["image"].astype(float) - expected[knee]["image"])
        assert difference.mean() < 0.75
        assert difference.max() < 16
        assert not found["keypoints_valid"]
        assert (tmp_path / found["source"]).is_file()


def test_landmark_files_apart_from_the_films(study):
    expected, _, _ = ingest(study, "bonefinder")
    for path in list(study.glob("00m/**/*.pts")):
        apart = study / "landmarks" / path.relative_to(study)
        apart.parent.mkdir(parents=True, exist_ok=True)
        path.rename(apart)
    kept, exclusions, _ = ingest(study, "bonefinder")
    assert not exclusions
    for knee, found in kept.items():
        np.testing.assert_array_equal(found["keypoints"], expected[knee]["keypoints"])


class TestLost:
    def lines(self, study, kind):
        path = study / "tables" / f"{kind}.csv"
        return path, path.read_text().splitlines()

    @pytest.mark.parametrize("kind", ["keypoints", "boxes"])
    def test_a_knee_that_the_table_does_not_name(self, study, kind):
        path, (header, first, *others) = self.lines(study, kind)
        path.write_text("\n".join([header, *others]))
        kept, exclusions, _ = ingest(study, kind)
        assert len(kept) == 3
        (knee,) = exclusions
        assert knee[0] in first
        assert knee[1] in first.split(",")
        assert exclusions[knee].reason == "no_landmarks"

    @pytest.mark.parametrize("kind", ["keypoints", "boxes"])
    def test_a_row_without_a_film(self, study, kind):
        path, lines = self.lines(study, kind)
        strange = lines[1].replace("9000099", "9999999")
        path.write_text("\n".join([*lines, strange]))
        kept, exclusions, notes = ingest(study, kind)
        assert len(kept) == 4
        assert not exclusions
        assert notes["rows_of_landmarks_without_a_film"] == 1

    def test_a_bad_row(self, study):
        path, lines = self.lines(study, "keypoints")
        lines[1] = lines[1].rsplit('"', 2)[0] + '"1,2"'
        path.write_text("\n".join(lines))
        kept, exclusions, _ = ingest(study, "keypoints")
        assert len(kept) == 3
        ((knee, exclusion),) = exclusions.items()
        assert (exclusion.reason, knee) == ("landmarks_count", ("9000099", "R"))
        assert exclusion.detail.startswith("keypoints.csv, line 2: ")

    def test_a_reading_without_a_crop(self, study):
        (study / "crops" / "9000099_00_L.png").unlink()
        kept, exclusions, _ = ingest(study, "crops")
        assert len(kept) == 3
        assert reasons(exclusions) == {("9000099", "L"): "no_crop"}

    def test_a_crop_that_cannot_be_read(self, study):
        (study / "crops" / "9000099_00_L.png").write_bytes(b"")
        kept, exclusions, _ = ingest(study, "crops")
        assert len(kept) == 3
        assert reasons(exclusions) == {("9000099", "L"): "empty_file"}
        assert exclusions["9000099", "L"].source == "crops/9000099_00_L.png"

    def test_no_table(self, study):
        (study / "tables" / "boxes.csv").unlink()
        with pytest.raises(UserError, match="no such table"):
            ingest(study, "boxes")


class TestOrientation:
    def test_a_film_whose_sides_are_swapped(self, study):
        """The table's sides are swapped; the correct landmark files are not read."""
        path = study / "tables" / "boxes.csv"
        swap = str.maketrans("LR", "RL")
        lines = path.read_text().splitlines()
        lines[1:] = [line.translate(swap) if "9000099" in line else line for line in lines[1:]]
        path.write_text("\n".join(lines))
        kept, exclusions, _ = ingest(study, "boxes")
        assert len(kept) == 2
        assert reasons(exclusions) == {("9000099", side): "sides_swapped" for side in "RL"}

    def test_one_knee_marked_twice(self, study):
        (film,) = study.glob("00m/*/9000099/*/*/001")
        header = pydicom.dcmread(film)
        width = header.Columns * header.ImagerPixelSpacing[1]
        text = film.with_name("001.pts").read_text().split("\n")
        for number, line in enumerate(text[3:77], start=3):
            x, y = map(float, line.split())
            text[number] = f"{width - x} {y}"
        film.with_name("001_f.pts").write_text("\n".join(text))
        _, exclusions, _ = ingest(study, "bonefinder")
        assert reasons(exclusions) == {("9000099", side): "same_half" for side in "RL"}

    @pytest.mark.parametrize(
        ("tags", "note"),
        [
            ({"PatientOrientation": ["R", "F"]}, "header_mirrored"),
            ({"PatientOrientation": ["L", "H"]}, "header_upside_down"),
            ({"Laterality": "R"}, "header_one_sided"),
            ({"ImageLaterality": "L"}, "header_one_sided"),
            ({"PatientOrientation": ["L", "F"], "ImageLaterality": "B"}, None),
            ({"PatientOrientation": "", "Laterality": ""}, None),
            ({"PatientOrientation": ["R"]}, "header_mirrored"),
        ],
    )
    def test_what_the_header_says(self, make, tmp_path, tags, note):
        """It loses no knee: landmarks tell more, and machines are set wrongly."""
        (path, *_) = make.write_study(tmp_path)
        film = pydicom.dcmread(path)
        for name, value in tags.items():
            setattr(film, name, value)
        make.write(path, film)
        kept, exclusions, notes = ingest(tmp_path, "bonefinder", Roi(140, 70))
        assert len(kept) == 6
        assert not exclusions
        found = {name: count for name, count in notes.items() if name.startswith("header_")}
        assert found == ({note: 1} if note else {})
