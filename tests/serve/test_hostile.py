"""Hostile uploads: each gets an answer in words, and the server lives, within its memory."""

import contextlib
import io
import re
import socket
import struct
import tarfile
import time
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest
import requests
from pydicom.uid import DeflatedExplicitVRLittleEndian

from tests.serve.conftest import knee
from tests.serve.films import small_film

ANSWERS = {200, 400, 408, 413, 415, 422, 503, 504}
MOST_MIB = 1500
"""Memory of the server of drawn knees and its readers, of which one may take 768 MiB to read."""


def fuzzed(data, rng, number):
    """Copies of a file with some bytes changed, cut out or cut short."""
    for _ in range(number):
        broken = bytearray(data)
        for place in rng.integers(0, len(broken), rng.integers(1, 30)):
            broken[place] = rng.integers(256)
        if rng.random() < 0.5:
            begin = rng.integers(len(broken))
            del broken[begin : begin + rng.integers(1, 2000)]
        yield bytes(broken[: rng.integers(1, len(broken) + 1)] if rng.random() < 0.3 else broken)


def png_of(width, height):
    """A small file that says it is a large picture."""

    def chunk(kind, data):
        packed = kind + data
        return struct.pack(">I", len(data)) + packed + struct.pack(">I", zlib.crc32(packed))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    rows = zlib.compress(bytes(min(width * height, 10**7)), 9)
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def film_of(change):
    film = pydicom.dcmread(io.BytesIO(small_film(np.zeros((40, 80), np.uint16))))
    change(film)
    data = io.BytesIO()
    film.save_as(data, enforce_file_format=True)
    return data.getvalue()


def deflated_bomb():
    def change(film):
        film.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        film.PixelData = bytes(400 * 2**20)

    return film_of(change)


def zipped(members):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return data.getvalue()


def taped(*members, mode="w:gz"):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as tape:
        for member, content in members:
            member.size = len(content)
            tape.addfile(member, io.BytesIO(content))
    return data.getvalue()


def link(target):
    member = tarfile.TarInfo("link.png")
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


def files():
    """Names and contents of hostile files."""
    rng = np.random.default_rng(0)
    grey = (np.arange(300 * 600, dtype=np.uint32) % 4000).astype(np.uint16).reshape(300, 600)
    yield from (("film.dcm", data) for data in fuzzed(small_film(grey), rng, 90))
    yield from (("knee_R.png", data) for data in fuzzed(knee(0), rng, 40))
    yield from (("films.zip", data) for data in fuzzed(zipped([("a_R.png", knee(0))]), rng, 20))
    yield from (
        ("films.tar.gz", data)
        for data in fuzzed(taped((tarfile.TarInfo("a_R.png"), knee(0))), rng, 10)
    )
    for width, height in ((30_000, 30_000), (2**31 - 1, 2**31 - 1), (10**6, 50), (0, 0)):
        yield "large.png", png_of(width, height)
    yield "bomb.zip", zipped([("zeros.dcm", bytes(2**28))])
    yield "bombs.zip", zipped([(f"{i}.png", png_of(9000, 9000)) for i in range(20)])
    yield "bomb.tar.gz", taped((tarfile.TarInfo("zeros.dcm"), bytes(2**28)))
    yield "nested.zip", zipped([("inner.zip", zipped([("zeros", bytes(2**27))]))])
    yield "bomb.dcm", deflated_bomb()
    for rows, columns in ((65535, 65535), (0, 100), (65535, 1)):
        yield "size.dcm", film_of(lambda f, r=rows, c=columns: f.update({"Rows": r, "Columns": c}))
    yield "frames.dcm", film_of(lambda film: film.update({"NumberOfFrames": "2147483647"}))
    yield "many.zip", zipped([(f"{i}.txt", b"x") for i in range(10_000)])
    yield (
        "out.zip",
        zipped([(n, knee(0)) for n in ("../a.png", "/etc/b.png", "C:\\c.png", "a/../../d")]),
    )
    yield "links.tar.gz", taped((link("/etc/passwd"), b""), (link("../../x"), b""))
    yield "empty.zip", b""
    yield "self.zip", zipped([])
    for name in ("a.exe", "a.html", "a.csv", "a.pdf", "DICOMDIR", "a.svg", "a.mp4"):
        yield name, b"<svg onload=alert(1)>%PDF MZ" + bytes(rng.integers(0, 256, 500, np.uint8))
    for name in ("../../etc/passwd", "a\\..\\b.png", "x" * 5000, "\u202egnp.png", "nul\0.png"):
        yield name, knee(0)


def requests_by_hand():
    """Requests of no client: bytes as they are sent, and whether the sending half is closed."""
    head = "POST /predict HTTP/1.1\r\nHost: localhost\r\n"
    form = "Content-Type: multipart/form-data; boundary=x\r\n"
    yield b"\x16\x03\x01\x02\x00" + bytes(200), False
    yield b"GET / HTTP/1.1\r\n" + b"X: " + b"a" * 200_000 + b"\r\n\r\n", False
    yield b"GET /" + b"%2e%2e/" * 200 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", False
    yield b"GET /page/../../security.py HTTP/1.1\r\nHost: localhost\r\n\r\n", False
    for length in ("-1", "1e9", "99999999999999999999", "18446744073709551616"):
        yield f"{head}{form}Content-Length: {length}\r\n\r\n".encode(), True
    yield f"{head}{form}Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx".encode(), True
    yield (
        f"{head}{form}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n".encode(),
        True,
    )
    yield f"{head}{form}Content-Length: 100000\r\n\r\n--x\r\nContent-Di".encode(), True
    yield f"{head}{form}Content-Length: 100000\r\n\r\n--x\r\n".encode(), False
    for body in (
        "--x\r\n\r\n--x--",
        "--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--\r\n",
        '--x\r\nContent-Disposition: form-data; name="files"; filename="a\r\nX: b"\r\n\r\na\r\n'
        "--x--\r\n",
        "--x\r\n" + "A: b\r\n" * 5000,
        "--x\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n" * 5000 + "--x--\r\n",
        "no part",
    ):
        yield f"{head}{form}Content-Length: {len(body)}\r\n\r\n{body}".encode(), False
    yield f"{head}Content-Type: multipart/form-data\r\nContent-Length: 1\r\n\r\nx".encode(), False
    yield f"{head}Content-Type: multipart/form-data; boundary={'x' * 9000}\r\n\r\n".encode(), True


def answer_to(port, data, half):
    """What a socket gets back."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(data)
            if half:
                connection.shutdown(socket.SHUT_WR)
        found = b""
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(65536):
                found += part
                if b"\r\n\r\n" in found:
                    break
        return found


def memory_mib(root):
    """Memory of a process and all that it has started, MiB."""
    found, total = [root], 0
    for process in found:
        for task in Path(f"/proc/{process}/task").glob("*/children"):
            found += [int(word) for word in task.read_text().split()]
        with contextlib.suppress(OSError):
            sizes = Path(f"/proc/{process}/smaps_rollup").read_text()
            total += sum(map(int, re.findall(r"Private_(?:Clean|Dirty): +(\d+)", sizes)))
    return total / 1024


@pytest.mark.long
def test_hostile_uploads_are_answered_and_harm_nothing(started):
    process, address, folder = started()
    port = int(address.rpartition(":")[2])
    sizes, hostile, by_hand = [], list(files()), list(requests_by_hand())
    assert len(hostile) + len(by_hand) >= 200

    def send(file):
        answer = requests.post(f"{address}/predict", files={"files": file}, timeout=60)
        sizes.append(memory_mib(process.pid))
        return file[0], answer

    with ThreadPoolExecutor(6) as threads:
        raw = threads.map(lambda each: answer_to(port, *each), by_hand)
        answers = list(threads.map(send, hostile))
        raw = list(raw)
    for name, answer in answers:
        assert answer.status_code in ANSWERS, (name, answer.text[:300])
        told = answer.json()
        assert "rows" in told or told["detail"].endswith("."), name
        for row in told.get("rows", []):
            assert row["status"] == "graded" or row["detail"], name
            assert row["reason"] not in ("server_fault", "timed_out"), name
            assert "passwd" not in row["detail"]
    for (data, half), found in zip(by_hand, raw, strict=True):
        # Whoever closes their half, or speaks no HTTP, may be hung up on.
        assert re.match(rb"HTTP/1\.1 (200|4\d\d) ", found) or half, data[:120]
        assert b"knee_jax.serve" not in found
    by_name = {}
    for name, answer in answers:
        by_name.setdefault(name, []).append(answer)
    assert by_name["many.zip"][0].status_code == 413
    assert {a.status_code for a in by_name["large.png"]} <= {413, 415, 422}
    assert all(row["reason"] for row in by_name["bombs.zip"][0].json()["rows"])
    assert all(
        row["reason"] == "not_read_from_archive" for row in by_name["out.zip"][0].json()["rows"][:3]
    )
    assert max(sizes) < MOST_MIB
    good = requests.post(f"{address}/predict", files={"files": ("a_R.png", knee(30))}, timeout=60)
    assert good.json()["rows"][0]["kl_pred"] == 3
    (spool,) = folder.glob("knee_jax_uploads_*")
    end = time.monotonic() + 20
    while any(spool.iterdir()):
        assert time.monotonic() < end, "uploads are left on the disk"
        time.sleep(0.1)
