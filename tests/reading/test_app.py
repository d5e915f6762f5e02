"""The page's interface: what readers are told, and what is kept from them."""

import cv2
import numpy as np
import pytest
from starlette.testclient import TestClient

from knee_jax.reading import app
from knee_jax.reading.study import Knee, create

LOCAL = {"base_url": "http://127.0.0.1"}


def picture(level):
    good, data = cv2.imencode(".png", np.full((64, 64), level, np.uint8))
    assert good
    return data.tobytes()


@pytest.fixture
def study(tmp_path):
    knees = [Knee(f"secret{i}.png", f"secret{i}", "R", 0, picture(20 * i)) for i in range(6)]
    return create(tmp_path / "study.db", knees, ("kl", "osfl"), 0.5, 0)


@pytest.fixture
def client(study):
    with TestClient(app.create(study), **LOCAL) as opened:
        yield opened


def test_a_reader_reads_to_the_end(client, study):
    joined = client.post("/readers", json={"name": " Ann "}).json()
    assert [grade["name"] for grade in joined["grades"]] == ["kl", "osfl"]
    assert joined["grades"][0]["classes"] == ["0", "1", "2", "3", "4"]
    assert (joined["number"], joined["next"]) == (9, 0)
    for place in range(9):
        for grade, value in (("kl", 4), ("osfl", 3)):
            given = client.put(f"/readers/Ann/places/{place}/{grade}", json={"value": value})
            assert given.status_code == 204
    assert client.post("/readers", json={"name": "Ann"}).json()["next"] is None
    assert client.get("/readers/Ann/places/8").json() == {
        "place": 8,
        "number": 9,
        "values": {"kl": 4, "osfl": 3},
        "done": 9,
    }
    assert len(study.readings()) == 18


def test_nothing_tells_the_knee_or_that_it_comes_again(client):
    client.post("/readers", json={"name": "Ann"})
    for place in range(9):
        answers = [client.get(f"/readers/Ann/places/{place}{end}") for end in ("", "/picture")]
        assert answers[1].headers["content-type"] == "image/png"
        for answer in answers:
            assert b"secret" not in answer.content
            assert "again" not in answer.text
            assert not any("secret" in value for value in answer.headers.values())


@pytest.mark.parametrize(
    ("method", "where", "body", "status", "words"),
    [
        ("PUT", "/readers/Ann/places/0/kl", {"value": 5}, 422, "from 0 to 4"),
        ("PUT", "/readers/Ann/places/0/jsl", {"value": 1}, 422, "the study reads kl, osfl"),
        ("PUT", "/readers/Ann/places/77/kl", {"value": 1}, 422, "has no place 77"),
        ("PUT", "/readers/Eve/places/0/kl", {"value": 1}, 422, "Eve has no place 0"),
        ("PUT", "/readers/Ann/places/0/kl", {"value": "x"}, 422, "openapi"),
        ("POST", "/readers", {"name": "<script>"}, 422, "letters"),
        ("POST", "/readers", {}, 422, "openapi"),
        ("GET", "/readers/Ann/places/-1/picture", None, 422, "has no place -1"),
    ],
)
def test_what_is_wrong_is_told_and_not_stored(client, study, method, where, body, status, words):
    client.post("/readers", json={"name": "Ann"})
    answer = client.request(method, where, json=body)
    assert answer.status_code == status
    assert words in answer.json()["detail"]
    assert study.readings().empty


def test_it_is_guarded(study):
    with TestClient(app.create(study), base_url="http://elsewhere.org") as other:
        assert other.get("/").status_code == 421
    token = "a-long-random-word-0123456789"
    with TestClient(app.create(study, token=token), **LOCAL) as client:
        assert client.get("/").status_code == 200
        assert client.get("/").headers["content-security-policy"].startswith("default-src 'none'")
        assert client.post("/readers", json={"name": "Ann"}).status_code == 401
        known = {"Authorization": f"Bearer {token}"}
        assert client.post("/readers", json={"name": "Ann"}, headers=known).status_code == 200
