"""Who may ask, what browsers are told, and that nothing of a request leads anywhere."""

import asyncio
import os
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from knee_jax.errors import UserError
from knee_jax.serve import bodies, security, uploads
from knee_jax.serve.bodies import BoundedBodies, Room
from knee_jax.serve.limits import Limits
from knee_jax.serve.security import name_of_host
from knee_jax.serve.server import check_address
from tests.serve.conftest import knee

TOKEN = "a-long-random-word-0123456789"
FILES = [("files", ("a_R.png", knee(0)))]


@pytest.mark.parametrize("path", ["/", "/page/page.js", "/openapi.json", "/predict", "/nowhere"])
def test_every_answer_has_the_headers(serve, path):
    headers = serve(ready=False).get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in headers


def test_a_token_is_asked_for_where_there_is_one(serve):
    client = serve(token=TOKEN)
    for path in (*sorted(security.PUBLIC), "/page/page.css"):
        assert client.get(path).status_code == 200, path
    for headers in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": TOKEN}):
        answer = client.post("/predict", files=FILES, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    assert client.get("/metrics").status_code == 401
    right = {"Authorization": f"Bearer {TOKEN}"}
    assert client.post("/predict", files=FILES, headers=right).status_code == 200


def test_tokens_are_not_to_be_guessed(serve):
    client = serve(token=TOKEN)
    wrong, right = ({"Authorization": f"Bearer {word}"} for word in ("x", TOKEN))
    statuses = [client.get("/about", headers=wrong).status_code for _ in range(12)]
    assert statuses == [401] * 10 + [429] * 2
    assert client.get("/about", headers=right).status_code == 429


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "127.0.0.1:8000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "evil.example"}, 421),
        ({"Host": "127.0.0.1.evil.example:8000"}, 421),
        ({"Host": "localhost:8000", "Origin": "http://localhost:8000"}, 200),
        ({"Host": "localhost:8000", "Origin": "http://localhost:9000"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_pages_elsewhere_can_send_nothing(serve, headers, status):
    assert serve().post("/predict", files=FILES, headers=headers).status_code == status


@pytest.mark.parametrize(
    ("header", "name"),
    [("a", "a"), ("a:80", "a"), ("[::1]", "::1"), ("[::1]:80", "::1"), ("", ""), ("::1", "::1")],
)
def test_names_of_hosts(header, name):
    assert name_of_host(header) == name


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.org"])
def test_an_address_that_others_reach_needs_a_token(host):
    with pytest.raises(UserError, match="a token is needed: set KNEE_JAX_TOKEN"):
        check_address(host, "")
    with pytest.raises(UserError, match="can be guessed"):
        check_address(host, "short")
    check_address(host, TOKEN)
    check_address("127.0.0.1", "")


@given(st.lists(st.text(max_size=40), min_size=1, max_size=8))
@example(["\\\\"])
@example(["//a", "///"])
@example([f"a../{'b' * (uploads.MOST_NAME - 3)}"])
def test_no_name_leads_out_of_its_folder(names):
    shown = [uploads.shown_name(name) for name in names]
    places = uploads.disk_names(shown)
    assert len(places) == len(names)
    for i, (name, place) in enumerate(zip(shown, places, strict=True)):
        assert name
        assert not name.startswith("/")
        assert ".." not in Path(name).parts
        assert not any(ord(c) < 32 for c in name)
        if place:
            number, file = place.split("/")
            assert number.isdecimal()
            assert file not in ("", ".", "..")
            assert file.isascii()
            assert len(file) < 120
            assert number == f"{i:05d}" or file.endswith(".pts")
    kept = [place for place in places if not place.endswith(".pts") and place]
    assert len(set(kept)) == len(kept)


@pytest.mark.parametrize(
    ("names", "places"),
    [
        (["../../etc/passwd"], ["00000/passwd"]),
        (["C:\\x\\f.dcm"], ["00000/f.dcm"]),
        (
            ["a/001", "a/001.pts", "a/001_f.pts", "b/001.pts"],
            ["00000/001", "00000/001.pts", "00000/001_f.pts", ""],
        ),
        (["x.TAR.GZ", ".DS_Store", "DICOMDIR"], ["00000/x.TAR.GZ", "", "00002/DICOMDIR"]),
    ],
)
def test_places_on_the_disk(names, places):
    assert uploads.disk_names([uploads.shown_name(name) for name in names]) == places


def test_what_a_killed_server_left_is_removed(tmp_path):
    left, alive = (tmp_path / f"{uploads.PREFIX}{n}_x" for n in (2**22 + 1, os.getppid()))
    for folder in (left, alive):
        folder.mkdir()
    spool = uploads.Spool(Room(Limits()), tmp_path)
    assert not left.exists()
    assert alive.exists()
    assert spool.folder.stat().st_mode & 0o077 == 0
    spool.close()


def body_of(limits, parts, headers=(), room=None):
    """Sends a body through the middleware: the bytes that the application reads."""
    messages, read = list(parts), []

    async def receive():
        part = messages.pop(0) if messages else asyncio.sleep(60)
        if not isinstance(part, bytes):
            await part
        return {"type": "http.request", "body": part, "more_body": bool(messages)}

    async def application(scope, receive, send):
        while True:
            message = await receive()
            read.append(message["body"])
            if not message["more_body"]:
                return

    scope = {"type": "http", "headers": list(headers)}
    asyncio.run(BoundedBodies(application, limits, room or Room(limits))(scope, receive, None))
    return b"".join(read)


def test_bodies_pass_as_they_are():
    assert body_of(Limits(), [b"a", b"b" * 100, b""]) == b"a" + b"b" * 100


@pytest.mark.parametrize(
    ("parts", "headers", "status"),
    [
        ([b"x" * 600, b"x" * 600, b""], (), 413),
        ([b"x"], [(b"content-length", b"999999999999")], 413),
        ([b"x", asyncio.sleep, b""], (), 408),
    ],
)
def test_bodies_that_are_too_large_or_too_slow_end(monkeypatch, parts, headers, status):
    monkeypatch.setattr(bodies, "DRAINED_SECONDS", 0.05)
    parts = [part(60) if part is asyncio.sleep else part for part in parts]
    begin = time.monotonic()
    with pytest.raises(HTTPException) as refused:
        body_of(Limits(upload_mb=0.001, idle_seconds=0.1), parts, headers)
    assert refused.value.status_code == status
    assert time.monotonic() - begin < 5


def test_room_is_taken_as_bytes_come_and_given_back():
    limits = Limits(spool_mb=0.001)
    room = Room(limits)
    room.take(900)
    with pytest.raises(HTTPException) as refused:
        body_of(limits, [b"x" * 100, b"x" * 100, b""], room=room)
    assert refused.value.status_code == 503
    assert body_of(limits, [b"x" * 100, b""], room=room) == b"x" * 100
    room.give(900)
    assert body_of(limits, [b"x" * 1000, b""], room=room) == b"x" * 1000


def test_a_client_that_does_not_take_its_answer_is_hung_up_on():
    async def never(message):
        await asyncio.sleep(60)

    async def application(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    limits = Limits(upload_seconds=0.05)
    bounded = BoundedBodies(application, limits, Room(limits))
    asyncio.run(asyncio.wait_for(bounded({"type": "http", "headers": []}, None, never), 5))
