"""Uploaded files, which lie in a private folder only until they are read."""

import contextlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from knee_jax.ingest import archives
from knee_jax.ingest.landmarks import SUFFIXES
from knee_jax.ingest.pool import Failure
from knee_jax.ingest.sources import Source, unique
from knee_jax.serve.bodies import Room
from knee_jax.serve.limits import MIB, Limits
from knee_jax.serve.reader import Reader

PREFIX = "knee_jax_uploads_"

MOST_NAME = 200
"""Length of the name of a file, beyond which its beginning is left out."""


class Spool:
    """Private folder of uploads that are not graded yet.

    Args:
        room: Room for uploads.
        base: Folder to make it in; None: the system's folder for temporary files.
    """

    def __init__(self, room: Room, base: Path | None = None):
        base = base or Path(tempfile.gettempdir())
        _remove_left_behind(base)
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}_", dir=base))
        self._room = room
        self._sizes: dict[Path, int] = {}
        self._lock = threading.Lock()

    def new(self) -> Path:
        """Make the folder of one request."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    def write(self, file: BinaryIO, folder: Path, place: str) -> None:
        """Copy a file into the folder of a request, to a place below it.

        Raises:
            HTTPException: 503 if that would take more than all uploads may.
        """
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        self._room.take(size)
        with self._lock:
            self._sizes[folder] = self._sizes.get(folder, 0) + size
        path = folder / place
        path.parent.mkdir(exist_ok=True)
        # Of two landmark files of one name, the last one counts.
        with path.open("wb") as copy:
            shutil.copyfileobj(file, copy, MIB)

    def remove(self, folder: Path) -> None:
        """Delete what a request has brought."""
        shutil.rmtree(folder, ignore_errors=True)
        with self._lock:
            self._room.give(self._sizes.pop(folder, 0))

    def close(self) -> None:
        """Delete everything."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _remove_left_behind(base: Path) -> None:
    """Delete the folders of servers that were killed."""
    for folder in base.glob(f"{PREFIX}*"):
        number = folder.name.removeprefix(PREFIX).partition("_")[0]
        if number.isdecimal() and not Path(f"/proc/{number}").exists() and Path("/proc").exists():
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.asynccontextmanager
async def form_of(request: Request, limits: Limits) -> AsyncIterator[list[UploadFile]]:
    """Yield the files of a request.

    Raises:
        HTTPException: 415 if it is no form, 400 if the form is damaged, 413 if it has too many
            files, 422 if it has none.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise HTTPException(
            415, 'Send files as multipart/form-data, as `curl -F "files=@film.dcm"` does.'
        )
    parser = _Parser(request.headers, request.stream(), max_files=limits.files, max_fields=16)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise HTTPException(413, too_many(limits)) from error
        raise HTTPException(400, f"The form is damaged: {error.message.rstrip('.')}.") from error
    try:
        files = [each for _, each in form.multi_items() if isinstance(each, UploadFile)]
        if not files:
            raise HTTPException(422, "There is no file in the upload; add one as `files`.")
        yield files
    finally:
        await form.close()


class _Parser(MultiPartParser):
    spool_max_size = 2**16
    """Size up to which a file that comes in is kept in memory, bytes: there may be many."""


def too_many(limits: Limits) -> str:
    """Return the words for a request of too many files."""
    return f"The upload holds more than {limits.files:,} files; send them in several parts."


async def receive(
    request: Request, folder: Path, spool: Spool, reader: Reader, limits: Limits
) -> list[Source]:
    """Take the files of a request into its folder, and list them; landmark files lie beside films.

    Raises:
        HTTPException: As `form_of`; or 503 if there is no room, 413 if archives hold too many
            files, 422 if there is nothing to read.
    """
    async with form_of(request, limits) as files:
        names = [shown_name(file.filename or "file") for file in files]
        places = disk_names(names)
        for file, place in zip(files, places, strict=True):
            if place:
                await run_in_threadpool(spool.write, file.file, folder, place)
    return await run_in_threadpool(_listed, folder, names, places, reader, limits)


def _listed(
    folder: Path, names: Sequence[str], places: Sequence[str], reader: Reader, limits: Limits
) -> list[Source]:
    found: list[Source] = []
    for name, place in zip(names, places, strict=True):
        if not place or place.endswith(".pts"):
            continue
        if archives.stem(place):
            listed = reader.files(folder / place, name, limits.files + 1 - len(found))
            if isinstance(listed, Failure):
                raise HTTPException(422, f"{name} cannot be read as an archive: {listed.detail}.")
            found += listed
        else:
            found.append(Source(folder / place, name))
        if len(found) > limits.files:
            raise HTTPException(413, too_many(limits))
    if not found:
        raise HTTPException(422, "There is no film or picture in the upload, nor in its archives.")
    return unique(found)


def shown_name(name: str) -> str:
    """Return the name of a file as it is shown: relative, without control characters."""
    plain = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", "", name.replace("\\", "/"))
    parts = [part for part in plain.split("/") if part not in ("", "..", ".")]
    text = "/".join(parts).encode("utf-8", "replace").decode()
    if len(text) > MOST_NAME:
        # What is left of a part may be two dots.
        text = text[-MOST_NAME:].lstrip("./")
    return text or "file"


def disk_names(names: Sequence[str]) -> list[str]:
    """Return places that lead nowhere, by which the ingest knows archives and landmark files.

    Each file has a folder of its own; the landmark files of a film, `X.pts` and `X_f.pts`, lie
    beside it. Those without a film, and hidden files, get ''.
    """
    films = {
        name: f"{i:05d}/{re.sub(r'[^A-Za-z0-9._-]', '_', PurePosixPath(name).name)[-100:]}"
        for i, name in reversed(list(enumerate(names)))
    }
    found = []
    for i, name in enumerate(names):
        suffix = max((s for s in SUFFIXES.values() if name.endswith(s)), key=len, default="")
        if suffix:
            film = films.get(name.removesuffix(suffix))
            found.append(f"{film}{suffix}" if film else "")
        elif any(part.startswith(".") for part in PurePosixPath(name).parts):
            found.append("")
        else:
            found.append(f"{i:05d}/{films[name].partition('/')[2]}")
    return found
