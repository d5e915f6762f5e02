"""Archives within a study, read in place: `x.zip`, `x.tar.gz` or `x.tgz` stands for a folder `x`.

Studies are given out so, a series or a visit in each. A path of a file in such a folder is read
from the archive if it is not on the disk. Nothing is unpacked onto the disk, so that no name in an
archive can lead out of a folder; links and what is no plain file are left out, and so is what would
not fit in memory.
"""

import contextlib
import errno
import functools
import gzip
import io
import os
import pathlib
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import BinaryIO

SUFFIXES = (".zip", ".tar.gz", ".tgz")

_MOST_BYTES = 2**30
"""Size of a file, unpacked, beyond which it is left out."""
_MOST_SWELLING = 200
"""Times that what is packed may swell beyond `_SPARED` bytes; images swell a few times."""
_SPARED = 2**26
_KEPT_BYTES = 2**28
"""Size of a tape, unpacked, up to which its files are kept in memory, as those of a series."""
_MOST_MEMBERS = 2**21


def stem(name: str) -> str:
    """Return the name of the folder that an archive stands for, '' if it is no archive."""
    suffix = next((each for each in SUFFIXES if name.lower().endswith(each)), "")
    return name[: -len(suffix)] if suffix else ""


def find(path: pathlib.Path) -> tuple[pathlib.Path, str] | None:
    """Find the archive that a path leads into.

    Returns:
        The archive and the rest of the path, '' for its top; None if there is no archive.
    """
    for folder in (path, *path.parents):
        if folder.is_dir():
            return None
        for suffix in SUFFIXES:
            for spelt in (suffix, suffix.upper()):
                archive = folder.with_name(f"{folder.name}{spelt}") if folder.name else folder
                if archive.is_file():
                    rest = path.relative_to(folder).as_posix()
                    return archive, "" if rest == "." else rest
    return None


def on_disk(path: pathlib.Path) -> pathlib.Path:
    """Return the file on the disk that a path is read from: itself or its archive."""
    found = None if os.path.lexists(path) else find(path)
    return found[0] if found else path


def files(archive: pathlib.Path) -> dict[str, int]:
    """List the files of an archive, and their sizes, below the folder that it stands for.

    A first folder of the archive's own name, within which everything is, is left out.

    Raises:
        OSError: The archive cannot be read; `strerror` says why.
    """
    return {path: size for path, (_, size) in _members(archive).items()}


def left_out(archive: pathlib.Path) -> dict[str, str]:
    """List the members of an archive that are never read, with the reason for each.

    Raises:
        OSError: The archive cannot be read; `strerror` says why.
    """
    found: dict[str, str] = {}
    with _in_words(archive):
        for name, is_plain, fits in _all_members(archive):
            if not is_plain:
                found[name] = "a link or no plain file"
            elif not fits:
                found[name] = "it swells beyond all measure"
            elif not _inside(name) and not _is_hidden(name):
                found[name] = "its path leads out of the archive"
    return found


def _all_members(archive: pathlib.Path) -> Iterator[tuple[str, bool, bool]]:
    """Yield every member but folders: name, and whether it is a plain file and no too large one."""
    if archive.suffix.lower() == ".zip":
        for info in _zip(*_stamp(archive)).infolist():
            if not info.is_dir():
                is_plain = (info.external_attr >> 28) in (0, 8)
                fits = info.file_size <= min(_most(info.compress_size), _MOST_BYTES)
                yield info.filename, is_plain, fits
        return
    most = _most(archive.stat().st_size)
    with gzip.open(archive) as raw, tarfile.open(fileobj=_Limited(raw, most), mode="r|") as tape:
        for member in tape:
            if not member.isdir():
                yield member.name, member.isreg(), member.size <= _MOST_BYTES


def exists(path: pathlib.Path) -> bool:
    """Return whether a file is there, on the disk or in an archive."""
    if os.path.lexists(path):
        return True
    found = find(path)
    try:
        return found is not None and found[1] in _members(found[0])
    except OSError:
        return False


def is_folder(path: pathlib.Path) -> bool:
    """Return whether a folder is there, on the disk or in an archive."""
    try:
        return path.is_dir() or bool(_below(path))
    except OSError:
        return False


def names(folder: pathlib.Path) -> list[str]:
    """Return the names of the files in a folder on the disk or in an archive.

    Raises:
        OSError: It cannot be listed.
    """
    if folder.is_dir():
        return [path.name for path in folder.iterdir()]
    return [path for path in _below(folder) if "/" not in path]


def _below(folder: pathlib.Path) -> list[str]:
    """Return the files below a folder in an archive, relative to it."""
    found = find(folder)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    archive, rest = found
    prefix = f"{rest}/" if rest else ""
    return [path[len(prefix) :] for path in _members(archive) if path.startswith(prefix)]


def read(path: pathlib.Path) -> bytes:
    """Read a file on the disk or in an archive.

    Raises:
        OSError: It cannot be read; `strerror` says why.
    """
    if os.path.lexists(path) or (found := find(path)) is None:
        return path.read_bytes()
    archive, rest = found
    members = _members(archive)
    if rest not in members:
        raise FileNotFoundError(errno.ENOENT, "it is not in its archive", str(path))
    name, _ = members[rest]
    with _in_words(archive):
        if archive.suffix.lower() == ".zip":
            return _zip(*_stamp(archive)).read(name)
        if sum(size for _, size in members.values()) <= _KEPT_BYTES:
            return _whole_tape(*_stamp(archive))[name]
        for member, file in _tape(archive):
            if member.name == name:
                return file.read()
    raise OSError(errno.EIO, "its archive has changed")


def open_file(path: pathlib.Path) -> BinaryIO:
    """Open a file on the disk or in an archive for reading.

    Raises:
        OSError: It cannot be read; `strerror` says why.
    """
    if os.path.lexists(path) or find(path) is None:
        return path.open("rb")
    return io.BytesIO(read(path))


@contextlib.contextmanager
def _in_words(archive: pathlib.Path) -> Iterator[None]:
    """Turn the errors of the libraries into those of the system, in words."""
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise OSError(errno.EIO, "its archive is damaged; pack it, or copy it, again") from error
    except (RuntimeError, NotImplementedError) as error:
        # So says zipfile of a password, and of a kind of compression that it has not.
        raise OSError(errno.EACCES, "its archive is encrypted or of an unknown kind") from error
    except (KeyError, ValueError, IndexError) as error:
        raise OSError(errno.EIO, "its archive is damaged; pack it, or copy it, again") from error


def _stamp(archive: pathlib.Path) -> tuple[pathlib.Path, int, int]:
    """Return what caches go by: an archive may change."""
    status = archive.stat()
    return archive, status.st_size, status.st_mtime_ns


def _members(archive: pathlib.Path) -> Mapping[str, tuple[str, int]]:
    """Return name and size of the files of an archive by path below its folder."""
    return _listed(*_stamp(archive))


@functools.lru_cache(maxsize=64)
def _listed(archive: pathlib.Path, size: int, changed: int) -> Mapping[str, tuple[str, int]]:
    found: dict[str, tuple[str, int]] = {}
    with _in_words(archive):
        for name, length in _plain_files(archive, size, changed):
            path = _inside(name)
            if path and length <= _MOST_BYTES:
                # Of two files of one name, the last one counts, as it does when unpacked.
                found[path] = (name, length)
            if len(found) > _MOST_MEMBERS:
                raise OSError(errno.EFBIG, "its archive holds too many files")
    top = f"{stem(archive.name)}/"
    if found and all(path.startswith(top) for path in found):
        return {path.removeprefix(top): member for path, member in found.items()}
    return found


def _plain_files(archive: pathlib.Path, size: int, changed: int) -> Iterator[tuple[str, int]]:
    if archive.suffix.lower() == ".zip":
        for info in _zip(archive, size, changed).infolist():
            # The upper half has Unix's kind of file: a link is no plain file.
            is_plain = not info.is_dir() and (info.external_attr >> 28) in (0, 8)
            if is_plain and info.file_size <= _most(info.compress_size):
                yield info.filename, info.file_size
    else:
        for member, _ in _tape(archive):
            yield member.name, member.size


def _inside(name: str) -> str:
    """Return a member's path below the archive's folder; '' if it leads elsewhere or is hidden."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    leads_out = name.startswith("/") or ".." in parts or any(":" in part for part in parts)
    return "" if leads_out or _is_hidden(name) else "/".join(parts)


def _is_hidden(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return any(
        (part.startswith(".") and part not in (".", "..")) or part == "__MACOSX" for part in parts
    )


@functools.lru_cache(maxsize=8)
def _zip(archive: pathlib.Path, size: int, changed: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(archive)


def _tape(archive: pathlib.Path) -> Iterator[tuple[tarfile.TarInfo, BinaryIO]]:
    """Yield the plain files of a compressed tape, from its beginning."""
    most = _most(archive.stat().st_size)
    with gzip.open(archive) as raw, tarfile.open(fileobj=_Limited(raw, most), mode="r|") as tape:
        for member in tape:
            if member.isreg() and (file := tape.extractfile(member)):
                yield member, file  # type: ignore[misc]


@functools.lru_cache(maxsize=1)
def _whole_tape(archive: pathlib.Path, size: int, changed: int) -> dict[str, bytes]:
    return {
        member.name: file.read() for member, file in _tape(archive) if member.size <= _MOST_BYTES
    }


def _most(packed: int) -> int:
    """Return the bytes that so many packed ones may become."""
    return _SPARED + _MOST_SWELLING * packed


class _Limited(io.RawIOBase):
    """Stream that ends with an error where an archive swells beyond all measure."""

    def __init__(self, raw: gzip.GzipFile, most: int):
        self._raw, self._left = raw, most

    def read(self, size: int = -1) -> bytes:
        """Read some bytes."""
        found = self._raw.read(size)
        self._left -= len(found)
        if self._left < 0:
            raise OSError(errno.EFBIG, "its archive swells beyond all measure")
        return found
