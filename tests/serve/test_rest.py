"""The REST interface: what is sent is what `knee-jax predict` says of it, or a sentence why not."""

import base64
import csv
import dataclasses
import io
import json
import logging
import tarfile
import threading
import time
import zipfile

import cv2
import numpy as np
import pytest

from knee_jax.inference import grade, locate, placing
from knee_jax.ingest.knee_files import Knee, Refusal, Unplaced
from knee_jax.ingest.sources import Source
from knee_jax.phantom import study
from knee_jax.serve import telemetry
from knee_jax.serve.grading import Grader
from knee_jax.serve.telemetry import Metrics
from tests.inference import drawn_knees
from tests.serve.conftest import Here, grader_with, knee, means
from tests.serve.films import small_film


def post(client, *files, path="/predict", **options):
    return client.post(path, files=[("files", file) for file in files], **options)


def zipped(**members):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return data.getvalue()


def test_rows_are_those_of_predict(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(locate, "shipped", drawn_knees.localiser)
    folder = tmp_path / "films"
    folder.mkdir()
    for level, name in ((0, "a_R.png"), (30, "b_L.png"), (0, "text.png")):
        data = knee(level, name[2]) if name != "text.png" else b"a text"
        (folder / name).write_bytes(data)
    expected = grade.grade(means(), [folder])
    client = serve()
    files = [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
    answer = post(client, *files)
    assert answer.status_code == 200
    rows = answer.json()["rows"]
    assert [row.pop("picture") for row in rows] == [True, True, False]
    assert not any(row.pop("in_doubt") for row in rows)
    assert json.loads(grade.table_of(rows).to_json()) == json.loads(expected.to_json())
    assert [row.get("kl_pred") for row in rows] == [0, 3, None]
    text = post(client, *files, path="/predict?format=csv").text
    assert text == expected.to_csv(index=False)


def test_the_report_is_that_of_predict_and_stands_alone(serve):
    client = serve()
    page = post(client, ("<b>_R.png", knee(10)), path="/predict?format=html")
    assert page.headers["content-disposition"].startswith("attachment")
    assert "For research only, not a medical device." in page.text
    assert "data:image/jpeg;base64," in page.text
    assert "&lt;b&gt;_R.png" in page.text
    assert "<b>" not in page.text.replace('<b style="', "")
    assert "http" not in page.text.replace("http-equiv", "")
    assert "predictions.csv" not in page.text


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_an_archive_is_read_and_its_members_are_named(serve, suffix):
    data = zipped(**{"x/a_R.png": knee(20), "x/.hidden.png": b"x", "../out.png": knee(0)})
    if suffix == ".tar.gz":
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as tape:
            member = tarfile.TarInfo("x/a_R.png")
            member.size = len(knee(20))
            tape.addfile(member, io.BytesIO(knee(20)))
        data = packed.getvalue()
    rows = post(serve(), (f"films{suffix}", data)).json()["rows"]
    graded = [row for row in rows if row["status"] == "graded"]
    assert [(row["file"], row["kl_pred"]) for row in graded] == [(f"films{suffix}/x/a_R.png", 2)]
    refused = [row for row in rows if row["status"] == "refused"]
    assert [row["reason"] for row in refused] == ["not_read_from_archive"] * (suffix == ".zip")


def test_jobs_go_from_the_queue_to_results_of_one_or_several(serve):
    client = serve()
    ids = []
    for level in (0, 40):
        answer = post(client, ("a_R.png", knee(level)), ("b.txt", b"x"), path="/jobs")
        assert answer.status_code == 202
        assert answer.json()["files"] == 2
        ids.append(answer.json()["id"])
    for each in ids:
        state = client.get(f"/jobs/{each}?wait=20").json()
        assert (state["state"], state["done"]) == ("done", 2)
    found = list(csv.DictReader(io.StringIO(client.get(f"/jobs/{ids[1]}/results.csv").text)))
    assert [row["kl_pred"] for row in found] == ["4", ""]
    both = client.get(f"/jobs/{','.join(ids)}/results.json").json()["rows"]
    assert [row.get("kl_pred") for row in both] == [0, None, 4, None]
    # Two films may have one name, and are told apart all the same.
    assert [row["file"] for row in both] == ["a_R.png", "b.txt", "a_R.png (2)", "b.txt (2)"]
    assert client.get(f"/jobs/{','.join(ids)}/results.html").status_code == 200
    picture = client.get(f"/jobs/{ids[0]}/knees/0").json()
    assert picture["region"].startswith("data:image/png;base64,")
    assert len(picture["landmarks"]) == len(picture["medial"]) == 74
    assert client.get(f"/jobs/{ids[0]}/knees/1").status_code == 404
    assert client.get(f"/jobs/{ids[0]}/knees/-1").status_code == 404
    assert client.delete(f"/jobs/{ids[0]}").status_code == 204
    for path in (f"/jobs/{ids[0]}", f"/jobs/{','.join(ids)}/results.csv"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert "no such request" in answer.json()["detail"]


def test_landmark_files_lie_beside_their_film(serve):
    """A damaged one is refused by name, so that it was looked at; hidden files are not."""
    film = small_film(np.zeros((300, 600), np.uint16) + np.arange(600, dtype=np.uint16))
    files = [("f/001", film), ("f/001.pts", b"{ damaged"), ("f/.DS_Store", b"x")]
    (row,) = post(serve(), *files).json()["rows"]
    assert (row["file"], row["side"]) == ("f/001", "L")
    assert row["reason"] == "landmarks_unreadable"


def test_a_knee_can_be_found_again_on_its_whole_film(serve, tmp_path):
    """The region is what its corners enclose on the film; a left knee's is mirrored."""
    study.write_study(tmp_path / "tree", num_subjects=1, visits=(0,), rows=512, progress=False)
    (film,) = (tmp_path / "tree").rglob("001")
    files = [
        ("files", (path.name, path.read_bytes()))
        for path in (film, film.with_name("001.pts"), film.with_name("001_f.pts"))
    ]
    client = serve()
    job = client.post("/jobs", files=[*files, ("files", ("a_R.png", knee(0)))]).json()["id"]
    client.get(f"/jobs/{job}?wait=20")
    for number, side in enumerate("RL"):
        assert client.get(f"/jobs/{job}/results.json").json()["rows"][number]["side"] == side
        told = client.get(f"/jobs/{job}/knees/{number}").json()
        answer = client.get(f"/jobs/{job}/knees/{number}/film")
        assert answer.headers["content-type"] == "image/jpeg"
        whole = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_GRAYSCALE)
        assert whole.shape[1] > whole.shape[0] * 1.1
        png = base64.b64decode(told["region"].partition(",")[2])
        region = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE)
        corners = np.float32(told["corners"]) * np.float32(whole.shape[::-1]) - 0.5
        ends = np.float32([[0, 0], [1, 0], [1, 1]]) * len(region) - 0.5
        matrix = cv2.getAffineTransform(corners[:3], ends)
        again = cv2.warpAffine(whole, matrix, region.shape)
        likeness = np.corrcoef(again.ravel(), region.ravel())[0, 1]
        assert likeness > 0.98 > np.corrcoef(again[:, ::-1].ravel(), region.ravel())[0, 1]
    assert client.get(f"/jobs/{job}/knees/2").json()["corners"] is None
    assert client.get(f"/jobs/{job}/knees/2/film").status_code == 404


def test_a_negative_is_shown_whole_as_it_was_read():
    grader = grader_with(Here())(Metrics())
    shades = np.arange(64, dtype=np.uint8).reshape(8, 8)
    film = Unplaced("a.png", "", shades, (1.0, 1.0), is_picture=True)
    nothing = np.empty((0, 0))
    for notes, expected in (((), shades), ((placing.INVERTED,), 255 - shades)):
        seen = Knee("a.png", "R", nothing, nothing, "localiser", notes, corners=np.zeros((4, 2)))
        data = grader._film(Source(None, "a.png"), grader.reading, [film], [seen])
        shown = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        assert np.abs(shown.astype(int) - expected).max() < 8
    grader.batcher.stop()


@pytest.mark.parametrize(
    ("file", "status", "words"),
    [
        (("a.txt", b"a text"), 415, "Neither a film (DICOM) nor a picture"),
        (("a.png", b""), 422, "The file is empty"),
        (("a_R.png", knee(0)[:400]), 422, "cut short"),
        (("a.zip", b"PK\3\4 damaged"), 422, "archive is damaged"),
        (("a.zip", zipped()), 422, "no film or picture"),
        (("..", b""), 422, "The file is empty"),
        (("a.pts", b"x"), 422, "no film or picture"),
    ],
)
def test_what_cannot_be_graded_has_a_status_and_a_sentence(serve, file, status, words):
    answer = post(serve(), file)
    assert answer.status_code == status
    assert words in answer.json()["detail"]
    assert answer.json()["detail"].endswith(".")


@pytest.mark.parametrize(
    ("reason", "status"),
    [("timed_out", 504), ("out_of_memory", 413), ("crashed_reader", 422), ("no_knee", 422)],
)
def test_a_reason_for_refusal_has_its_status(serve, reason, status):
    class Refuses(Here):
        def __init__(self):
            self.read = lambda job: [Refusal(job.source.name, "", reason, "so it was")]

    answer = post(serve(Refuses()), ("a", b"x"))
    assert (answer.status_code, answer.json()["detail"]) == (status, "So it was.")


@pytest.mark.parametrize(
    ("request_of", "status", "words"),
    [
        (lambda c: c.post("/predict", content=b"x"), 415, "multipart/form-data"),
        (lambda c: c.post("/predict", data={"a": "b"}, files=[]), 415, "multipart/form-data"),
        (lambda c: post(c, ("a", b"x"), path="/predict?side=X"), 422, "side"),
        (lambda c: post(c, ("a", b"x"), path="/predict?spacing=7"), 422, "spacing"),
        (lambda c: post(c, ("a", b"x"), path="/predict?sides=L"), 422, "no parameter sides"),
        (lambda c: post(c, ("a", b"x"), path="/jobs?format=csv"), 422, "no parameter format"),
        (lambda c: c.get("/nowhere"), 404, "openapi.json"),
        (lambda c: c.get("/predict"), 405, "openapi.json"),
        (lambda c: post(c, ("a", b"x" * 2000)), 413, "larger than 0.001 MiB"),
        (lambda c: post(c, *[("a", b"x")] * 4), 413, "more than 3 files"),
        (lambda c: post(c, ("a.zip", zipped(a="", b="", c="", d=""))), 413, "more than 3 files"),
        (
            lambda c: c.post(
                "/predict",
                content=b"--x\r\nno part at all",
                headers={"content-type": "multipart/form-data; boundary=x"},
            ),
            400,
            ".",
        ),
    ],
)
def test_requests_beyond_limits_are_refused_in_words(serve, request_of, status, words):
    answer = request_of(serve(upload_mb=0.001, files=3))
    assert answer.status_code == status
    assert words in answer.json()["detail"]
    assert " " in answer.json()["detail"]


class Slow(Here):
    """A reader that waits until it may read."""

    def __init__(self):
        super().__init__()
        self.may = threading.Event()
        read = self.read

        def wait(job):
            assert self.may.wait(20)
            return read(job)

        self.read = wait


def test_a_full_queue_is_told_and_a_folder_holds_up_nobody(serve):
    slow = Slow()
    client = serve(slow, jobs=2, jobs_of_client=1, lanes=1)
    many = post(client, *[(f"{i}_R.png", knee(0)) for i in range(8)], path="/jobs").json()
    refused = post(client, ("a_R.png", knee(0)))
    assert refused.status_code == 429
    assert refused.headers["retry-after"]
    slow.may.set()
    assert client.get(f"/jobs/{many['id']}?wait=20").json()["state"] == "done"


def test_one_film_overtakes_a_folder(serve):
    slow = Slow()
    client = serve(slow, lanes=1)
    many = post(client, *[(f"{i}_R.png", knee(0)) for i in range(40)], path="/jobs").json()["id"]
    one = post(client, ("a_R.png", knee(40)), path="/jobs").json()["id"]
    assert client.get(f"/jobs/{one}/results.csv").status_code == 409
    slow.may.set()
    assert client.get(f"/jobs/{one}?wait=20").json()["state"] == "done"
    assert client.get(f"/jobs/{many}").json()["done"] < 40
    assert client.delete(f"/jobs/{many}").status_code == 204


def test_an_answer_that_takes_too_long_is_given_up(serve):
    slow = Slow()
    client = serve(slow, answer_seconds=0.05)
    answer = post(client, ("a_R.png", knee(0)))
    assert answer.status_code == 504
    assert "not graded within" in answer.json()["detail"]
    slow.may.set()
    assert post(serve(), ("a_R.png", knee(0))).status_code == 200


def test_uploads_beyond_the_room_are_refused_until_there_is_some(serve):
    size = len(knee(0))
    client = serve(spool_mb=3 * size / 2**20)
    answer = post(client, ("a", b"x" * 2 * size))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert post(client, ("a_R.png", knee(0))).status_code == 200


def test_results_are_forgotten_by_age_and_by_size(serve):
    first = serve()
    job = post(first, ("a_R.png", knee(0)), path="/jobs").json()["id"]
    first.get(f"/jobs/{job}?wait=20")
    _, size = first.app.state.engine.jobs.kept
    client = serve(keep_mb=2.5 * size / 2**20)
    ids = []
    for level in (0, 10, 20):
        job = post(client, ("a_R.png", knee(level)), path="/jobs").json()["id"]
        client.get(f"/jobs/{job}?wait=20")
        ids.append(job)
    jobs = client.app.state.engine.jobs
    jobs.clean()
    assert client.get(f"/jobs/{ids[0]}").status_code == 404
    assert client.get(f"/jobs/{ids[2]}").status_code == 200
    jobs.get(ids[2]).asked = time.monotonic() - 3601
    jobs.clean()
    assert client.get(f"/jobs/{ids[2]}").status_code == 404


def test_a_fault_of_the_program_is_told_without_its_message(serve, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("Planted^Name")

    monkeypatch.setattr(Grader, "grade", fail)
    with caplog.at_level(logging.INFO, telemetry.LOGGER.name):
        answer = post(serve(), ("Planted_R.png", knee(0)))
    assert answer.status_code == 500
    (row,) = answer.json()["rows"]
    assert row["reason"] == "server_fault"
    lines = [telemetry._Lines().format(record) for record in caplog.records]
    assert any(json.loads(line)["event"] == "fault" for line in lines)
    assert not any("Planted" in line for line in lines)
    assert "Planted^Name" not in answer.text


def test_requests_are_counted_and_logged_without_names(serve, caplog):
    client = serve()
    with caplog.at_level(logging.INFO, telemetry.LOGGER.name):
        post(client, ("Planted_R.png", knee(0)))
        post(client, ("Planted.txt", b"x"))
        client.get("/jobs/PLANTED")
    text = client.get("/metrics").text
    assert 'knee_jax_requests_total{method="POST",route="/predict",status="200"} 1.0' in text
    assert 'knee_jax_results_total{reason="",status="graded"} 1.0' in text
    assert 'knee_jax_results_total{reason="not_dicom",status="refused"} 1.0' in text
    assert 'knee_jax_stage_seconds_count{stage="read"} 2.0' in text
    client.request("PLANTED", "/planted")
    lines = [telemetry._Lines().format(record) for record in caplog.records]
    assert sum(json.loads(line)["event"] == "request" for line in lines) == 3
    assert not any("planted" in line.lower() for line in [*lines, text])


def test_the_card_is_handed_out_where_there_is_one(serve):
    client = serve()
    assert client.get("/card").text == "# means, a model that reads brightness"
    assert client.get("/card").headers["content-type"].startswith("text/plain")
    assert client.get("/about").json()["has_card"] is True
    client = serve(predictor=dataclasses.replace(means(), card=""))
    assert client.get("/card").status_code == 404
    assert client.get("/about").json()["has_card"] is False


def test_the_interface_is_described_and_nothing_is_loaded_from_elsewhere(serve):
    client = serve()
    described = client.get("/openapi.json").json()
    assert {"/predict", "/jobs", "/jobs/{id}", "/health", "/ready", "/metrics"} <= set(
        described["paths"]
    )
    schema = described["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert "files" in schema["multipart/form-data"]["schema"]["properties"]
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/about").json()["limits"]["files"] == 1000


def test_before_the_models_are_loaded_it_is_alive_and_not_ready(serve):
    class Never(Here):
        def warm(self):
            assert may.wait(20)

    may = threading.Event()
    client = serve(Never(), ready=False)
    assert client.get("/health").status_code == 200
    for answer in (client.get("/ready"), post(client, ("a_R.png", knee(0)))):
        assert answer.status_code == 503
        assert "still loading" in answer.json()["detail"]
        assert answer.headers["retry-after"]
    may.set()


def test_nothing_of_a_header_is_told(serve, caplog):
    grey = drawn_knees.picture(200, 200, [(25, 100, 150, "R")])[0].astype(np.uint16)
    grey[:14] = 0  # So that the contrast stays as it is.
    client = serve()
    with caplog.at_level(logging.INFO, telemetry.LOGGER.name):
        texts = [
            post(client, ("a.dcm", data), path=f"/predict?format={form}").text
            for form in ("json", "csv", "html")
            for data in (small_film(16 * grey), small_film(grey)[:-5000])
        ]
    texts += [telemetry._Lines().format(record) for record in caplog.records]
    assert '"status":"graded"' in texts[0]
    assert '"status":"refused"' in texts[1]
    assert not any("planted" in text.lower() for text in texts)
