"""The node against a peer of its library: who may call, what is taken, what is told."""

import errno

import pydicom
import pytest
from pynetdicom import AE, evt
from pynetdicom.sop_class import ComputedRadiographyImageStorage, Verification

from knee_jax.errors import UserError
from knee_jax.pacs import film as films
from knee_jax.pacs import node, results, structured_report
from tests.pacs.films import ROW, TARGETS, film


@pytest.fixture
def listening():
    """Start a node with a function that receives, and return its port."""
    servers = []

    def start(receive, callers=(), most_bytes=10**7, turned_away=lambda: None):
        address = ("127.0.0.1", 0)
        servers.append(node.listen("KNEE_JAX", address, callers, most_bytes, receive, turned_away))
        return servers[-1].server_address[1]

    yield start
    for server in servers:
        server.shutdown()


def store(port, path, called="KNEE_JAX", calling="PACS"):
    """Send a film, and return the status, or None if we are not let in."""
    caller = AE(ae_title=calling)
    caller.add_requested_context(ComputedRadiographyImageStorage)
    caller.add_requested_context(Verification)
    association = caller.associate("127.0.0.1", port, ae_title=called)
    if not association.is_established:
        return None
    assert association.send_c_echo().Status == 0
    status = association.send_c_store(pydicom.dcmread(path)).Status
    association.release()
    return status


def test_a_film_is_received_as_it_is(tmp_path, listening):
    received = []
    port = listening(lambda uid, content: received.append((uid, content)))
    path = film(tmp_path / "001")
    assert store(port, path) == 0
    ((uid, content),) = received
    (tmp_path / "again").write_bytes(content)
    again, whole = pydicom.dcmread(tmp_path / "again"), pydicom.dcmread(path)
    assert uid == whole.SOPInstanceUID
    assert again == whole


def test_only_those_who_know_the_titles_are_let_in(tmp_path, listening):
    path = film(tmp_path / "001")
    refused = []
    port = listening(lambda *_: None, callers=["PACS"], turned_away=lambda: refused.append(1))
    assert store(port, path) == 0
    assert not refused
    assert store(port, path, called="OTHER") is None
    assert store(port, path, calling="OTHER") is None
    assert len(refused) == 2


def test_a_full_disk_or_too_large_a_film_is_told_to_the_sender(tmp_path, listening):
    def full(*_):
        raise OSError(errno.ENOSPC, "no space")

    path = film(tmp_path / "001")
    assert store(listening(full), path) == node.OUT_OF_RESOURCES
    assert store(listening(lambda *_: None, most_bytes=100), path) == node.OUT_OF_RESOURCES


def peer(kinds, status=0x0000):
    """A peer that takes some kinds of objects, and the list of what it has taken."""
    taken = []
    server = AE(ae_title="PACS")
    for kind in kinds:
        server.add_supported_context(kind)

    def handle(event):
        taken.append(event.dataset.SOPInstanceUID)
        return status

    handlers = [(evt.EVT_C_STORE, handle)]
    return server.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers), taken


@pytest.fixture
def report(tmp_path):
    made = structured_report.report(films.read(film(tmp_path / "001")), [ROW], TARGETS)
    results.write(tmp_path / "report.dcm", made)
    return tmp_path / "report.dcm", made.SOPInstanceUID


@pytest.mark.parametrize(
    ("kinds", "status", "fault"),
    [
        (node.ANSWERS, 0x0000, ""),
        (node.ANSWERS, 0xB007, ""),
        (node.ANSWERS, 0xA700, "status 0xa700"),
        (node.ANSWERS[1:], 0x0000, "takes no Comprehensive SR Storage"),
    ],
)
def test_what_a_peer_says_is_told(report, kinds, status, fault):
    server, taken = peer(kinds, status)
    path, uid = report
    try:
        at = node.Peer("PACS", *server.server_address[:2])
        assert list(node.send("KNEE_JAX", at, [path])) == [(path, fault)]
    finally:
        server.shutdown()
    assert taken == ([] if "takes no" in fault else [uid])


# The library leaves the socket of a failed call to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_peer_that_is_not_there_is_told(report):
    server, _ = peer(node.ANSWERS)
    address = server.server_address[:2]
    server.shutdown()
    path, _ = report
    at = node.Peer("PACS", *address)
    assert list(node.send("KNEE_JAX", at, [path])) == [(path, "PACS does not answer")]


@pytest.mark.parametrize("text", ["PACS", "PACS@host", "PACS@host:0", "@h:1", "P S@h:1", "x@h:-1"])
def test_a_peer_is_written_with_title_host_and_port(text):
    with pytest.raises(UserError, match="--send_to"):
        node.peer_of(text, "--send_to")


def test_a_peer_is_read():
    assert node.peer_of("PACS@10.0.0.5:104", "--send_to") == node.Peer("PACS", "10.0.0.5", 104)


def test_a_port_in_use_is_told(listening):
    port = listening(lambda *_: None)
    with pytest.raises(UserError, match=f"127.0.0.1:{port} cannot be listened on"):
        node.listen("KNEE_JAX", ("127.0.0.1", port), [], 10, lambda *_: None, lambda: None)
