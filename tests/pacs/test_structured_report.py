"""Reports and captures: the row's own values, the film's own patient, accepted by others."""

import io
import shutil
import subprocess

import numpy as np
import pydicom
import pytest
from highdicom.sr import srread

from knee_jax.errors import UnusableKnee
from knee_jax.inference import grade
from knee_jax.ingest.sources import Source
from knee_jax.pacs import capture, results, structured_report
from knee_jax.pacs import film as films
from tests.pacs.films import ROW, TARGETS, film, groups

LEFT = {**ROW, "side": "L", "kl_pred": 0, "kl_p0": 0.9, "kl_calibrated": False, "novelty": 1.3}
REFUSED = {"status": "refused", "side": "L", "reason": "prosthesis", "notes": ""}


def saved(made):
    """The object as a file holds it."""
    file = io.BytesIO()
    made.save_as(file, enforce_file_format=True)
    file.seek(0)
    return pydicom.dcmread(file)


def test_a_report_says_what_the_rows_say(tmp_path):
    header = films.read(film(tmp_path / "001"))
    report = saved(structured_report.report(header, [ROW, LEFT, REFUSED], TARGETS))
    right, left = groups(report)
    assert (right["Laterality"], left["Laterality"]) == ("Right", "Left")
    assert (right["KL grade"], left["KL grade"]) == ("KL 2", "KL 0")
    for number in range(5):
        assert right[f"Probability of KL {number}"] == (ROW[f"kl_p{number}"], "1")
    assert right["Expected KL grade"] == (ROW["kl_expected"], "1")
    assert right["Calibrated confidence in KL grade"] == (ROW["kl_confidence"], "1")
    assert "Calibrated confidence in KL grade" not in left
    assert right["Minimum joint space width, medial compartment"] == (3.218, "mm")
    assert right["Joint line convergence angle, positive in varus"] == (-1.25, "deg")
    assert "Femorotibial angle of a short film, positive in varus" not in right
    assert right["Algorithm Name"] == "kl-kneekl224"
    assert right["Source of Measurement"] == header.SOPInstanceUID


def test_a_doubt_is_told(tmp_path):
    header = films.read(film(tmp_path / "001"))
    doubted = {**ROW, "notes": f"bright; {grade.DOUBT}"}
    sure, unsure = groups(structured_report.report(header, [ROW, doubted], TARGETS))
    words = "Unlike most knees that the model was trained on"
    assert unsure["Doubt about the picture"] == words
    assert "Doubt about the picture" not in sure


def test_what_is_unknown_of_a_knee_is_left_out(tmp_path):
    header = films.read(film(tmp_path / "001"))
    row = {**ROW, "side": "", "jsw_medial_mm": None, "jsw_lateral_mm": None, "jsw_error_mm": None}
    (group,) = groups(structured_report.report(header, [row], TARGETS))
    assert "Laterality" not in group
    assert not [name for name in group if "joint space" in name]


def test_a_report_is_filed_with_its_film(tmp_path):
    path = film(
        tmp_path / "001",
        PatientName="Müller^Jürgen",
        SpecificCharacterSet="ISO_IR 100",
        PatientBirthDate="19500101",
        PatientSex="M",
        StudyID="17",
    )
    header = films.read(path)
    uid = structured_report.new_uid()
    picture = np.zeros((10, 20, 3), np.uint8)
    for made in (
        structured_report.report(header, [ROW], TARGETS),
        capture.capture(header, picture, "R", uid, 1),
    ):
        found, whole = saved(made), pydicom.dcmread(path)
        for keyword in (*films.FILED_BY, "StudyInstanceUID"):
            assert found.get(keyword) or not whole.get(keyword)
            if whole.get(keyword):
                assert found[keyword].value == whole[keyword].value
        assert found.SOPInstanceUID != whole.SOPInstanceUID
        assert found.SeriesInstanceUID != whole.SeriesInstanceUID


def test_knees_are_tracked_and_objects_are_new_each_time(tmp_path):
    header = films.read(film(tmp_path / "001"))
    first, second = (structured_report.report(header, [ROW, LEFT], TARGETS) for _ in range(2))
    assert first.SOPInstanceUID != second.SOPInstanceUID
    tracked = [
        [group["Tracking Unique Identifier"] for group in groups(report)]
        for report in (first, second)
    ]
    assert tracked[0] == tracked[1]
    assert len(set(tracked[0])) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"PatientSex": "UNKNOWN SEX"},
        {"PatientName": "9000099"},
        {"StudyDate": "not a date", "PatientBirthDate": "1950"},
        {"PatientID": None, "PatientName": None, "StudyDate": None, "AccessionNumber": None},
        {"StudyTime": "25:99", "StudyID": "x" * 40},
        {"PatientID": "x" * 100},
    ],
)
def test_headers_of_any_archive_are_passed_on_as_they_are(tmp_path, changes):
    path = film(tmp_path / "001", **changes)
    report = structured_report.report(films.read(path), [ROW], TARGETS)
    with pydicom.config.disable_value_validation():
        found = saved(report)
        for keyword, value in changes.items():
            assert str(found.get(keyword) or "") == (value or "")
    assert groups(found)[0]["KL grade"] == "KL 2"


@pytest.mark.parametrize("keyword", films.NEEDED)
def test_a_film_that_nothing_can_refer_to_is_named(tmp_path, keyword):
    path = film(tmp_path / "001", **{keyword: None})
    with pytest.raises(UnusableKnee, match=f"no_reference: the film carries no {keyword}"):
        films.read(path)


def test_others_accept_them(tmp_path):
    header = films.read(film(tmp_path / "001", PatientName="A^B"))
    picture = np.zeros((10, 20, 3), np.uint8)
    uid = structured_report.new_uid()
    made = {
        "report": structured_report.report(header, [ROW, LEFT], TARGETS),
        "right": capture.capture(header, picture, "R", uid, 1),
        "left": capture.capture(header, picture, "L", uid, 2),
        "unknown": capture.capture(header, picture, "", uid, 3),
    }
    for name, each in made.items():
        results.write(tmp_path / name, each)
    read = srread(tmp_path / "report")
    assert len(read.content.get_image_measurement_groups()) == 2
    if not shutil.which("dciodvfy"):
        pytest.skip("dciodvfy (dicom3tools) is not installed")
    for name in made:
        with (tmp_path / name).open("rb") as file:
            done = subprocess.run(["dciodvfy"], stdin=file, capture_output=True, text=True)
        assert "Error" not in done.stderr, done.stderr


def test_a_picture_has_its_knee_s_sides(tmp_path):
    header = films.read(film(tmp_path / "001"))
    picture = np.random.default_rng(0).integers(0, 256, (100, 320, 3), np.uint8)
    uid = structured_report.new_uid()
    right, left = (saved(capture.capture(header, picture, side, uid, 1)) for side in "RL")
    for made in (right, left):
        above = made.pixel_array.shape[0] - len(picture)
        np.testing.assert_array_equal(made.pixel_array[above:], picture)
        assert made.pixel_array[:above].max() == 255  # Words.
    assert (right.pixel_array != left.pixel_array).any()
    # As on the film: the body's left is at the right of both.
    assert list(right.PatientOrientation) == list(left.PatientOrientation) == ["L", "F"]


def test_each_film_gets_its_objects_and_the_rest_a_note(tmp_path):
    from tests.inference.test_grade import knee, model, read_of

    film(tmp_path / "a.dcm")
    film(tmp_path / "b.dcm", StudyInstanceUID=None)
    (tmp_path / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n and more")
    reads = []
    for name in ("a.dcm", "b.dcm", "c.png"):
        found = (knee(200, 50, "R", name), knee(20, 200, "L", name))
        source = Source(tmp_path / name, name)
        reads.append(grade.Read(source, found))
    reads.append(read_of(name="nothing.dcm"))
    out = tmp_path / "out"
    for name in (grade.KNEES, grade.PICTURES):
        (out / name).mkdir(parents=True)
    predictor = model()
    graded = list(results.written(grade.rows_of(predictor, reads, out), predictor.targets, out))
    assert [len(rows) for _, rows in graded] == [2, 2, 2, 0]
    notes = [rows[0]["notes"] for _, rows in graded[:3]]
    assert "structured report" not in notes[0]
    assert "no structured report: the film carries no StudyInstanceUID" in notes[1]
    assert "no structured report: " in notes[2]
    kinds = sorted(path.name[-7:] for path in (out / results.FOLDER).iterdir())
    assert kinds == ["_sc.dcm", "_sc.dcm", "_sr.dcm"]
