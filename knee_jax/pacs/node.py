"""DICOM node: receives films by C-STORE, and sends objects to a peer by C-STORE."""

import dataclasses
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pydicom
from pydicom.uid import (
    UID,
    AllTransferSyntaxes,
    ComprehensiveSRStorage,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

from knee_jax.errors import UserError

FILMS = (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
)
"""Kinds of objects that are received."""

ANSWERS = (ComprehensiveSRStorage, SecondaryCaptureImageStorage)
"""Kinds of objects that are sent."""

ECHO = UID("1.2.840.10008.1.1")
"""Kind of the question whether anybody is there (C-ECHO)."""

SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000

SECONDS = 20.0
"""Time after which a silent peer is given up."""

_TITLE = re.compile(r"[\x21-\x7e]{1,16}")


@dataclasses.dataclass(frozen=True)
class Peer:
    """Another node.

    Attributes:
        title: Its application entity title.
        host, port: Its address.
    """

    title: str
    host: str
    port: int


def title_of(text: str, flag: str) -> str:
    """Return a valid application entity title.

    Raises:
        UserError: It is none: 1 to 16 visible characters.
    """
    if not _TITLE.fullmatch(text) or "\\" in text:
        raise UserError(f"{flag}={text}: a title has 1 to 16 visible characters, no backslash")
    return text


def peer_of(text: str, flag: str) -> Peer:
    """Parse `TITLE@HOST:PORT`.

    Raises:
        UserError: It is written otherwise.
    """
    title, _, address = text.partition("@")
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"{flag}={text}: is written TITLE@HOST:PORT, such as PACS@10.0.0.5:104")
    return Peer(title_of(title, flag), host, int(port))


def listen(
    title: str,
    address: tuple[str, int],
    callers: Sequence[str],
    most_bytes: int,
    receive: Callable[[str, bytes], None],
    turned_away: Callable[[], None],
) -> Any:
    """Start to receive films, in threads of the library.

    A film is acknowledged once `receive` returns; if that raises OSError, as on a full disk, the
    sender is told that resources are short, and will come again.

    Args:
        title: Our application entity title, by which callers must call us.
        address: Host and port to listen on.
        callers: Titles of those who may send; empty: anybody.
        most_bytes: Size of a film up to which it is received.
        receive: Function that takes the UID and the file of a film.
        turned_away: Function that is called where a caller is not let in.

    Returns:
        Server with a `shutdown` method.

    Raises:
        UserError: The address cannot be listened on.
    """
    from pynetdicom import AE, evt

    _hush()

    def store(event: Any) -> int:
        if event.request.DataSet.getbuffer().nbytes > most_bytes:
            return OUT_OF_RESOURCES
        uid = str(event.request.AffectedSOPInstanceUID or "")
        if not UID(uid).is_valid:
            return CANNOT_UNDERSTAND
        try:
            receive(uid, event.encoded_dataset())
        except OSError:
            return OUT_OF_RESOURCES
        return SUCCESS

    node = AE(ae_title=title)
    node.require_called_aet = True
    node.require_calling_aet = list(callers)
    node.maximum_associations = 8
    node.acse_timeout = node.dimse_timeout = node.network_timeout = SECONDS
    node.add_supported_context(ECHO)
    for kind in FILMS:
        node.add_supported_context(kind, AllTransferSyntaxes)
    handlers: list[Any] = [(evt.EVT_C_STORE, store), (evt.EVT_REJECTED, lambda _: turned_away())]
    try:
        return node.start_server(address, block=False, evt_handlers=handlers)
    except OSError as error:
        host, port = address
        raise UserError(f"{host}:{port} cannot be listened on: {error.strerror}") from error


def send(title: str, peer: Peer, paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Send objects to a peer, and yield each with '' once it is taken, or why it is not.

    Args:
        title: Our application entity title.
        peer: Who receives them.
        paths: DICOM files.
    """
    from pynetdicom import AE

    _hush()
    node = AE(ae_title=title)
    node.acse_timeout = node.dimse_timeout = node.network_timeout = SECONDS
    node.connection_timeout = SECONDS
    for kind in ANSWERS:
        node.add_requested_context(kind, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    association = node.associate(peer.host, peer.port, ae_title=peer.title)
    if not association.is_established:
        problem = "refused the association" if association.is_rejected else "does not answer"
        yield from ((path, f"{peer.title} {problem}") for path in paths)
        return
    try:
        for path in paths:
            yield path, _stored(association, path)
    finally:
        association.release()


def _hush() -> None:
    """Leave the words to the log of `answering`: the library would tell every failed call twice."""
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)


def _stored(association: Any, path: Path) -> str:
    """Send one object, and return '' or why it is not taken."""
    made = pydicom.dcmread(path)
    try:
        status = association.send_c_store(made)
    except (RuntimeError, ValueError):
        # The association ended, or the peer takes no objects of this kind.
        if not association.is_established:
            return "the association ended"
        return f"takes no {made.SOPClassUID.name}"
    if "Status" not in status:
        return "no answer"
    code = int(status.Status)
    # Warnings, such as of elements that the peer does not keep, are of objects that are stored.
    return "" if code == SUCCESS or 0xB000 <= code <= 0xBFFF else f"status {code:#06x}"
