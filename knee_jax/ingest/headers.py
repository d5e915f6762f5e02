"""What DICOM files say of themselves, read once: many at a time, kept in a file for the next time.

The file holds no more than is needed here: neither names nor dates but that of the image itself,
which tells repeated images apart.
"""

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import os
import pathlib
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import TextIO

import pydicom
from tqdm import tqdm

from knee_jax.errors import UnusableKnee
from knee_jax.ingest import dicom, pool

KEYWORDS = (
    "Modality",
    "SeriesDescription",
    "Laterality",
    "ImageLaterality",
    "PatientID",
    "StudyDate",
    "StudyTime",
    "SeriesDate",
    "SeriesTime",
)
ANOTHER = "another"
"""Stands for a subject id that is not in the file's path, and is not kept."""

_CHUNK = 128
_VERSION = 2


@dataclasses.dataclass(frozen=True)
class Header:
    """What one file says of itself, '' where it does not.

    Attributes:
        modality: such as CR, DX or MR.
        description: SeriesDescription.
        side: 'L' or 'R', of Laterality or ImageLaterality.
        subject: PatientID as the file's path has it, or `ANOTHER`; '' also where it is no id.
        taken: date and time of the series, else of the study, as text that sorts by time.
        reason: why it cannot be read, one of `dicom.read_header`'s.
        detail: that reason in words.
    """

    modality: str = ""
    description: str = ""
    side: str = ""
    subject: str = ""
    taken: str = ""
    reason: str = ""
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Reader:
    """How headers are read; what is read does not depend on it.

    Attributes:
        cache: folder of the files that keep headers, one a study's folder; None: none is kept.
        workers: number of processes.
        file_timeout: seconds that a file may take.
    """

    cache: pathlib.Path | None = None
    workers: int = 1
    file_timeout: float = 120

    def read(self, root: pathlib.Path, paths: Sequence[str]) -> dict[str, Header]:
        """Reads the headers of files, those that the cache does not know.

        What is known of a file counts as long as its size and its time of change are the same. What
        cannot be read is not kept, so that a mended disk or permission is seen at once. A killed
        walk keeps what it has read.

        Args:
            root: the study's folder.
            paths: of the files, relative to it.

        Returns:
            By path, in the order of `paths`.
        """
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(_open(self.cache, root)) if self.cache else None
            known = _load(file) if file else {}
            stamps = {path: _stamp(root / path) for path in paths}
            new = [p for p in paths if p not in known or known[p][0] != stamps[p]]
            fresh: dict[str, Header] = {}
            bar = stack.enter_context(
                tqdm(
                    desc="reading headers",
                    total=len(new),
                    unit="file",
                    mininterval=1,
                    disable=not new,
                )
            )
            for chunk, headers in _read_all(root, new, self.workers, self.file_timeout):
                fresh |= zip(chunk, headers)
                if file:
                    _keep(file, ((path, stamps[path], fresh[path]) for path in chunk))
                bar.update(len(chunk))
        return {path: fresh[path] if path in fresh else known[path][1] for path in paths}


DEFAULT_READER = Reader()


def _read_all(
    root: pathlib.Path, paths: list[str], workers: int, seconds: float
) -> Iterator[tuple[list[str], list[Header]]]:
    chunks = [list(chunk) for chunk in _batched(paths)]
    jobs = [functools.partial(_read_chunk, root, chunk) for chunk in chunks]
    # To start a process costs as much as hundreds of headers.
    workers = max(1, min(workers, len(chunks) // 2))
    with contextlib.closing(pool.run_in_order(jobs, workers, seconds)) as results:
        for chunk, found in zip(chunks, results):
            if isinstance(found, pool.Lost):
                found = _one_by_one(root, chunk, seconds)
            yield chunk, found


def _one_by_one(root: pathlib.Path, paths: list[str], seconds: float) -> list[Header]:
    """The headers of a chunk with a file that cannot be read in time, or stops the process."""
    jobs = [functools.partial(_read_chunk, root, [path]) for path in paths]
    return [
        Header(reason=found.reason, detail=found.detail)
        if isinstance(found, pool.Lost)
        else found[0]
        for found in pool.run_in_order(jobs, 1, seconds)
    ]


def _batched(paths: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(paths), _CHUNK):
        yield paths[start : start + _CHUNK]


def _read_chunk(root: pathlib.Path, paths: list[str]) -> list[Header]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [_read(root, path) for path in paths]


def _read(root: pathlib.Path, path: str) -> Header:
    try:
        header = dicom.read_header(root / path, KEYWORDS)
        modality, description, laterality, of_image, subject, *times = (
            " ".join(str(dicom.value(header, keyword) or "").split()) for keyword in KEYWORDS
        )
    except UnusableKnee as trouble:
        return Header(reason=trouble.reason, detail=trouble.detail)
    study_date, study_time, series_date, series_time = times
    side = (laterality or of_image).upper()
    return Header(
        # It may hold anything, a name too.
        modality if re.fullmatch("[A-Z]{2}", modality) else "",
        description,
        side if side in ("L", "R") else "",
        _in_path(subject, path),
        f"{series_date or study_date} {series_time or study_time}".strip(),
    )


def _in_path(subject: str, path: str) -> str:
    """The part of a PatientID that is a word of the path; `ANOTHER` of another id, '' of none."""
    words = re.findall(r"[A-Z0-9]+", path.upper())
    ids = [each for word in words for each in dicom.ids_like(word, subject)]
    return next((each for each in ids if each in words), ANOTHER if ids else "")


def _stamp(path: pathlib.Path) -> tuple[int, int]:
    """Size and time of change of a file."""
    try:
        status = os.stat(path)
    except OSError:
        # To be told by whoever opens it.
        return -1, -1
    return status.st_size, status.st_mtime_ns


@contextlib.contextmanager
def _open(cache: pathlib.Path, root: pathlib.Path) -> Iterator[TextIO]:
    """Opens the file of a study's folder; of several processes at once one goes first."""
    cache.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    with (cache / f"{name}.jsonl").open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _load(file: TextIO) -> dict[str, tuple[tuple[int, int], Header]]:
    """What the file knows by path, the later line before the earlier."""
    file.seek(0)
    first, *lines = file.read().split("\n")
    if first != _first_line():
        lines = []
    known = {}
    whole = []
    for line in lines:
        # Of a killed walk the last line may be torn.
        with contextlib.suppress(ValueError, TypeError):
            path, size, changed, *values = json.loads(line)
            known[path] = ((size, changed), Header(*values))
            whole.append(line)
    if first != _first_line() or [*whole, ""] != lines:
        file.seek(0)
        file.truncate()
        file.writelines(f"{line}\n" for line in [_first_line(), *whole])
        file.flush()
    return known


def _first_line() -> str:
    names = [field.name for field in dataclasses.fields(Header)]
    return json.dumps(["knee_jax headers", _VERSION, pydicom.__version__, *names])


def _keep(file: TextIO, read: Iterator[tuple[str, tuple[int, int], Header]]) -> None:
    rows = ([path, *stamp, *dataclasses.astuple(h)] for path, stamp, h in read if not h.reason)
    file.write("".join(f"{json.dumps(row)}\n" for row in rows))
    file.flush()
