"""The files of a study's folder, by name alone: nothing is opened."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence

from knee_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Tree:
    """What lies in a folder and below it; paths are relative to it, with slashes.

    Attributes:
        files: names of the files by folder, both sorted; a folder without files has none.
        unreadable: folders that could not be listed, with the system's words.
        notes: counts of `folders_linked_twice` (links to folders that were already seen, such as
            those that lead back) and `special_files` (pipes, devices).
    """

    files: dict[str, list[str]]
    unreadable: dict[str, str]
    notes: dict[str, int]


def walk(
    root: pathlib.Path,
    enters: Callable[[str], bool] = lambda _: True,
    first: Callable[[str], bool] = lambda _: False,
) -> Tree:
    """Lists a folder and all below it, in the order of names, whatever the file system's order.

    Links are followed, since large studies are spread over several disks; of several ways to one
    folder that of the first name counts, those asked for first and real folders before links.
    Hidden files and folders are left out, and a link to nothing counts as a file, for whoever opens
    it to tell.

    Args:
        root: the folder.
        enters: whether to list a folder, by its path.
        first: whether to list a folder before others that lie beside it, by its path.

    Raises:
        UserError: the folder itself cannot be listed.
    """
    found = Tree({}, {}, {"folders_linked_twice": 0, "special_files": 0})
    seen: set[tuple[int, int]] = set()
    # The last one comes next.
    pending = [""]
    while pending:
        folder = pending.pop()
        try:
            status = os.stat(root / folder)
            if (status.st_dev, status.st_ino) in seen:
                found.notes["folders_linked_twice"] += 1
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(root / folder) as entries:
                shown = sorted(
                    (entry for entry in entries if not entry.name.startswith(".")),
                    key=lambda entry: (entry.is_symlink(), entry.name),
                )
        except OSError as error:
            found.unreadable[folder] = error.strerror or str(error)
            continue
        folders, files = _sort_out(shown, found.notes)
        found.files[folder] = sorted(files)
        below = [f"{folder}/{name}" if folder else name for name in folders]
        below.sort(key=lambda path: not first(path))
        pending += [path for path in reversed(below) if enters(path)]
    if "" in found.unreadable:
        raise UserError(f"{root}: cannot be listed ({found.unreadable['']}); correct manual_dir")
    return dataclasses.replace(found, files=dict(sorted(found.files.items())))


def _sort_out(
    entries: Sequence[os.DirEntry[str]], notes: dict[str, int]
) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files among entries."""
    folders, files = [], []
    for entry in entries:
        if entry.is_dir():
            folders.append(entry.name)
        elif entry.is_file() or not os.path.exists(entry.path):
            files.append(entry.name)
        else:
            notes["special_files"] += 1
    return folders, files
