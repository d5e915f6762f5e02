import csv

import numpy as np
import pydicom
import pytest

from knee_jax.phantom import clutter
from knee_jax.phantom.study import read_points, write_study


@pytest.fixture
def films(tmp_path):
    """Films of every machine and transfer syntax that eight subjects have."""
    knees = write_study(tmp_path, num_subjects=8, visits=(0,), rows=192, seed=2, progress=False)
    return [tmp_path / source for source in knees["source"].unique()]


def test_a_failed_film_is_earlier_and_blurred(films):
    for film in films:
        failed = clutter.add_rescan(film)
        before, after = pydicom.dcmread(failed), pydicom.dcmread(film)
        assert before.StudyDate == failed.parts[-3] < after.StudyDate
        assert before.AccessionNumber == failed.parts[-2]
        assert before.PatientID == after.PatientID
        assert _roughness(before) < 0.5 * _roughness(after)
        marks = film.with_name("001.pts")
        assert failed.with_name("001.pts").exists() == marks.exists()


def _roughness(film):
    return np.abs(np.diff(film.pixel_array.astype(float), n=2, axis=1)).mean()


def test_other_films_say_what_they_show(films):
    hand, lateral = clutter.add_other_films(films[0])
    for path, series, body in (
        (hand, "PA Right Hand", "HAND"),
        (lateral, "Lateral Right Knee", "KNEE"),
    ):
        header = pydicom.dcmread(path)
        assert (header.SeriesDescription, header.BodyPartExamined) == (series, body)
        assert header.Laterality == "R"
        assert header.AccessionNumber == path.parent.name
        assert header.PatientID == path.parts[-4]
        assert header.pixel_array.std() > 100


def test_halves_of_a_film_are_its_pixels_and_landmarks(films):
    for film in films:
        whole = pydicom.dcmread(film)
        marks = {"R": film.with_name("001_f.pts"), "L": film.with_name("001.pts")}
        points = {side: read_points(path) for side, path in marks.items() if path.exists()}
        halves = clutter.split(film)
        assert not film.parent.exists()
        parts = {side: pydicom.dcmread(path) for side, path in halves.items()}
        together = np.hstack([parts["R"].pixel_array, parts["L"].pixel_array])
        np.testing.assert_array_equal(together, whole.pixel_array)
        assert {side: part.Laterality for side, part in parts.items()} == {"R": "R", "L": "L"}
        spacing = whole.ImagerPixelSpacing[1]
        for side, old in points.items():
            (found,) = halves[side].parent.glob("*.pts")
            assert found.name == marks[side].name
            new = read_points(found)
            # From the film's left edge: of the right knee, from the mirrored film's.
            if side == "R":
                old = old * (-1, 1) + (whole.Columns * spacing, 0)
                new = new * (-1, 1) + (parts["R"].Columns * spacing, 0)
            else:
                new += (parts["R"].Columns * spacing, 0)
            np.testing.assert_allclose(new, old, atol=1e-5)


def test_table_of_contents(films, tmp_path):
    path = clutter.write_contents(tmp_path, films)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [f"00m/{row['Folder']}/001" for row in rows] == [
        film.relative_to(tmp_path).as_posix() for film in films
    ]
    for row in rows:
        release, subject, date, barcode = row["Folder"].split("/")
        assert release[0] == "0"
        assert (subject, date, barcode) == (row["ParticipantID"], row["StudyDate"], row["Barcode"])
        assert row["SeriesDescription"] == "Bilateral PA Fixed Flexion Knee"
