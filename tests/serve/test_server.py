"""The server as a process, its readers, and the command."""

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from knee_jax.cli import serve as command
from knee_jax.inference import grade
from knee_jax.ingest.knee_files import KneeFileJob
from knee_jax.serve.reader import Reader
from tests.commands import REPOSITORY, run_here
from tests.serve.conftest import knee


@dataclasses.dataclass(frozen=True)
class Hostile:
    """Job whose reader dies or sleeps, as the file's name says."""

    job: KneeFileJob

    def __call__(self):
        name = self.job.source.name
        if "segfault" in name:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "sleep" in name:
            time.sleep(60)
        return self.job()


class Endangered(Reader):
    def read(self, job):
        return grade.kept(self._workers.run(Hostile(job)), job.source)


@pytest.mark.slow
def test_only_the_file_that_harms_its_reader_is_refused(serve):
    client = serve(Endangered(1, 1.5))
    names = ["a_R.png", "segfault.png", "b_R.png", "sleep.png", "c_R.png"]
    levels = [0, 0, 20, 0, 40]
    files = [("files", (name, knee(level))) for name, level in zip(names, levels, strict=True)]
    rows = client.post("/predict", files=files).json()["rows"]
    assert [row["file"] for row in rows] == names
    assert [row.get("kl_pred") for row in rows] == [0, None, 2, None, 4]
    assert [row["reason"] for row in rows if row["reason"]] == [
        "crashed_reader",
        "timed_out",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host=0.0.0.0"], "a token is needed: set KNEE_JAX_TOKEN"),
        (["--port=70000"], "--port"),
        (["--files=0"], "--files"),
        (["--token_file=none.txt"], "none.txt: no such file"),
        (["--model=nothing"], "no model of that name"),
        (["--model=landmarks"], "choose from early-kneekl224, kl-kneekl224, or a run"),
    ],
)
def test_mistakes_are_told_in_a_line(arguments, words, monkeypatch):
    monkeypatch.delenv("KNEE_JAX_TOKEN", raising=False)
    done = run_here("knee_jax", "serve", *arguments)
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_its_libraries_it_says_how_to_get_them(monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    done = run_here("knee_jax", "serve")
    assert done.returncode == 1
    assert "pip install 'knee_jax[serve]'" in done.stderr
    assert done.stderr.count("\n") == 1


SLOW = """
import dataclasses, time
from tests.serve import drawn_server
drawn_server.means = lambda means=drawn_server.means: dataclasses.replace(
    means(), forward=lambda batch: time.sleep(120)
)
drawn_server.main()
"""
"""A server whose model takes two minutes to compile."""


@pytest.mark.slow
def test_it_ends_within_seconds_while_its_models_are_loaded(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", SLOW],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    ) as process:
        try:
            address = process.stdout.readline().strip()
            assert requests.get(f"{address}/ready", timeout=10).status_code == 503
            begin = time.monotonic()
            process.send_signal(signal.SIGTERM)
            _, told = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0
    assert time.monotonic() - begin < 10
    assert "stopped while the models were still being loaded" in told
    assert not list(tmp_path.glob("knee_jax*"))


def test_a_port_that_is_taken_is_named():
    from knee_jax.errors import UserError
    from knee_jax.serve.server import _listen

    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError) as told:
        _listen("127.0.0.1", taken.getsockname()[1])
    assert "address already in use; name another by --port" in str(told.value)


@pytest.mark.slow
def test_everybody_at_once_gets_their_own_answer(shared):
    _, address, _ = shared

    def send(level):
        return requests.post(f"{address}/predict", files={"files": ("a_R.png", knee(level))})

    levels = [10 * (i % 5) for i in range(24)]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(send, levels))
    assert [answer.json()["rows"][0]["kl_pred"] for answer in answers] == [x // 10 for x in levels]
    assert "server" not in answers[0].headers


@pytest.mark.slow
def test_senders_that_stop_are_not_waited_for(shared):
    _, address, _ = shared
    port = int(address.rpartition(":")[2])
    head = (
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
    )
    with contextlib.ExitStack() as stack:
        silent, slow, half = (
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            for _ in range(3)
        )
        slow.sendall(head)
        half.sendall(head)
        half.shutdown(socket.SHUT_WR)
        assert silent.recv(1000) == b""
        assert slow.recv(1000).startswith(b"HTTP/1.1 408 ")
        assert half.recv(1000)[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 408", b"")
    assert urllib.request.urlopen(f"{address}/health").status == 200
