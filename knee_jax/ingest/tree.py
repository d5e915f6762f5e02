"""Files in a study's folder, by name alone: no file is opened."""

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Callable, Sequence

from knee_jax.errors import UserError
from knee_jax.ingest import archives


@dataclasses.dataclass(frozen=True)
class Tree:
    """Files in a folder and below it; paths are relative to it, with slashes.

    Attributes:
        files: Names of the files by folder, both sorted; a folder without files has an empty list.
        unreadable: Folders that could not be listed, with the message of the system.
        notes: Counts of `folders_linked_twice` (links to folders that were already listed, such as
            links to a parent) and `special_files` (pipes, devices).
    """

    files: dict[str, list[str]]
    unreadable: dict[str, str]
    notes: dict[str, int]


def walk(
    root: pathlib.Path,
    enters: Callable[[str], bool] = lambda _: True,
    first: Callable[[str], bool] = lambda _: False,
) -> Tree:
    """List a folder and all below it by name, whatever the order of the file system.

    Links are followed, since large studies are spread over several disks. Of several paths to one
    folder, the first by name counts, after those preferred by `first` and real folders before
    links. Hidden files and folders are left out. A broken link counts as a file, so that opening it
    is reported. An archive counts as the folder of its name (`archives`), unless that is there.

    Args:
        root: Folder to list.
        enters: Function of a folder's path that returns whether to list it.
        first: Function of a folder's path that returns whether to list it before its siblings.

    Raises:
        UserError: The folder itself cannot be listed.
    """
    tree = Tree({}, {}, {"folders_linked_twice": 0, "special_files": 0})
    if not root.is_dir() and (found := archives.find(root)):
        _list_archive(tree, *found, "", enters)
    listed: set[tuple[int, int]] = set()
    # A stack: the last one comes next.
    pending = [] if tree.files or tree.unreadable else [""]
    while pending:
        folder = pending.pop()
        try:
            status = os.stat(root / folder)
            if (status.st_dev, status.st_ino) in listed:
                tree.notes["folders_linked_twice"] += 1
                continue
            listed.add((status.st_dev, status.st_ino))
            with os.scandir(root / folder) as entries:
                shown = sorted(
                    (entry for entry in entries if not entry.name.startswith(".")),
                    key=lambda entry: (entry.is_symlink(), entry.name),
                )
        except OSError as error:
            tree.unreadable[folder] = error.strerror or "it cannot be read"
            continue
        folders, files = _sort_out(shown, tree.notes)
        packed = {name: stem for name in files if (stem := archives.stem(name))}
        tree.files[folder] = sorted(set(files) - packed.keys())
        for name, stem in packed.items():
            path = f"{folder}/{stem}" if folder else stem
            if stem not in folders and enters(path):
                _list_archive(tree, root / folder / name, "", path, enters)
        below = [f"{folder}/{name}" if folder else name for name in folders]
        below.sort(key=lambda path: not first(path))
        pending += [path for path in reversed(below) if enters(path)]
    if "" in tree.unreadable:
        raise UserError(f"{root}: cannot be listed ({tree.unreadable['']}); correct manual_dir")
    return dataclasses.replace(tree, files=dict(sorted(tree.files.items())))


def _list_archive(
    tree: Tree, archive: pathlib.Path, inside: str, folder: str, enters: Callable[[str], bool]
) -> None:
    """Add the files of an archive, or of a folder `inside` it, as those of a folder."""
    try:
        members = archives.files(archive)
    except OSError as error:
        tree.unreadable[folder] = error.strerror or "its archive cannot be read"
        return
    prefix = f"{inside}/" if inside else ""
    tree.files.setdefault(folder, [])
    for member in sorted(members):
        if not member.startswith(prefix):
            continue
        below, _, name = member.removeprefix(prefix).rpartition("/")
        path = "/".join(part for part in (folder, below) if part)
        steps = list(itertools.accumulate(pathlib.PurePosixPath(below).parts, "{}/{}".format))
        steps = [f"{folder}/{step}" if folder else step for step in steps]
        if all(map(enters, steps)):
            for step in steps:
                tree.files.setdefault(step, [])
            tree.files[path].append(name)


def _sort_out(
    entries: Sequence[os.DirEntry[str]], notes: dict[str, int]
) -> tuple[list[str], list[str]]:
    """Separate entries into the names of folders and those of files."""
    folders, files = [], []
    for entry in entries:
        if entry.is_dir():
            folders.append(entry.name)
        elif entry.is_file() or not os.path.exists(entry.path):
            files.append(entry.name)
        else:
            notes["special_files"] += 1
    return folders, files
