import collections
import json
import pickle
import re

import numpy as np
import pydicom
import pytest

from knee_jax.errors import UserError
from knee_jax.ingest.film import Roi
from knee_jax.ingest.report import Exclusion
from knee_jax.ingest.study import plan_study
from tests.ingest.conftest import reasons

ROI = Roi(140, 70)


def ingest(root):
    """Run all jobs of a study; return kept and excluded knees by (subject, side, visit)."""
    jobs, exclusions, notes = plan_study(root, "test", ROI)
    results = [knee for job in jobs for knee in job()]
    kept = {(k["subject"], k["side"], k["visit"]): k for k in results if not _is_excluded(k)}
    exclusions = [*exclusions, *filter(_is_excluded, results)]
    return kept, {(k.subject, k.side, k.visit): k for k in exclusions}, notes


def _is_excluded(knee):
    return isinstance(knee, Exclusion)


def test_a_clean_study(make, tmp_path):
    make.write_study(tmp_path)
    kept, exclusions, notes = ingest(tmp_path)
    assert len(kept) == 6
    assert not exclusions
    assert {name: n for name, n in notes.items() if n} == {"knees_in_the_tables": 6}
    knee = kept["9000002", "L", 0]
    assert knee["image"].shape == (70, 70)
    assert knee["image"].dtype == np.uint8
    assert knee["grades"].tolist() == [2, 1, 0, 1, 2, 0, 1]
    assert knee["site"] == "B"
    assert knee["cohort"] == "test"
    assert knee["spacing_mm"] == 2
    assert knee["keypoints_valid"]
    np.testing.assert_allclose(knee["keypoints"][55], (35, 35), atol=1e-5)
    assert knee["source"] == "00m/0.C.2/9000002/20041115/0900000200/001"
    assert (tmp_path / knee["source"]).is_file()


def test_order_and_pickling(make, tmp_path):
    make.write_study(tmp_path, ("9000003", "9000001"))
    make.write_visit(tmp_path, "9000003", 18)
    jobs, _, _ = plan_study(tmp_path, "test", ROI)
    found = [
        (knee["subject"], knee["visit"], knee["side"])
        for job in pickle.loads(pickle.dumps(jobs))
        for knee in job()
    ]
    films = [("9000001", 0), ("9000003", 0), ("9000003", 18)]
    assert found == [(*film, side) for film in films for side in "RL"]


def test_sides_of_the_film(make, tmp_path):
    """The film's left half holds the patient's right knee."""
    (path,) = make.write_study(tmp_path, ["9000001"])
    film = pydicom.dcmread(path)
    pixels = np.zeros((film.Rows, film.Columns), np.uint16)
    pixels[:, : film.Columns // 2] = 4000
    film.PixelData = pixels.tobytes()
    make.write(path, film)
    kept, _, _ = ingest(tmp_path)
    assert kept["9000001", "R", 0]["image"][35, 35] == 255
    assert kept["9000001", "L", 0]["image"][35, 35] == 0


class TestUnlabelled:
    def test_knee_that_was_not_read(self, make, tmp_path):
        make.write_study(tmp_path)
        table = tmp_path / "tables" / "kxr_sq_bu00.txt"
        lines = table.read_text().splitlines()
        table.write_text("\n".join(line for line in lines if "9000001|2" not in line))
        kept, exclusions, _ = ingest(tmp_path)
        assert not exclusions
        assert kept["9000001", "L", 0]["grades"].tolist() == [-1] * 7
        assert kept["9000001", "R", 0]["grades"].tolist() == [2, 1, 0, 1, 2, 0, 1]

    def test_interim_visit_without_a_table(self, make, tmp_path):
        make.write_study(tmp_path)
        make.write_visit(tmp_path, "9000001", 18)
        kept, exclusions, notes = ingest(tmp_path)
        assert not exclusions
        assert notes["films_of_visits_without_readings"] == 1
        assert kept["9000001", "R", 18]["grades"].tolist() == [-1] * 7


def tag(name, value):
    def change(make, path):
        film = pydicom.dcmread(path)
        if value is None:
            delattr(film, name)
        else:
            setattr(film, name, value)
        make.write(path, film)

    return change


def recolour(make, path):
    make.write(
        path, make.dataset(np.random.default_rng(0).integers(0, 256, (400, 640, 3), np.uint8))
    )


def flatten(make, path):
    make.write(path, make.dataset(np.full((400, 640), 7, np.uint16)))


def cut_short(make, path):
    path.write_bytes(path.read_bytes()[:-1000])


BAD_FILMS = {
    "no_spacing": tag("ImagerPixelSpacing", None),
    "truncated_pixels": cut_short,
    "empty_image": tag("Rows", 0),
    "empty_file": lambda make, path: path.write_bytes(b""),
    "wrong_modality": tag("Modality", "MR"),
    "colour_image": recolour,
    "not_dicom": lambda make, path: path.write_text("a note, not a film\n" * 50),
    "flat_image": flatten,
}


@pytest.mark.parametrize("reason", BAD_FILMS)
def test_bad_film(make, tmp_path, reason):
    """Both its knees are named with the reason; those of the other films are as before."""
    paths = make.write_study(tmp_path)
    before, _, _ = ingest(tmp_path)
    BAD_FILMS[reason](make, paths[1])
    kept, exclusions, _ = ingest(tmp_path)
    assert reasons(exclusions) == {("9000002", side, 0): reason for side in "RL"}
    for exclusion in exclusions.values():
        assert (tmp_path / exclusion.source) == paths[1]
        assert exclusion.detail
    assert set(kept) == set(before) - set(exclusions)
    for knee, example in kept.items():
        np.testing.assert_array_equal(example["image"], before[knee]["image"])


BAD_POINTS = {
    "landmarks_count": lambda points: points[:-1],
    "landmarks_nan": lambda points: points * np.where(np.arange(74) == 5, np.nan, 1)[:, None],
    "landmarks_outside": lambda points: points + np.array([0, 150]),
}


@pytest.mark.parametrize("reason", BAD_POINTS)
def test_bad_landmarks(make, tmp_path, reason):
    """Only the knee whose landmarks they are is lost."""
    paths = make.write_study(tmp_path)
    points = make.on_film((0.73 * 320, 100.0), "L")
    make.write_points(paths[0].with_name("001.pts"), BAD_POINTS[reason](points))
    kept, exclusions, _ = ingest(tmp_path)
    assert reasons(exclusions) == {("9000001", "L", 0): reason}
    assert len(kept) == 5


def test_missing_landmarks(make, tmp_path):
    paths = make.write_study(tmp_path)
    paths[0].with_name("001_f.pts").unlink()
    kept, exclusions, _ = ingest(tmp_path)
    assert reasons(exclusions) == {("9000001", "R", 0): "no_landmarks"}
    assert len(kept) == 5


def test_prosthesis(make, tmp_path):
    make.write_study(tmp_path)
    table = tmp_path / "tables" / "kxr_sq_bu00.txt"
    text = table.read_text()
    read = "9000001|1: Right|15|2|1|0|1|2|0|1"
    assert read in text
    table.write_text(text.replace(read, "9000001|1: Right|15" + "|.P: Prosthetic" * 7))
    kept, exclusions, _ = ingest(tmp_path)
    assert reasons(exclusions) == {("9000001", "R", 0): "prosthesis"}
    assert len(kept) == 5


def test_replacements_that_only_the_outcomes_tell_of(make, tmp_path):
    """A filmed knee without a grade is excluded from the visit on at which it was reported."""
    make.write_study(tmp_path)
    make.write_visit(tmp_path, "9000001", 24)
    make.write_visit(tmp_path, "9000002", 24)
    rows = [("9000001", "1: Right", 15, *[""] * 7), ("9000002", 1, 15, 4, *[3] * 6)]
    (tmp_path / "tables" / "kxr_sq_bu03.txt").write_text(make.table(24, rows))
    _, exclusions, _ = ingest(tmp_path)
    assert not exclusions
    cells = "9000001|5: 36-month|3: 24-month\n9000002|2: 18-month|1: 12-month\n9|1|1\n"
    (tmp_path / "tables" / "outcomes99.txt").write_text("ID|V99ELKVSRP|V99ERKVSRP\n" + cells)
    kept, exclusions, _ = ingest(tmp_path)
    # The readers saw a joint in the right knee of the second subject, and nobody read the left one.
    assert reasons(exclusions) == {
        ("9000001", "R", 24): "replaced",
        ("9000002", "L", 24): "replaced",
    }
    assert "by month 24" in exclusions["9000001", "R", 24].detail
    assert len(kept) == 8


def test_reading_without_film_and_repeated_film(make, tmp_path):
    paths = make.write_study(tmp_path)
    table = tmp_path / "tables" / "kxr_sq_bu00.txt"
    table.write_text(table.read_text() + "9999999|1: Right|15|0|0|0|0|0|0|0\n")
    again = paths[0].parent.with_name("1900000100")
    again.mkdir()
    (again / "001").write_bytes(paths[0].read_bytes())
    jobs, exclusions, _ = plan_study(tmp_path, "test", ROI)
    assert len(jobs) == 3
    assert collections.Counter(exclusion.reason for exclusion in exclusions) == {
        "no_film": 1,
        "repeated_film": 2,
    }


class TestUserErrors:
    def test_no_films(self, tmp_path):
        (tmp_path / "tables").mkdir()
        with pytest.raises(UserError, match="no films"):
            plan_study(tmp_path, "test", ROI)

    def test_visit_without_its_table(self, make, tmp_path):
        make.write_study(tmp_path)
        make.write_visit(tmp_path, "9000001", 24)
        with pytest.raises(UserError, match="kxr_sq_bu03"):
            plan_study(tmp_path, "test", ROI)

    def test_no_enrollees(self, make, tmp_path):
        make.write_study(tmp_path)
        (tmp_path / "tables" / "enrollees.txt").unlink()
        with pytest.raises(UserError, match="enrollees"):
            plan_study(tmp_path, "test", ROI)


def test_report_is_complete(make, tmp_path):
    """Every knee of a film or of a table is kept or excluded, once."""
    from knee_jax.ingest.report import IngestReport, index_row

    paths = make.write_study(tmp_path)
    paths[0].write_bytes(b"")
    paths[1].with_name("001.pts").unlink()
    jobs, exclusions, notes = plan_study(tmp_path, "test", ROI)
    report = IngestReport(exclusions, notes)
    for knee in (knee for job in jobs for knee in job()):
        if isinstance(knee, Exclusion):
            report.exclusions.append(knee)
        else:
            report.add("study", [index_row(knee)], [])
    report.write(tmp_path)
    counts = json.loads((tmp_path / "ingest_report.json").read_text())
    assert counts["seen"] == 6
    assert counts["kept"] == 3
    assert counts["excluded"] == {"empty_file": 2, "no_landmarks": 1}
    assert counts["splits"] == {"study": 3}
    exclusions = (tmp_path / "exclusions.csv").read_text().splitlines()
    assert exclusions[0] == "subject,side,visit,source,reason,detail"
    assert len(exclusions) == 4
    index = (tmp_path / "index.csv").read_text().splitlines()
    assert index[1].startswith("study,0,9000002,R,0,test,B,00m/0.C.2/9000002/")
    assert re.search(r",2\.0,True,[0-9a-f]{16},[0-9a-f]{128},2,1,0,1,2,0,1$", index[1])
