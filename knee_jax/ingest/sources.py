"""Files to read, in folders and archives, under the names by which they are shown."""

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Container, Iterable, Iterator

from knee_jax.ingest import archives


@dataclasses.dataclass(frozen=True)
class Source:
    """One file to read.

    Attributes:
        path: Path to read from, possibly within an archive (`archives`).
        name: Path to show.
        outside: Whether it is a link to somewhere else.
        never_read: Reason why it is listed only, such as a link in an archive; '' to read it.
    """

    path: pathlib.Path
    name: str
    outside: bool = False
    never_read: str = ""


def find(paths: list[pathlib.Path]) -> Iterator[Source]:
    """List the files in files, folders and archives, in order.

    Their names are relative to the folder that all given paths have in common, so that files of one
    name in two folders are told apart, in whatever order they are given. Hidden files and landmark
    files are left out. A damaged archive is listed itself.

    Raises:
        FileNotFoundError: A path does not exist.
    """
    for given in paths:
        if not given.exists():
            raise FileNotFoundError(2, "no such file or folder", str(given))
    places = [pathlib.Path(os.path.abspath(given)) for given in paths]
    top = pathlib.Path(os.path.commonpath(places)) if places else pathlib.Path()
    top = top if top.is_dir() else top.parent
    for given, place in zip(paths, places, strict=True):
        name = place.relative_to(top).as_posix()
        if given.is_dir():
            yield from _in_folder(given, "" if place == top else f"{name}/")
        elif archives.stem(given.name):
            yield from _in_archive(given, name)
        else:
            yield Source(given, _shown(name))


def unique(found: Iterable[Source]) -> list[Source]:
    """Return files, each once; of equal names, as of uploads, the later get a number."""
    sources: list[Source] = []
    names: set[str] = set()
    paths: set[str] = set()
    for source in found:
        path = os.path.abspath(source.path)
        if path in paths:
            continue
        name = numbered(source.name, names)
        names.add(name)
        paths.add(path)
        sources.append(dataclasses.replace(source, name=name))
    return sources


def numbered(name: str, taken: Container[str]) -> str:
    """Return a name that is not taken yet: itself, or with the first free number."""
    free, count = name, 1
    while free in taken:
        count += 1
        free = f"{name} ({count})"
    return free


def _in_folder(root: pathlib.Path, prefix: str) -> Iterator[Source]:
    inside = root.resolve()
    for path in sorted(root.rglob("*")):
        name = prefix + path.relative_to(root).as_posix()
        if path.is_dir() or any(part.startswith(".") for part in path.relative_to(root).parts):
            continue
        if path.suffix.lower() == ".pts":
            continue
        if archives.stem(path.name):
            yield from _in_archive(path, name)
        else:
            outside = path.is_symlink() and not path.resolve().is_relative_to(inside)
            special = path.exists() and not path.is_file()
            yield Source(path, _shown(name), outside, "no plain file" if special else "")


def _in_archive(archive: pathlib.Path, name: str) -> Iterator[Source]:
    folder = archive.with_name(archives.stem(archive.name))
    try:
        members, left_out = sorted(archives.files(archive)), archives.left_out(archive)
    except OSError as error:
        yield Source(
            archive,
            _shown(name),
            never_read=error.strerror or "its archive is damaged; pack it, or copy it, again",
        )
        return
    for member, reason in sorted(left_out.items()):
        yield Source(archive, _shown(f"{name}/{member}"), never_read=reason)
    for member in members:
        hidden = any(part.startswith(".") for part in pathlib.PurePosixPath(member).parts)
        if not hidden and not member.lower().endswith(".pts"):
            yield Source(folder / member, _shown(f"{name}/{member}"))


def _shown(name: str) -> str:
    """Return a name that can be written as text, whatever bytes the disk has for it."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


@dataclasses.dataclass(frozen=True)
class ListJob:
    """Job that lists the files of an archive, or a file that is none.

    Attributes:
        path: File.
        name: Name to show, that of the archive's folder without its suffix.
        most: Number of files from which on the rest is not listed.
    """

    path: pathlib.Path
    name: str
    most: int

    def __call__(self) -> list[Source]:
        """List them."""
        if not archives.stem(self.path.name):
            return [Source(self.path, _shown(self.name))]
        return list(itertools.islice(_in_archive(self.path, self.name), self.most))
