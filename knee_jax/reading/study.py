"""A reading study: one SQLite file with knees, each reader's order, and every reading.

A reading is on the disk when it is acknowledged. Several readers, and several processes, may use
the file at once; each reader has an order and readings of its own.
"""

import contextlib
import datetime
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from knee_jax import targets
from knee_jax.errors import UserError
from knee_jax.reading.order import blind_order
from knee_jax.targets.kinds import Ordinal

VERSION = 1
"""Version of the file's form."""

_TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE knees (
    id INTEGER PRIMARY KEY, file TEXT NOT NULL, subject TEXT NOT NULL, side TEXT NOT NULL,
    visit INTEGER NOT NULL, picture BLOB NOT NULL, UNIQUE (file, side)
);
CREATE TABLE places (
    reader TEXT NOT NULL, place INTEGER NOT NULL, knee INTEGER NOT NULL REFERENCES knees (id),
    again INTEGER NOT NULL, PRIMARY KEY (reader, place)
);
CREATE TABLE readings (
    reader TEXT NOT NULL, place INTEGER NOT NULL, grade TEXT NOT NULL, value INTEGER NOT NULL,
    at TEXT NOT NULL, PRIMARY KEY (reader, place, grade)
);
"""

_READER = re.compile(r"[^\W_][\w .-]{0,39}")


class Knee(NamedTuple):
    """A knee to be read.

    Attributes:
        file: Path of its file, as it was found.
        subject: Subject, as far as the name of the file tells.
        side: 'L', 'R', or '' if unknown.
        visit: Visit, months.
        picture: The region, a PNG, oriented as a right knee.
    """

    file: str
    subject: str
    side: str
    visit: int
    picture: bytes


class Place(NamedTuple):
    """A place of a reader's list.

    Attributes:
        place: Number of the place, from 0.
        number: Number of places.
        values: What the reader has read there, by grade.
        done: Number of places that are read in full.
    """

    place: int
    number: int
    values: Mapping[str, int]
    done: int


class Study:
    """An opened study.

    Args:
        path: The file.

    Raises:
        UserError: It is no study, or of a newer form.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with self._connected() as base:
                facts = dict(base.execute("SELECT name, value FROM facts"))
        except sqlite3.DatabaseError as error:
            raise UserError(f"{path}: is no reading study, or damaged") from error
        if int(facts["version"]) > VERSION:
            raise UserError(f"{path}: was written by a newer knee_jax; update it")
        self.seed, self.repeats = int(facts["seed"]), float(facts["repeats"])
        self.grades: list[Ordinal] = list(targets.of_kind(facts["grades"].split(","), Ordinal))

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        # Each use has a connection of its own, as threads and processes need.
        with contextlib.closing(sqlite3.connect(self.path, timeout=30)) as base:
            base.execute("PRAGMA foreign_keys = ON")
            base.execute("PRAGMA synchronous = FULL")
            with base:
                yield base

    def number(self) -> int:
        """Return the number of knees."""
        with self._connected() as base:
            (count,) = base.execute("SELECT COUNT(*) FROM knees").fetchone()
        return int(count)

    def readers(self) -> dict[str, tuple[int, int]]:
        """Return of each reader how many places are read in full, and how many there are."""
        with self._connected() as base:
            rows = base.execute(
                "SELECT p.reader, COUNT(*), SUM((SELECT COUNT(*) FROM readings r WHERE "
                "r.reader = p.reader AND r.place = p.place) = ?) FROM places p "
                "GROUP BY p.reader ORDER BY p.reader",
                (len(self.grades),),
            )
            return {reader: (int(done), int(number)) for reader, number, done in rows}

    def join(self, reader: str) -> None:
        """Draw a reader's order, unless the reader has one.

        Raises:
            UserError: The name is no name.
        """
        check_reader(reader)
        order = blind_order(self.number(), self.repeats, self.seed, reader)
        with self._connected() as base:
            base.execute("BEGIN IMMEDIATE")
            if base.execute("SELECT 1 FROM places WHERE reader = ?", (reader,)).fetchone():
                return
            base.executemany(
                "INSERT INTO places VALUES (?, ?, ?, ?)",
                [(reader, at, knee + 1, int(again)) for at, (knee, again) in enumerate(order)],
            )

    def next(self, reader: str) -> int | None:
        """Return the first place that a reader has not read in full, None if all are."""
        with self._connected() as base:
            found = base.execute(
                "SELECT MIN(place) FROM places p WHERE reader = ? AND (SELECT COUNT(*) FROM "
                "readings r WHERE r.reader = p.reader AND r.place = p.place) < ?",
                (reader, len(self.grades)),
            ).fetchone()[0]
        return None if found is None else int(found)

    def place(self, reader: str, place: int) -> Place:
        """Return a place of a reader's list.

        Raises:
            UserError: There is no such place.
        """
        done, number = self.readers().get(reader, (0, 0))
        if not 0 <= place < number:
            raise UserError(f"{reader or 'nobody'} has no place {place}")
        with self._connected() as base:
            values = base.execute(
                "SELECT grade, value FROM readings WHERE reader = ? AND place = ?", (reader, place)
            )
            return Place(place, number, dict(values), done)

    def picture(self, reader: str, place: int) -> bytes:
        """Return the picture at a place, a PNG.

        Raises:
            UserError: There is no such place.
        """
        with self._connected() as base:
            found = base.execute(
                "SELECT picture FROM knees JOIN places ON knee = id WHERE reader = ? AND place = ?",
                (reader, place),
            ).fetchone()
        if found is None:
            raise UserError(f"{reader or 'nobody'} has no place {place}")
        return bytes(found[0])

    def read(self, reader: str, place: int, grade: str, value: int) -> None:
        """Store a reading, on the disk when this returns; a second one replaces the first.

        Raises:
            UserError: The study has no such grade, place or value.
        """
        self.place(reader, place)
        with self._connected() as base:
            base.execute(
                "INSERT OR REPLACE INTO readings VALUES (?, ?, ?, ?, ?)",
                (reader, place, *self._checked(grade, value), _now()),
            )

    def _checked(self, grade: str, value: int) -> tuple[str, int]:
        target = next((each for each in self.grades if each.name == grade), None)
        if target is None:
            names = ", ".join(each.name for each in self.grades)
            raise UserError(f"{grade}: the study reads {names}")
        if not 0 <= value < target.num_outputs:
            raise UserError(f"{grade} = {value}: is from 0 to {target.num_outputs - 1}")
        return grade, value

    def knees(self) -> pd.DataFrame:
        """Return the knees without pictures: `id, file, subject, side, visit`."""
        with self._connected() as base:
            return pd.read_sql_query("SELECT id, file, subject, side, visit FROM knees", base)

    def pictures(self, knees: Sequence[int]) -> dict[int, bytes]:
        """Return the pictures of some knees, by their ids."""
        with self._connected() as base:
            rows = (
                base.execute("SELECT id, picture FROM knees WHERE id = ?", (int(knee),)).fetchone()
                for knee in knees
            )
            return {int(row[0]): bytes(row[1]) for row in rows}

    def readings(self) -> pd.DataFrame:
        """Return every reading, in the order of knees, readers and places.

        Columns: `file, subject, side, visit, knee` (its id), `reader, place, again` (whether the
        reader had read the knee before), `grade, value, at` (time in UTC).
        """
        with self._connected() as base:
            found = pd.read_sql_query(
                "SELECT file, subject, side, visit, id AS knee, r.reader, r.place, again, grade, "
                "value, at FROM readings r JOIN places p ON p.reader = r.reader AND "
                "p.place = r.place JOIN knees ON knee = id ORDER BY id, r.reader, r.place, grade",
                base,
            )
        return found.astype({"again": bool})

    def take(self, table: pd.DataFrame) -> tuple[int, int]:
        """Add readings of another copy of the study, of readers that this one does not have.

        Args:
            table: Result of `readings`, as its CSV says.

        Returns:
            Number of readings that were added, and of those left out since their reader reads here.

        Raises:
            UserError: A knee, grade or value is not of this study.
        """
        missing = [name for name in _COLUMNS if name not in table.columns]
        if missing:
            raise UserError(f"the table of readings has no column {', '.join(missing)}")
        ids = {(k["file"], k["side"]): int(k["id"]) for k in self.knees().to_dict("records")}
        here, known = set(self.readers()), table["reader"].isin(set(self.readers()))
        rows, places = [], {}
        for each in table[~known].to_dict("records"):
            check_reader(str(each["reader"]))
            knee = ids.get((str(each["file"]), str(each["side"] or "")))
            if knee is None:
                raise UserError(f"{each['file']} {each['side']}: is no knee of {self.path}")
            reader = str(each["reader"])
            try:
                place, value = int(each["place"]), int(each["value"])
            except ValueError as error:
                raise UserError(f"readings of {reader}: place or value is no number") from error
            again = str(each["again"]).lower() in ("true", "1")
            places[reader, place] = (reader, place, knee, int(again))
            grade = self._checked(str(each["grade"]), value)
            rows.append((reader, place, *grade, str(each["at"])))
        assert not here & {reader for reader, _ in places}
        with self._connected() as base:
            base.executemany("INSERT INTO places VALUES (?, ?, ?, ?)", list(places.values()))
            base.executemany("INSERT INTO readings VALUES (?, ?, ?, ?, ?)", rows)
        return len(rows), int(known.sum())


_COLUMNS = ("file", "side", "reader", "place", "again", "grade", "value", "at")


def create(
    path: Path, knees: Iterable[Knee], grades: Sequence[str], repeats: float, seed: int
) -> Study:
    """Create a study, all or nothing.

    Args:
        path: File to write.
        knees: Knees to be read, at least one.
        grades: Names of the grades that are read of each.
        repeats: Share of the knees that each reader reads twice, 0 to 1.
        seed: Random seed of the readers' orders.

    Raises:
        UserError: There is a file, no knee, or a grade is none.
    """
    if path.exists():
        raise UserError(f"{path}: is there already; name another file")
    known = [target.name for target in targets.of_kind(targets.all_targets(), Ordinal)]
    if wrong := [name for name in grades if name not in known]:
        raise UserError(f"{wrong[0]}: is no grade; choose from {', '.join(known)}")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}; make it first")
    unfinished = path.with_name(f".unfinished_{path.name}")
    unfinished.unlink(missing_ok=True)
    facts: dict[str, Any] = {
        "version": VERSION,
        "seed": seed,
        "repeats": repeats,
        "grades": ",".join(grades),
    }
    try:
        with contextlib.closing(sqlite3.connect(unfinished)) as base, base:
            base.executescript(_TABLES)
            base.executemany(
                "INSERT INTO facts VALUES (?, ?)", [(n, str(v)) for n, v in facts.items()]
            )
            number = 0
            for knee in knees:
                base.execute(
                    "INSERT INTO knees (file, subject, side, visit, picture) "
                    "VALUES (?, ?, ?, ?, ?)",
                    knee,
                )
                number += 1
        if not number:
            raise UserError("no knee is left to be read")
        unfinished.rename(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return Study(path)


def check_reader(name: str) -> None:
    """Raise unless a reader's name is 1 to 40 letters, digits, blanks, dots or dashes.

    Raises:
        UserError: It is not.
    """
    if not _READER.fullmatch(name):
        raise UserError("a reader's name has 1 to 40 letters, digits, blanks, dots or dashes")


def subject_of(file: str) -> str:
    """Return the subject that a file's name tells: its stem, without a side after a digit."""
    stem = Path(file).stem
    found = re.fullmatch(r"(.*\d)[ _-]?[LR]", stem, re.IGNORECASE)
    return found[1] if found else stem


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
