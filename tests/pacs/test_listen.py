"""`knee-jax listen` between a sender and an archive: killed, it loses and doubles nothing."""

import collections
import json
import shutil
import signal
import socket
import subprocess
import time

import pydicom
import pytest
from pynetdicom import AE, evt
from pynetdicom.sop_class import ComputedRadiographyImageStorage

from knee_jax.errors import STOPPED
from knee_jax.pacs import node
from tests.commands import command, run_here
from tests.pacs.films import groups


class Archive:
    """A peer that keeps what it is sent, and can die of it."""

    def __init__(self):
        self.taken = []
        server = AE(ae_title="PACS")
        for kind in node.ANSWERS:
            server.add_supported_context(kind)
        handlers = [(evt.EVT_C_STORE, self._take)]
        self._server = server.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port = self._server.server_address[1]
        self.on_take = lambda: None

    def _take(self, event):
        self.taken.append(event.dataset)
        self.on_take()
        return 0x0000

    def close(self):
        self._server.shutdown()


@pytest.fixture
def archive():
    made = Archive()
    yield made
    made.close()


class Listener:
    """The command, and the lines of its log."""

    def __init__(self, spool, archive_port, log):
        line, environment = command(
            "knee_jax",
            "listen",
            f"--spool={spool}",
            f"--send_to=PACS@127.0.0.1:{archive_port}",
            "--port=0",
            "--workers=1",
        )
        self._log = log
        with log.open("a") as file:
            self.process = subprocess.Popen(line, env=environment, stderr=file)

    def events(self):
        return [json.loads(line) for line in self._log.read_text().splitlines() if line[0] == "{"]

    def wait_for(self, event, number=1, seconds=120):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            found = [each for each in self.events() if each["event"] == event]
            if len(found) >= number:
                return found
            assert self.process.poll() is None, self._log.read_text()
            time.sleep(0.05)
        raise AssertionError(f"no {event}: {self._log.read_text()}")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def send(port, paths):
    """Send films in their own transfer syntax."""
    films = [pydicom.dcmread(path) for path in paths]
    caller = AE(ae_title="CR1")
    for syntax in {film.file_meta.TransferSyntaxUID for film in films}:
        caller.add_requested_context(ComputedRadiographyImageStorage, syntax)
    association = caller.associate("127.0.0.1", port, ae_title="KNEE_JAX")
    assert association.is_established
    for film in films:
        assert association.send_c_store(film).Status == 0
    association.release()
    return [film.SOPInstanceUID for film in films]


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Three films as a machine would send them, one of them not compressed."""
    tree = tmp_path_factory.mktemp("films") / "oai"
    done = run_here("knee_jax", "phantom", f"--out={tree}", "--subjects=3", "--visit=0")
    assert done.returncode == 0, done.stderr
    paths = sorted(tree.rglob("001"))
    plain = pydicom.dcmread(paths[0])
    if plain.file_meta.TransferSyntaxUID.is_compressed:
        plain.decompress()
    plain.save_as(paths[0])
    return paths


@pytest.mark.slow
def test_killed_in_between_nothing_is_lost_or_doubled(tmp_path, archive, films):
    spool, log = tmp_path / "spool", tmp_path / "log"
    listener = Listener(spool, archive.port, log)
    # Killed when all is received and not all is graded.
    uids = send(listener.wait_for("listening")[0]["port"], films)
    listener.kill()
    # Killed while the archive takes the first object.
    listener = Listener(spool, archive.port, log)
    archive.on_take = listener.process.kill
    listener.process.wait(timeout=120)
    archive.on_take = lambda: None
    assert len(archive.taken) == 1
    listener = Listener(spool, archive.port, log)
    port = listener.wait_for("listening", 3)[-1]["port"]
    # The sender comes again with what it sent before.
    send(port, films[:1])
    listener.wait_for("sent", len(films))
    listener.process.terminate()
    assert listener.process.wait(timeout=30) == STOPPED
    objects = {made.SOPInstanceUID: made for made in archive.taken}
    # The archive was sent one object twice, whose mark the kill forestalled, and holds it once.
    assert len(archive.taken) - len(objects) == 1
    reports = [made for made in objects.values() if made.Modality == "SR"]
    of = collections.Counter(groups(each)[0]["Source of Measurement"] for each in reports)
    assert of == collections.Counter(uids)
    assert sum(made.Modality == "OT" for made in objects.values()) == 2 * len(films)
    left = {path.parent.name for path in spool.rglob("*") if path.is_file()} - {spool.name}
    assert left == {"done"}
    assert not any(uid in log.read_text() for uid in uids)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("storescu"), reason="DCMTK is not installed")
def test_tools_of_others_send_and_receive(tmp_path, films):
    kept = tmp_path / "kept"
    kept.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    peer = subprocess.Popen(["storescp", "-aet", "PACS", "-od", str(kept), str(port)])
    listener = Listener(tmp_path / "spool", port, tmp_path / "log")
    try:
        own = str(listener.wait_for("listening")[0]["port"])
        sent = ["storescu", "-aec", "KNEE_JAX", "127.0.0.1", own, str(films[0])]
        assert subprocess.run(sent, check=False).returncode == 0
        listener.wait_for("sent")
    finally:
        listener.process.terminate()
        listener.process.wait(timeout=30)
        peer.terminate()
        peer.wait()
    kinds = collections.Counter(pydicom.dcmread(path).Modality for path in kept.iterdir())
    assert kinds == {"SR": 1, "OT": 2}
    film, answer = pydicom.dcmread(films[0]), pydicom.dcmread(next(kept.iterdir()))
    assert (answer.PatientID, answer.StudyInstanceUID) == (film.PatientID, film.StudyInstanceUID)
