import csv
import subprocess
import sys

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
        halves = clutter.separate_knees(film)
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


@pytest.mark.parametrize("kind", clutter.KINDS)
def test_a_tree_is_cluttered_at_every_third_film(films, tmp_path, kind):
    clutter.add(tmp_path, films, [kind])
    names = [path.parent.name for path in tmp_path.rglob("001")]
    more = {"rescans": 3, "other_films": 2 * 3, "single_films": 2, "contents": 0}
    assert len(names) == len(set(names)) == len(films) + more[kind]
    assert (tmp_path / "tables" / "contents.csv").exists() == (kind == "contents")
    assert sum(not film.exists() for film in films) == (2 if kind == "single_films" else 0)


def command(*flags):
    line = [sys.executable, "-m", "knee_jax.phantom", "--rows=64", "--subjects=2", "--visit=0"]
    return subprocess.run([*line, *flags], capture_output=True, text=True, check=False)


def test_command(tmp_path):
    kinds = ("rescans", "other_films", "contents")
    assert command(f"--out={tmp_path}", *(f"--clutter={kind}" for kind in kinds)).returncode == 0
    listed = (tmp_path / "tables" / "contents.csv").read_text().splitlines()[1:]
    assert len(listed) == len(list(tmp_path.rglob("001"))) == 2 + 1 + 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--study=most", "--clutter=rescans"], "there are none of most"),
        (["--study=most", "--mri"], "there are none of most"),
        (["--clutter=single_films", "--landmarks=boxes"], "leave --landmarks out"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path, flags, message):
    failed = command(f"--out={tmp_path}/tree", *flags)
    assert failed.returncode == 1
    assert message in failed.stderr
    assert failed.stderr.count("\n") == 1
    assert not (tmp_path / "tree").exists()
