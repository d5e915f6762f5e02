"""Headers of DICOM files, read in parallel and cached in a file.

The cache holds no more than is needed: no names, and no date except that of the image itself, which
distinguishes repeated images.
"""

import contextlib
import dataclasses
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
from knee_jax.files import locked
from knee_jax.ingest import archives, dicom, dicom_header, pool

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
"""Placeholder for a subject id that is not in the file's path; the id itself is not cached."""

_CHUNK = 128
_VERSION = 2


@dataclasses.dataclass(frozen=True)
class Header:
    """Header of one file; elements that it lacks are ''.

    Attributes:
        modality: Modality, such as CR, DX or MR.
        description: SeriesDescription.
        side: 'L' or 'R', from Laterality or ImageLaterality.
        subject: PatientID as in the file's path, or `ANOTHER`; also '' where it is not an id.
        taken: Date and time of the series, otherwise of the study, as text that sorts by time.
        reason: Reason of `dicom_header.read_header` for which the file cannot be read.
        detail: Description of that reason.
    """

    modality: str = ""
    description: str = ""
    side: str = ""
    subject: str = ""
    taken: str = ""
    reason: str = ""
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class HeaderLoader:
    """Loader of headers, whose result does not depend on its attributes.

    Attributes:
        cache: Folder of the caches, one file per study folder; None: headers are not cached.
        workers: Number of processes.
        file_timeout: Time limit per file, seconds.
    """

    cache: pathlib.Path | None = None
    workers: int = 1
    file_timeout: float = 120

    def read(self, root: pathlib.Path, paths: Sequence[str]) -> dict[str, Header]:
        """Read the headers of files from the cache, or otherwise from the files.

        A cached header is valid as long as the file's size and modification time are unchanged.
        Unreadable files are not cached, so that a mended disk or permission takes effect at once. A
        killed process leaves what it has read in the cache.

        Args:
            root: Root folder of the study.
            paths: Paths of the files relative to `root`.

        Returns:
            Headers by path, in the order of `paths`.
        """
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(_open_cache(self.cache, root)) if self.cache else None
            known = _load_cache(file) if file else {}
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
                    _append(file, ((path, stamps[path], fresh[path]) for path in chunk))
                bar.update(len(chunk))
        return {path: fresh[path] if path in fresh else known[path][1] for path in paths}


DEFAULT_LOADER = HeaderLoader()


def _read_all(
    root: pathlib.Path, paths: list[str], workers: int, seconds: float
) -> Iterator[tuple[list[str], list[Header]]]:
    chunks = [list(chunk) for chunk in _batched(paths)]
    jobs = [functools.partial(_read_chunk, root, chunk) for chunk in chunks]
    # Starting a process costs as much as reading hundreds of headers.
    workers = max(1, min(workers, len(chunks) // 2))
    with contextlib.closing(pool.run_in_order(jobs, workers, seconds)) as results:
        for chunk, result in zip(chunks, results):
            if isinstance(result, pool.Failure):
                result = _one_by_one(root, chunk, seconds)
            yield chunk, result


def _one_by_one(root: pathlib.Path, paths: list[str], seconds: float) -> list[Header]:
    """Read the headers of a chunk with a file that takes too long or crashes the process."""
    jobs = [functools.partial(_read_chunk, root, [path]) for path in paths]
    return [
        Header(reason=result.reason, detail=result.detail)
        if isinstance(result, pool.Failure)
        else result[0]
        for result in pool.run_in_order(jobs, 1, seconds)
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
        header = dicom_header.read_header(root / path, KEYWORDS)
        modality, description, laterality, of_image, subject, *times = (
            " ".join(str(dicom_header.value(header, keyword) or "").split()) for keyword in KEYWORDS
        )
    except UnusableKnee as error:
        return Header(reason=error.reason, detail=error.detail)
    study_date, study_time, series_date, series_time = times
    side = (laterality or of_image).upper()
    return Header(
        # The element may hold anything, even a name.
        modality if re.fullmatch("[A-Z]{2}", modality) else "",
        description,
        side if side in ("L", "R") else "",
        _in_path(subject, path),
        f"{series_date or study_date} {series_time or study_time}".strip(),
    )


def _in_path(subject: str, path: str) -> str:
    """Return the id in a PatientID if the path has it, `ANOTHER` if not, '' if there is none."""
    words = re.findall(r"[A-Z0-9]+", path.upper())
    ids = [each for word in words for each in dicom.ids_like(word, subject)]
    return next((each for each in ids if each in words), ANOTHER if ids else "")


def _stamp(path: pathlib.Path) -> tuple[int, int]:
    """Return the size and modification time of a file, or -1 for both if it cannot be found."""
    try:
        status = os.stat(archives.on_disk(path))
    except OSError:
        # Reported when the file is opened.
        return -1, -1
    return status.st_size, status.st_mtime_ns


@contextlib.contextmanager
def _open_cache(cache: pathlib.Path, root: pathlib.Path) -> Iterator[TextIO]:
    """Open the cache of a study's folder, locked against other processes."""
    cache.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    with (
        locked(cache / f"{name}.lock", wait=True),
        (cache / f"{name}.jsonl").open("a+", encoding="utf-8") as file,
    ):
        yield file


def _load_cache(file: TextIO) -> dict[str, tuple[tuple[int, int], Header]]:
    """Return the stamps and headers of a cache by path; later lines replace earlier ones."""
    file.seek(0)
    first, *lines = file.read().split("\n")
    if first != _first_line():
        lines = []
    known = {}
    intact = []
    for line in lines:
        # A killed process may leave a torn last line.
        with contextlib.suppress(ValueError, TypeError):
            path, size, changed, *values = json.loads(line)
            known[path] = ((size, changed), Header(*values))
            intact.append(line)
    if first != _first_line() or [*intact, ""] != lines:
        file.seek(0)
        file.truncate()
        file.writelines(f"{line}\n" for line in [_first_line(), *intact])
        file.flush()
    return known


def _first_line() -> str:
    names = [field.name for field in dataclasses.fields(Header)]
    return json.dumps(["knee_jax headers", _VERSION, pydicom.__version__, *names])


def _append(file: TextIO, read: Iterator[tuple[str, tuple[int, int], Header]]) -> None:
    rows = ([path, *stamp, *dataclasses.astuple(h)] for path, stamp, h in read if not h.reason)
    file.write("".join(f"{json.dumps(row)}\n" for row in rows))
    file.flush()
