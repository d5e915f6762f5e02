"""Folder of graded knees, written row by row so that a stopped command goes on.

It holds

    settings.json     models, and how files were read
    knees.jsonl       one line per file, as it was finished: its knees, or why there are none
    predictions.csv   one row per knee or refused file, in the order of the files
    knees/*.json      one file per graded knee
    pictures/*.png    the region that was read, landmarks, and where the evidence lay
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import knee_jax
from knee_jax.errors import UserError
from knee_jax.files import write_json, write_text
from knee_jax.inference import locate
from knee_jax.inference.grade import KNEES, PICTURES, Read, Row, name_of, table_of
from knee_jax.inference.predictor import Predictor
from knee_jax.ingest import archives
from knee_jax.ingest.knee_files import Reading, landmark_files
from knee_jax.ingest.sources import Source

SETTINGS, LINES, TABLE = "settings.json", "knees.jsonl", "predictions.csv"


class Results:
    """Folder of results, to which files are added; a second command with the same settings goes on.

    Args:
        out: Folder; made if it is missing.
        settings: What predictions depend on.
        part: This part and the number of parts of a job array.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], part: tuple[int, int] = (1, 1)):
        self.out, self.part = out, part
        folder_of_landmarks = settings.get("reading", {}).get("landmarks")
        self._landmarks = Path(folder_of_landmarks) if folder_of_landmarks else None
        if out.exists() and not out.is_dir():
            raise UserError(f"--out={out}: is a file; name a folder")
        if out.is_dir() and any(out.iterdir()) and not (out / SETTINGS).is_file():
            raise UserError(f"--out={out}: holds something else; name a new folder")
        for folder in (out, out / KNEES, out / PICTURES):
            folder.mkdir(parents=True, exist_ok=True)
        saved = out / SETTINGS
        if saved.is_file() and _read_json(saved) != dict(settings):
            raise UserError(
                f"--out={out}: holds results of other models, flags or versions; name another "
                "folder"
            )
        write_json(saved, dict(settings))
        self.done = finished(self.lines)
        if self.lines.is_file():
            # Without what was torn, so that further lines begin on their own.
            write_text(self.lines, "".join(f"{json.dumps(e)}\n" for e in self.done.values()))

    @property
    def lines(self) -> Path:
        """File of the finished lines of this part."""
        return lines_of(self.out, *self.part)

    def remaining(self, sources: Sequence[Source]) -> list[Source]:
        """Return the files that are not finished, or have changed since."""
        return [source for source in sources if not self._is_current(source, self.done)]

    def _is_current(self, source: Source, entries: Mapping[str, dict[str, Any]]) -> bool:
        """Return whether a file is finished, and has not changed since."""
        return entries.get(source.name, {}).get("stamp") == stamp(source, self._landmarks)

    def add(self, graded: Iterable[tuple[Read, list[Row]]]) -> Iterator[list[Row]]:
        """Append the rows of each file as they come, and pass them on."""
        with self.lines.open("a", encoding="utf-8") as file:
            for read, rows in graded:
                entry = {
                    "file": read.source.name,
                    "stamp": stamp(read.source, self._landmarks),
                    "rows": rows,
                }
                file.write(json.dumps(entry) + "\n")
                file.flush()
                self.done[read.source.name] = entry
                yield rows

    def write_table(self, sources: Sequence[Source]) -> pd.DataFrame | None:
        """Write the table of all parts, if every one is finished, in the order of the files."""
        number = self.part[1]
        entries = dict(self.done)
        for index in range(1, number + 1):
            if index != self.part[0]:
                # Only read: that part may be at work.
                entries |= finished(lines_of(self.out, index, number))
        if not all(self._is_current(source, entries) for source in sources):
            return None
        rows = [row for source in sources for row in entries[source.name]["rows"]]
        table = table_of(rows)
        write_text(self.out / TABLE, table.to_csv(index=False))
        return table


def lines_of(out: Path, index: int, number: int) -> Path:
    """Return the file of the finished lines of a part of a job array."""
    return out / (LINES if number == 1 else f"knees-{index}-of-{number}.jsonl")


def finished(lines: Path) -> dict[str, dict[str, Any]]:
    """Read the finished lines by file; what is torn or damaged is left out."""
    found: dict[str, dict[str, Any]] = {}
    if not lines.is_file():
        return found
    for line in lines.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            if isinstance(entry["stamp"], list) and isinstance(entry["rows"], list):
                found[str(entry["file"])] = entry
        except (ValueError, KeyError, TypeError):
            continue
    return found


def stamp(source: Source, landmark_folder: Path | None = None) -> list[int]:
    """Return what tells that a file, or a landmark file of it, is another than before.

    It is size, time of change and number of each, or of the archive that it lies in.

    Args:
        source: File.
        landmark_folder: Folder of landmark files; None: they lie beside the films.
    """
    found = []
    for path in (source.path, *landmark_files(source, landmark_folder)):
        try:
            status = archives.on_disk(path).stat()
            found += [status.st_size, status.st_mtime_ns, status.st_ino]
        except OSError:
            found += [0, 0, 0]
    return found


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None


def settings_of(predictor: Predictor, reading: Reading) -> dict[str, Any]:
    """Return what predictions depend on, as plain values."""
    values = dataclasses.asdict(reading)
    values["landmarks"] = str(reading.landmarks) if reading.landmarks else ""
    localiser = json.loads(json.dumps(locate.shipped().facts)) if reading.localise else {}
    return {
        "localiser": localiser,
        "model": predictor.name,
        "facts": json.loads(json.dumps(dict(predictor.facts))),
        "knee_jax": knee_jax.__version__,
        "reading": values,
    }


def pictures_of(table: pd.DataFrame, out: Path) -> dict[int, Path]:
    """Return the picture of each graded row of a table, by its place."""
    found = {}
    for place, (file, side, status) in enumerate(
        zip(table["file"], table["side"], table["status"], strict=True)
    ):
        path = out / PICTURES / f"{name_of(file, side)}.png"
        if status == "graded" and path.is_file():
            found[place] = path
    return found
