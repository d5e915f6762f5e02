"""Sets whose landmarks the localiser finds: of crops, and of films without landmark files."""

import functools
import json

import cv2
import numpy as np
import pandas as pd
import pytest
from pydicom import dcmread

from knee_jax.datasets.adapted_windows import CropWindowsJob
from knee_jax.datasets.prepare import prepare
from knee_jax.errors import UnusableKnee, UserError
from knee_jax.inference import side_marker
from knee_jax.inference.found import Found
from knee_jax.inference.landmark_comparison import Comparison
from knee_jax.inference.study_landmarks import localise
from knee_jax.ingest import crops
from knee_jax.ingest.film import Roi
from knee_jax.ingest.report import Exclusion, Note
from knee_jax.ingest.study import plan_study
from knee_jax.phantom.study import read_points, write_study
from knee_jax.report import landmark_quality
from knee_jax.targets.knee_shown import LEFT, RIGHT, TURNED
from tests.inference.drawn_knees import localiser, picture


@pytest.fixture
def drawn(tmp_path):
    """Two crops of drawn knees and one of nothing, laid out as `kneekl224`."""
    planted = {}
    for name, side, x in (("9000001R", "R", 60), ("9000001L", "L", 160), ("9000002R", "R", None)):
        grey, points = picture(224, 224, [] if x is None else [(x, 115, 100, side)])
        grey[:5, :5] = 40 + ord(name[-2])  # No two pictures are the same.
        folder = tmp_path / "raw" / "train" / "0"
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{name}.png"), grey)
        planted[name] = points
    return tmp_path / "raw", planted


def test_a_set_of_crops_has_the_landmarks_and_says_where_they_come_from(drawn, tmp_path):
    raw, planted = drawn
    find = functools.partial(localise, localiser=localiser())
    with pytest.raises(UserError, match=r"prepare --dataset=kneekl224/located"):
        prepare("kneekl224/located", tmp_path / "data", raw, workers=1)
    folder = prepare("kneekl224/located", tmp_path / "data", raw, workers=1, localise=find)
    account = json.loads((folder / "ingest_report.json").read_text())["notes"]
    assert account["knees_located_by_localiser"] == 2
    assert account["knees_without_landmarks"] == 1
    index = pd.read_csv(folder / "index.csv", dtype={"subject": str})
    assert index["keypoints_valid"].sum() == 2
    known = index[index["keypoints_valid"]]
    assert (known["landmark_error"] > 0).all()
    assert index.loc[~index["keypoints_valid"], "landmark_error"].isna().all()
    import tensorflow_datasets as tfds

    records = tfds.builder_from_directory(folder).as_data_source("train")
    for record in records:
        name = record["subject"].decode() + record["side"].decode()
        if planted[name]:
            (points,) = planted[name]
            points = points * [-1, 1] + [224, 0] if name[-1] == "L" else points
            np.testing.assert_allclose(record["keypoints"], points, atol=5)


@pytest.fixture
def study(tmp_path):
    """A tree of four films, the files of one left knee gone, and the landmarks in the others."""
    root = tmp_path / "study"
    write_study(root, num_subjects=2, visits=(0, 12), rows=512, progress=False, seed=5)
    films = sorted(root.rglob("001"))
    films[0].with_name("001.pts").unlink()
    return root, films


class Off:
    """A localiser that finds each knee of a film where its files say, and 2 mm below that."""

    def find(self, picture, most=2, looks=""):
        given = next(self.films)
        header = dcmread(given, stop_before_pixels=True)
        width_mm = header.Columns * float(header.ImagerPixelSpacing[1])
        scale = picture.shape[1] / width_mm
        found = []
        for side, end in (("R", "_f.pts"), ("L", ".pts")):
            if not (file := given.with_name(f"001{end}")).exists():
                continue
            points = read_points(file)
            points[:, 1] += 2.0
            if side == "R":
                points[:, 0] = width_mm - points[:, 0]
            found.append(Found(points * scale, np.full(74, scale), side, 1.0))
        return found


def test_landmarks_of_both_are_compared_and_those_of_files_are_kept(study, tmp_path):
    root, films = study
    find, comparison = Off(), Comparison()
    jobs, *_ = plan_study(root, "OAI", Roi(pixels=100))
    films.sort(key=[root / job.file.source for job in jobs].index)
    find.films = iter(films)
    name, data = "oai_xray/compared", tmp_path / "data"
    look = functools.partial(localise, localiser=find, comparison=comparison)
    with pytest.raises(UserError, match="--dataset=oai_xray/compared"):
        prepare(name, data, root, workers=1, localise=look)
    folder = prepare(
        name,
        data,
        root,
        workers=1,
        localise=look,
        compared=lambda to: landmark_quality.write(to, comparison.table(), comparison.worst),
    )
    knees = pd.read_csv(folder / landmark_quality.KNEES, keep_default_na=False)
    assert len(knees) == 8
    both = knees[(knees["by_files"] == "") & (knees["by_model"] == "")]
    np.testing.assert_allclose(both["mean_mm"].astype(float), 2.0, atol=1e-3)
    np.testing.assert_allclose(both["expected_mm"].astype(float), 2.0, atol=1e-3)
    missing = knees[knees["by_files"] != ""]
    assert set(missing["by_files"]) == {"no_landmarks"}
    assert set(missing["mean_mm"]) == {""}
    index = pd.read_csv(folder / "index.csv")
    assert (index["landmark_error"] == 0).all()
    assert len(index) <= len(both), "a knee that neither has is excluded"
    worst = comparison.worst[0]
    down = worst.by_model - worst.by_files
    assert (down[:, 1] > 1).all()
    np.testing.assert_allclose(down[:, 0], 0, atol=1e-3)


class FromFiles:
    """A localiser that knows the landmarks of a film's knees."""

    def __init__(self, points, width_mm):
        self.points, self.width_mm = points, width_mm

    def find(self, picture, most=2, looks=""):
        scale = picture.shape[1] / self.width_mm
        return [
            Found(points * scale, np.full(74, 1.0), side, 1.0)
            for side, points in self.points.items()
        ]


def test_films_without_landmark_files_are_cut_as_by_the_files(tmp_path, monkeypatch):
    write_study(tmp_path, num_subjects=1, visits=(0,), rows=512, progress=False)
    job, *_ = plan_study(tmp_path, "OAI", Roi(pixels=100))[0]
    by_files = {knee["side"]: knee for knee in job() if isinstance(knee, dict)}
    assert len(by_files) == 2
    film = tmp_path / job.file.source
    header = dcmread(film)
    width_mm = header.Columns * float(header.ImagerPixelSpacing[1])
    points = {
        s: read_points(film.with_name(film.name + e)) for s, e in (("L", ".pts"), ("R", "_f.pts"))
    }
    points["R"][:, 0] = width_mm - points["R"][:, 0]
    knows = FromFiles(points, width_mm)
    assert localise(job, knows).file.locations is None, "files come first"
    film.with_name(film.name + ".pts").unlink()
    mixed = localise(job, FromFiles({s: p + 1.5 for s, p in points.items()}, width_mm))
    right, left = (knee for knee in mixed() if isinstance(knee, dict))
    assert right["landmark_error"] == 0
    assert left["landmark_error"] > 0
    np.testing.assert_allclose(right["keypoints"], by_files["R"]["keypoints"], atol=1e-3)
    swapped = FromFiles({"L": points["R"]}, width_mm)
    kept, excluded = localise(job, swapped)()
    assert (kept["side"], excluded.reason) == ("R", "letter_mismatch"), "its letter is at the other"
    monkeypatch.setattr(side_marker, "read", lambda *_: [])
    kept, excluded = localise(job, swapped)()
    assert (kept["side"], excluded.reason) == ("R", "no_landmarks"), "the right knee is no left one"
    film.with_name(film.name + "_f.pts").unlink()
    found = localise(job, knows)
    for knee in found():
        if isinstance(knee, dict):
            np.testing.assert_allclose(
                knee["keypoints"], by_files[knee["side"]]["keypoints"], atol=0.05
            )
            assert knee["landmark_error"] > 0


def test_a_film_on_which_no_knee_is_found_is_told(tmp_path):
    write_study(tmp_path, num_subjects=1, visits=(0,), rows=512, progress=False)
    job, *_ = plan_study(tmp_path, "OAI", Roi(pixels=100))[0]
    for file in (tmp_path / job.file.source).parent.glob("*.pts"):
        file.unlink()

    class Nothing:
        def find(self, picture, most=2, looks=""):
            raise UnusableKnee("no_knee", "no knee was found")

    found = localise(job, Nothing())()
    assert {each.reason for each in found if not isinstance(each, Note)} == {"no_knee"}


def test_windows_of_crops_have_the_landmarks_of_the_right_looking_ones(drawn):
    raw, _ = drawn
    files = crops.find_kneekl224(raw)["train"]
    jobs = [CropWindowsJob(crops.CropJob(raw, file, crops.KNEEKL224), 96) for file in files]
    with_points = [
        CropWindowsJob(localise(job.crop, localiser()), job.pixels, number=6) for job in jobs
    ]
    drawn_windows = with_points[0]()
    shown = [window["knee_shown"] for window in drawn_windows]
    assert shown.count(TURNED) == 1
    assert set(shown) <= {RIGHT, LEFT, TURNED}
    for window in drawn_windows:
        assert window["keypoints_valid"] == (window["knee_shown"] == RIGHT)
    (excluded,) = with_points[-1]()
    assert isinstance(excluded, Exclusion)
    assert excluded.reason == "not_located"
