"""`knee-jax predict`: a folder of anything becomes a table, pictures and a page, and goes on."""

import dataclasses
import json
import os
import re

import numpy as np
import pandas as pd
import pytest

from knee_jax import pictures
from knee_jax.errors import UserError
from knee_jax.inference import grade, results_folder
from knee_jax.inference.predictor import Predictor
from knee_jax.inference.results_folder import Results, pictures_of, settings_of, stamp
from knee_jax.ingest.knee_files import Knee, Reading, Refusal
from knee_jax.ingest.sources import Source, find
from knee_jax.phantom.anatomy import make_knee
from knee_jax.report.graded import write_page
from knee_jax.targets import get_all

TARGETS = get_all(("kl",))


def model(temperatures=None, name="means"):
    """A model whose grade is the mean brightness of the left half."""

    def forward(batch):
        left = batch["image"][:, :, : batch["image"].shape[2] // 2].mean((1, 2)) / 255
        distance = np.abs(np.arange(5) - 4 * left[:, None])
        weights = np.exp(-2 * distance)
        return {"kl": (weights / weights.sum(1, keepdims=True)).astype(np.float32)}

    return Predictor(
        name=name,
        targets=TARGETS,
        needs_landmarks=False,
        reads="image",
        side=32,
        forward=forward,
        heat=lambda batch: batch["image"].astype(np.float32) / 255,
        temperatures=temperatures or {},
    )


def knee(left, right, side="R", source="a.png"):
    image = np.zeros((32, 32), np.uint8)
    image[:, :16], image[:, 16:] = left, right
    return Knee(source, side, image, np.full((74, 2), np.nan, np.float32), "crop")


def results(tmp_path, reads, predictor=None, part=(1, 1), **changes):
    predictor = predictor or model()
    settings = settings_of(predictor, Reading(pixels=32, **changes))
    folder = Results(tmp_path / "out", settings, part)
    rows = list(folder.add(grade.rows_of(predictor, reads, folder.out)))
    return folder, rows


def read_of(*found, name="a.png"):
    return grade.Read(Source(None, name), found)


@pytest.fixture(autouse=True)
def no_stamps(monkeypatch):
    monkeypatch.setattr(results_folder, "stamp", lambda *_: [0, 0])


def test_rows_have_grade_probabilities_expectation_and_confidence(tmp_path):
    _, [[row]] = results(tmp_path, [read_of(knee(255, 0))])
    p = [row[f"kl_p{c}"] for c in range(5)]
    assert row["kl_pred"] == 4 == int(np.argmax(p))
    assert row["kl_expected"] == pytest.approx(float(np.dot(p, range(5))), abs=1e-5)
    assert row["kl_confidence"] == pytest.approx(max(p), abs=1e-6)
    assert row["kl_calibrated"] is False
    assert (row["file"], row["side"], row["status"]) == ("a.png", "R", "graded")


def test_confidence_is_calibrated_and_the_grade_stays(tmp_path):
    _, [[plain]] = results(tmp_path / "1", [read_of(knee(255, 0))])
    _, [[hot]] = results(tmp_path / "2", [read_of(knee(255, 0))], model({"kl": 2.0}))
    assert hot["kl_pred"] == plain["kl_pred"]
    assert hot["kl_p4"] == plain["kl_p4"]
    powers = np.sqrt([plain[f"kl_p{c}"] for c in range(5)])
    assert hot["kl_confidence"] == pytest.approx(powers.max() / powers.sum(), abs=1e-4)
    assert hot["kl_calibrated"] is True


def test_a_knee_of_unknown_side_is_read_both_ways(tmp_path):
    _, [[unknown]] = results(tmp_path / "1", [read_of(knee(255, 0, side=""))])
    _, [[right]] = results(tmp_path / "2", [read_of(knee(255, 0))])
    _, [[left]] = results(tmp_path / "3", [read_of(knee(0, 255))])
    for c in range(5):
        mean = (right[f"kl_p{c}"] + left[f"kl_p{c}"]) / 2
        assert unknown[f"kl_p{c}"] == pytest.approx(mean, abs=1e-5)


@pytest.mark.parametrize("located", ["localiser", "crop"])
def test_angles_of_shafts_are_told_where_the_file_shows_them(located):
    """A film shows what lies beyond the region that is cut of it, a crop does not."""
    drawn = make_knee(np.random.default_rng(0), np.zeros(4), np.array([0, 0.8]), 78.0, 0.0)
    points = (16 + drawn.landmarks * (32 / 100)).astype(np.float32)
    assert (points < 0).any()
    seen = dataclasses.replace(
        knee(90, 90), landmarks=points, located=located, landmark_error=0.01, spacing_mm=100 / 32
    )
    (row,) = grade.rows_of_knees(model(), [seen])
    assert row["joint_angle_deg"] > 1, "narrowed medially"
    assert 0 < row["joint_angle_error_deg"] < 5
    known = located == "localiser"
    assert (row["axis_angle_deg"] is not None) == known
    assert (row["axis_angle_error_deg"] is not None) == known


def test_files_keep_their_order_and_nothing_is_lost(tmp_path):
    reads = []
    for i in range(100):
        name = f"{i}.png"
        found = [knee(i, 0, source=name), knee(i, 0, "L", name)] if i % 3 else []
        reads.append(read_of(*found, Refusal(name, "L", "flat_image", "nothing"), name=name))
    folder, rows = results(tmp_path, reads)
    table = folder.write_table([read.source for read in reads])
    assert [row["file"] for of_file in rows for row in of_file] == table["file"].tolist()
    assert table["file"].nunique() == 100
    assert (table["status"] == "graded").sum() == 2 * 66
    saved = pd.read_csv(folder.out / "predictions.csv", dtype={"kl_pred": "Int64"})
    assert saved["kl_pred"].tolist()[1:3] == table["kl_pred"].tolist()[1:3]
    assert "4.0" not in (folder.out / "predictions.csv").read_text().split(",")
    assert len(list((folder.out / "knees").iterdir())) == 132
    entry = json.loads(next((folder.out / "knees").iterdir()).read_text())
    assert entry["warning"] == grade.WARNING


def test_a_stopped_command_goes_on_and_a_torn_line_is_done_again(tmp_path):
    sources = [Source(None, f"{i}.png") for i in range(4)]
    reads = [read_of(knee(60 * i, 0, source=s.name), name=s.name) for i, s in enumerate(sources)]
    folder, _ = results(tmp_path, reads[:3])
    with folder.lines.open("a") as file:
        file.write('{"file": "3.png", "sta')
    again = Results(folder.out, settings_of(model(), Reading(pixels=32)))
    assert [source.name for source in again.remaining(sources)] == ["3.png"]
    assert again.write_table(sources) is None
    list(again.add(grade.rows_of(model(), reads[3:], again.out)))
    straight, _ = results(tmp_path / "straight", reads)
    again.write_table(sources)
    straight.write_table(sources)
    assert (again.out / "predictions.csv").read_bytes() == (
        straight.out / "predictions.csv"
    ).read_bytes()


def test_parts_of_a_job_array_merge_to_the_same_bytes(tmp_path):
    sources = [Source(None, f"{i}.png") for i in range(7)]
    reads = [read_of(knee(36 * i, 0, source=s.name), name=s.name) for i, s in enumerate(sources)]
    whole, _ = results(tmp_path / "whole", reads)
    whole.write_table(sources)
    for index in (2, 1, 3):
        part, _ = results(tmp_path / "parts", reads[index - 1 :: 3], part=(index, 3))
        written = part.write_table(sources)
        assert (written is None) == (index != 3)
    assert (part.out / "predictions.csv").read_bytes() == (
        whole.out / "predictions.csv"
    ).read_bytes()


def test_results_of_other_settings_and_other_folders_are_refused(tmp_path):
    results(tmp_path, [read_of(knee(0, 0))])
    with pytest.raises(UserError, match="holds results of other models, flags or versions"):
        results(tmp_path, [], side="L")
    with pytest.raises(UserError, match="holds results of other models"):
        results(tmp_path, [], model(name="another"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file; name a folder"):
        Results(tmp_path / "file", {})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    with pytest.raises(UserError, match="holds something else"):
        Results(tmp_path / "full", {})


def test_the_page_stands_alone_and_says_what_it_is_for(tmp_path):
    reads = [
        read_of(knee(200, 0, source="<b>.png"), name="<b>.png"),
        read_of(Refusal("c.png", "", "flat_image", "the picture shows nothing"), name="c.png"),
    ]
    folder, _ = results(tmp_path, reads)
    table = folder.write_table([read.source for read in reads])
    pictures = pictures_of(table, folder.out)
    assert list(pictures) == [0]
    page = write_page(folder.out, table, TARGETS, pictures, "means", grade.WARNING)
    text = page.read_text()
    assert grade.WARNING in text
    assert "data:image/jpeg;base64," in text
    assert "&lt;b&gt;.png" in text
    assert "<b>.png" not in text
    assert "the picture shows nothing" in text
    assert "http" not in text.replace("http-equiv", "")
    assert re.search(r"confidence \d+% \(not calibrated\)", text)
    table.loc[0, "kl_confidence"] = float("nan")
    text = write_page(folder.out, table, TARGETS, pictures, "means", grade.WARNING).read_text()
    assert "no confidence is told" in text
    assert "nan%" not in text


def test_a_left_knee_is_drawn_as_it_lies_on_its_film():
    """Networks see it mirrored: its picture is that of the film's own pixels, marks and all."""
    shades = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
    points = np.random.default_rng(1).uniform(4, 28, (74, 2)).astype(np.float32)
    heat = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    left = dataclasses.replace(knee(0, 0, "L"), image=shades, landmarks=points, spacing_mm=0.4)
    drawn = grade.picture(model(), left, {"kl_pred": 2}, heat)
    on_film, there = shades[:, ::-1].copy(), np.stack([32 - points[:, 0], points[:, 1]], axis=1)
    look = {"sides": ("medial", "lateral"), "mm_per_pixel": 0.4}
    read = pictures.knee(on_film, grade.PANEL, keypoints=there, **look)
    seen = pictures.evidence(on_film, heat[:, ::-1].copy(), grade.PANEL, **look)
    np.testing.assert_array_equal(drawn[-len(read) :, : grade.PANEL], read)
    second = drawn[-len(seen) :, grade.PANEL + 4 : 2 * grade.PANEL + 4]
    np.testing.assert_array_equal(second, seen)


def test_names_of_files_do_not_collide_or_lead_out():
    names = {
        grade.name_of(source, "L")
        for source in ("a/x.png", "b/x.png", "../x.png", "x.png", "x.jpg", "x" * 300)
    }
    assert len(names) == 6
    assert all("/" not in name and ".." not in name and len(name) < 100 for name in names)
    # A person finds a knee's files by its folder and name.
    assert grade.name_of("2019/smith/x.png", "L").startswith("2019_smith_x_")
    assert "_film_7_" in grade.name_of("folder/" * 40 + "film_7.dcm", "R")


def test_files_that_break_their_reader_are_refused_alone(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    sources = list(find([tmp_path]))
    (read,) = grade.read_all(sources, Reading(pixels=32), 1)
    assert [found.reason for found in read.found] == ["not_dicom"]


def test_a_notebook_gets_the_same_rows(tmp_path, monkeypatch):
    import cv2

    import knee_jax

    for name in ("a_R.png", "b_L.png"):
        cv2.imwrite(str(tmp_path / name), knee(200, 40).image)
    (tmp_path / "c.txt").write_text("x")
    found = knee_jax.grade(model(), [tmp_path], localise=False)
    assert found["file"].tolist() == ["a_R.png", "b_L.png", "c.txt"]
    assert found["status"].tolist() == ["graded", "graded", "refused"]
    # Of the left knee the brighter half is the medial one.
    assert found["kl_pred"].tolist()[:2] == [3, 1]
    given = knee_jax.grade(model(), [tmp_path / "b_L.png"], side="R", localise=False)
    assert given["kl_pred"].tolist() == [3]
    # The localiser sees that it is no knee, as it does for the command.
    assert knee_jax.grade(model(), [tmp_path / "a_R.png"])["status"].tolist() == ["refused"]
    assert {path.name for path in tmp_path.iterdir()} == {"a_R.png", "b_L.png", "c.txt"}


def test_models_of_one_name_and_other_weights_are_told_apart():
    import dataclasses

    from knee_jax.inference import run

    one, other = (
        run.digest({"params": {"head": {"kernel": np.full(3, value, np.float32)}}})
        for value in (1, 2)
    )
    assert one != other
    settings = [
        settings_of(dataclasses.replace(model(), facts={"weights": each}), Reading(pixels=32))
        for each in (one, other)
    ]
    assert settings[0] != settings[1]


def test_lines_that_are_damaged_are_done_again(tmp_path):
    sources = [Source(None, f"{i}.png") for i in range(3)]
    reads = [read_of(knee(80 * i, 0, source=s.name), name=s.name) for i, s in enumerate(sources)]
    folder, _ = results(tmp_path, reads)
    lines = folder.lines.read_bytes().splitlines(keepends=True)
    folder.lines.write_bytes(
        lines[0] + b'{"file": "1.png", "stamp": [0, 0]}\n' + b"\xff\xfe" + lines[2]
    )
    again = Results(folder.out, settings_of(model(), Reading(pixels=32)))
    assert [source.name for source in again.remaining(sources)] == ["1.png", "2.png"]


@pytest.mark.parametrize("change", ["another file", "landmarks added"])
def test_a_file_that_changed_is_graded_again(tmp_path, monkeypatch, change):
    monkeypatch.undo()
    path = tmp_path / "a_R.dcm"
    path.write_bytes(b"1234")
    source = Source(path, path.name)
    before = stamp(source)
    if change == "another file":
        status = path.stat()
        (tmp_path / "b").write_bytes(b"5678")
        os.replace(tmp_path / "b", path)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    else:
        (tmp_path / "a_R.dcm.pts").write_text("x")
    assert stamp(source) != before


def test_no_model_is_no_model():
    from knee_jax.inference import models

    with pytest.raises(UserError, match="no model is named"):
        models.average([])


def test_models_that_know_other_regions_are_not_averaged_over_films():
    crops, regions = model(), model()
    crops = dataclasses.replace(crops, facts={"data": "kneekl224"})
    assert grade.reading_for(crops).like_crops
    assert not grade.reading_for(regions).like_crops
    both = dataclasses.replace(
        crops, facts={"models": [crops.facts, {"data": "kneekl224/located"}]}
    )
    assert grade.reading_for(both).like_crops
    mixed = dataclasses.replace(crops, facts={"models": [crops.facts, dict(regions.facts)]})
    with pytest.raises(UserError, match="no region suits both"):
        grade.reading_for(mixed)
