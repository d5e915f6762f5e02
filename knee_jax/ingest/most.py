"""A study tree laid out as MOST's → its inventory.

tables/ holds `mostv01235xray`, a row a subject with columns such as V0XRKL (visit, leg, grade), and
`MOST_names.csv`, without a header a path a line: its first part less five characters is the MOSTID,
the second character of its second part the visit, its last part but one the view. Only the view
PA10 is read. The films lie under the study's root at these paths. If it is there, `mostoutcomes`
tells which joints had been replaced, and `mostv{visit}enroll` by V{visit}PA of whom a film was
taken. (Facts from the Oulu code bases.)
"""

import collections
import csv
import pathlib
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from knee_jax.errors import UserError
from knee_jax.grades import GRADES, MISSING
from knee_jax.ingest import landmarks, ready_crops
from knee_jax.ingest.account import Dropped
from knee_jax.ingest.inventory import SIDES, UNREAD, Inventory, KneeVisit, Reading, Rules
from knee_jax.ingest.readings import round_grades
from knee_jax.ingest.tables import find_table, identifiers, look_for_table, numbers, read_table

VISITS = {0: 0, 15: 1, 30: 2, 60: 3, 84: 5}
"""Month of a visit → its number in column names and paths."""

TABLE, LIST, VIEW = "mostv01235xray", "MOST_names.csv", "PA10"
OUTCOMES = "mostoutcomes"

_MONTHS = {number: month for month, number in VISITS.items()}
_SUBJECT = re.compile(r"M[A-Z]?[0-9]{2,}")
_UNREADABLE, _NOT_READ = 8, 9
_UNKNOWN_VISIT = -1


class _Path(NamedTuple):
    """What a film's path tells."""

    subject: str
    month: int
    view: str


def take_inventory(root: pathlib.Path, rules: Rules) -> Inventory:
    """Finds films, or ready crops of them, and readings; the study's tables tell no site.

    Args:
        root: the study's folder.
        rules: how the table is read; of its decimals such as 1.9, see `readings.round_grades`.

    Raises:
        UserError: no list or no film of the view PA10 in it, no table, or it lacks a column.
    """
    notes: collections.Counter[str] = collections.Counter()
    if rules.landmarks == "crops":
        films, dropped = ready_crops.find_crops(root, _SUBJECT, VISITS, notes)
    else:
        listed = _read_list(root / "tables", notes)
        films, dropped = _find_films(root, listed, notes)
    months = sorted({month for _, month in films})
    read, unknown = _read_readings(root / "tables", months, rules.rounding, notes)
    read |= _read_replaced(root / "tables", films)
    _compare_enrolment(root / "tables", films, notes)
    return Inventory(films, read, dropped=[*dropped, *unknown], notes=notes)


def _read_list(tables: pathlib.Path, notes: collections.Counter) -> list[str]:
    """Paths of the list, in its order, each once."""
    found = [path for path in tables.glob("*") if path.name.lower() == LIST.lower()]
    if not found:
        raise UserError(f"{tables}: the list {LIST} is missing; write a film's path a line into it")
    with found[0].open(encoding="latin-1", newline="") as file:
        cells = [row[0].strip().replace("\\", "/") for row in csv.reader(file) if row]
    paths = [path for path in cells if path]
    unique = list(dict.fromkeys(paths))
    notes["repeated_lines_of_the_list"] = len(paths) - len(unique)
    return unique


def _parse(path: str) -> _Path:
    """Takes a path apart.

    Raises:
        ValueError: it does not follow the pattern.
    """
    parts = path.split("/")
    if len(parts) < 4:
        raise ValueError("it has fewer than four parts")
    subject = parts[0][:-5].upper()
    if not _SUBJECT.fullmatch(subject):
        raise ValueError(f"{subject!r} (the first part less five characters) is no MOSTID")
    digit = parts[1][1:2]
    if not digit.isdecimal() or int(digit) not in _MONTHS:
        known = ", ".join(map(str, _MONTHS))
        raise ValueError(f"the second character of {parts[1]!r} is none of the visits {known}")
    return _Path(subject, _MONTHS[int(digit)], parts[-2].upper())


def _find_films(
    root: pathlib.Path, listed: list[str], notes: collections.Counter
) -> tuple[dict[tuple[str, int], list[str]], list[Dropped]]:
    """Compares the list with the disk.

    Returns:
        Paths of the films that are in both, by (subject, month) and sorted; and the knees of the
        others: `path_unknown`, `film_missing`, `not_listed`.
    """
    films = collections.defaultdict(list)
    dropped = []
    for path in sorted(listed):
        try:
            subject, month, view = _parse(path)
        except ValueError as error:
            dropped += [
                Dropped("", side, _UNKNOWN_VISIT, path, "path_unknown", str(error))
                for side in SIDES
            ]
            continue
        if view != VIEW:
            notes[f"films_of_view_{view}"] += 1
        elif (root / path).is_file():
            films[subject, month].append(path)
        else:
            detail = f"it is in {LIST}, but not on the disk"
            dropped += [Dropped(subject, s, month, path, "film_missing", detail) for s in SIDES]
    for path in sorted(_on_disk(root) - set(listed)):
        try:
            subject, month, view = _parse(path)
        except ValueError:
            notes["other_files"] += 1
            continue
        if view != VIEW:
            notes["unlisted_films_of_other_views"] += 1
            continue
        detail = f"it is on the disk, but not in {LIST}"
        dropped += [Dropped(subject, s, month, path, "not_listed", detail) for s in SIDES]
    if not films:
        layout = "{MOSTID}_XRAY/V{visit}.../PA10/{film}"
        raise UserError(
            f"{root}: no film of the view {VIEW} is both in tables/{LIST} and on the disk; they "
            f"should lie as {layout}"
        )
    return films, dropped


def _on_disk(root: pathlib.Path) -> set[str]:
    """All files but the tables and the landmarks."""
    files = (path for path in root.rglob("*") if path.is_file())
    relative = (path.relative_to(root).as_posix() for path in files)
    marks = tuple(landmarks.SUFFIXES.values())
    return {
        path for path in relative if not path.startswith("tables/") and not path.endswith(marks)
    }


def _read_readings(
    tables: pathlib.Path, months: list[int], rounding: str, notes: collections.Counter
) -> tuple[dict[KneeVisit, Reading], list[Dropped]]:
    """Readings of the visits that have films, and rows that are of nobody.

    Code 8 as KL is a prosthesis or a film that could not be read; code 8 of another grade, 9 and
    blank are missing. A knee of which all is missing has no reading.

    Args:
        tables: folder of the table.
        months: visits that have films.
        rounding: see `readings.round_grades`.
        notes: where `duplicate_readings` (further rows of a subject), `grades_out_of_range` and
            `readings_of_visits_without_films` are counted.
    """
    path = find_table(tables, TABLE)
    needed = [column for month in months for side in SIDES for column in _columns(month, side)]
    table = read_table(path, ["MOSTID", *needed])
    subjects = identifiers(table["MOSTID"]).str.upper()
    known = subjects.str.fullmatch(_SUBJECT)
    detail = f"a row of {path.name} whose MOSTID is not M and a number"
    dropped = [
        Dropped(subject, side, _UNKNOWN_VISIT, "", "subject_unknown", detail)
        for subject in subjects[~known]
        for side in SIDES
    ]
    repeated = subjects.duplicated() & known
    notes["duplicate_readings"] = int(repeated.sum())
    notes["grades_out_of_range"] = notes["readings_of_visits_without_films"] = 0
    usable = known & ~repeated
    table, subjects = table[usable], subjects[usable]

    read: dict[KneeVisit, Reading] = {}
    for month in VISITS:
        for side in SIDES:
            columns = _columns(month, side)
            if not set(columns) <= set(table.columns):
                continue
            values = np.column_stack([numbers(table[column], path) for column in columns])
            found = _readings(values, rounding, notes)
            of_visit = {
                (subject, side, month): reading
                for subject, reading in zip(subjects, found)
                if reading.unusable or (reading.grades != MISSING).any()
            }
            if month in months:
                read |= of_visit
            else:
                notes["readings_of_visits_without_films"] += len(of_visit)
    return read, dropped


def _read_replaced(
    tables: pathlib.Path, films: Mapping[tuple[str, int], list[str]]
) -> dict[KneeVisit, Reading]:
    """Filmed knees whose joint had been replaced by that visit, as the outcomes tell."""
    if not (path := look_for_table(tables, OUTCOMES)):
        return {}
    columns = {side: f"V99E{side}KRINDEX" for side in SIDES}
    table = read_table(path, ["MOSTID", *columns.values()])
    subjects = identifiers(table["MOSTID"]).str.upper()
    found = {}
    for side, column in columns.items():
        number_of = dict(zip(subjects, numbers(table[column], path)))
        for subject, month in films:
            # The published code takes 0 for none, as it does blanks.
            if 0 < (number := number_of.get(subject, 0)) <= VISITS[month]:
                detail = f"{path.name} tells of its replacement by visit {number:g}"
                found[subject, side, month] = Reading(UNREAD.grades, "replaced", detail)
    return found


def _compare_enrolment(
    tables: pathlib.Path,
    films: Mapping[tuple[str, int], list[str]],
    notes: collections.Counter,
) -> None:
    """Counts films of whom the enrolment has none, and the reverse, of the visits with films."""
    for month in sorted({month for _, month in films}):
        number = VISITS[month]
        if not (path := look_for_table(tables, f"mostv{number}enroll")):
            continue
        table = read_table(path, ["MOSTID", f"V{number}PA"])
        subjects = identifiers(table["MOSTID"]).str.upper()
        taken = set(subjects[numbers(table[f"V{number}PA"], path) == 1])
        filmed = {subject for subject, of in films if of == month}
        notes["films_unknown_to_enrolment"] += len(filmed - taken)
        notes["films_taken_but_not_here"] += len(taken - filmed)


def _columns(month: int, side: str) -> list[str]:
    return [f"V{VISITS[month]}X{side}{grade.upper()}" for grade in GRADES]


def _readings(values: np.ndarray, rounding: str, notes: collections.Counter) -> list[Reading]:
    """Readings of the knees of one visit and side.

    Args:
        values: float [subjects, 7] as in the table, NaN where blank.
        rounding: see `readings.round_grades`.
        notes: where `grades_out_of_range` is counted.
    """
    unreadable = values[:, 0] == _UNREADABLE
    coded = np.isin(values, (_UNREADABLE, _NOT_READ))
    grades, beyond = round_grades(np.where(coded, np.nan, values), rounding)
    notes["grades_out_of_range"] += beyond
    detail = "KL is coded 8: the joint has been replaced, or the film cannot be read"
    return [
        Reading(row, "prosthesis_or_unreadable", detail)
        if lost
        else Reading(row, whole=bool((row != MISSING).all()))
        for row, lost in zip(grades, unreadable)
    ]
