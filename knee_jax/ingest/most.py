"""A study tree laid out as MOST's → its inventory.

tables/ holds `mostv01235xray`, a row a subject with columns such as V0XRKL (visit, leg, grade), and
`MOST_names.csv`, without a header a path a line: its first part less five characters is the MOSTID,
the second character of its second part the visit, its last part but one the view, or a number where
only the header's SeriesDescription has the view. Only the view PA10 is read, of several of a visit
the first by path. The films lie under the study's root at these paths. Without that list all films
under the root count. If it is there, `mostoutcomes` tells which joints had been replaced, and
`mostv{visit}enroll` by V{visit}PA of whom a film was taken. (Facts from the Oulu code bases.)
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
from knee_jax.ingest import landmarks, ready_crops, tree
from knee_jax.ingest.account import Dropped, mask_dates
from knee_jax.ingest.headers import DEFAULT_READER, Reader
from knee_jax.ingest.inventory import (
    SIDES,
    UNREAD,
    Inventory,
    KneeVisit,
    Reading,
    Rules,
    lose_uncertain,
)
from knee_jax.ingest.readings import round_grades
from knee_jax.ingest.tables import (
    BYTE_ORDER_MARK,
    find_table,
    identifiers,
    look_for_table,
    numbers,
    read_table,
)

VISITS = {0: 0, 15: 1, 30: 2, 60: 3, 84: 5}
"""Month of a visit → its number in column names and paths."""

TABLE, LIST, VIEW = "mostv01235xray", "MOST_names.csv", "PA10"
OUTCOMES = "mostoutcomes"

_MONTHS = {number: month for month, number in VISITS.items()}
_SUBJECT = re.compile(r"M[A-Z]?[0-9]{2,}")
_UNREADABLE, _NOT_READ = 8, 9
_UNKNOWN_VISIT = -1


# Of a film's path; another word might be a person's name.
_VIEW = re.compile(r"(PA|AP)\d{0,2}|LAT[LR]?|SKY|FL|FULL")
_WORD = re.compile(r"[^\W\d_]{2,}")
_KNOWN_WORD = re.compile(rf"{_VIEW.pattern}|XRAY|DCM", re.IGNORECASE)


class _Path(NamedTuple):
    """What a film's path tells; the view is '' where it has a number instead."""

    subject: str
    month: int
    view: str


def take_inventory(root: pathlib.Path, rules: Rules, reader: Reader = DEFAULT_READER) -> Inventory:
    """Finds films, or ready crops of them, and readings; the study's tables tell no site.

    Args:
        root: the study's folder.
        rules: how the table is read; of its decimals such as 1.9, see `readings.round_grades`.
        reader: of the headers of films whose path tells no view.

    Raises:
        UserError: no film of the view PA10, no table, or it lacks a column.
    """
    notes: collections.Counter[str] = collections.Counter()
    if rules.landmarks == "crops":
        films, dropped = ready_crops.find_crops(root, _SUBJECT, VISITS, notes)
    else:
        listed = _read_list(root / "tables", notes)
        films, dropped = _find_films(root, listed, reader, notes)
    months = sorted({month for _, month in films})
    read, unknown = _read_readings(root / "tables", months, rules.rounding, notes)
    read |= _read_replaced(root / "tables", films)
    _compare_enrolment(root / "tables", films, notes)
    tell = str if rules.landmarks == "crops" else _tell
    return Inventory(films, read, dropped=[*dropped, *unknown], notes=notes, tell=tell)


def _read_list(tables: pathlib.Path, notes: collections.Counter) -> dict[str, int] | None:
    """Paths of the list → first line of each; None where there is no list, which is counted."""
    found = [path for path in tables.glob("*") if path.name.lower() == LIST.lower()]
    notes["lists_of_films_missing"] = int(not found)
    if not found:
        return None
    with found[0].open(encoding="latin-1", newline="") as file:
        cells = [row[0].strip().replace("\\", "/") if row else "" for row in csv.reader(file)]
    cells[:1] = [cell.removeprefix(BYTE_ORDER_MARK) for cell in cells[:1]]
    first: dict[str, int] = {}
    for line, path in enumerate(cells, 1):
        if path:
            first.setdefault(path, line)
    notes["repeated_lines_of_the_list"] = sum(map(bool, cells)) - len(first)
    # It has no header; a name of a column, should there be one, is no path.
    return {path: line for path, line in first.items() if line > 1 or "/" in path}


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
        raise ValueError("its first part less five characters is no MOSTID")
    digit = parts[1][1:2]
    if not digit.isdecimal() or int(digit) not in _MONTHS:
        known = ", ".join(map(str, _MONTHS))
        raise ValueError(f"the second character of its second part is none of the visits {known}")
    view = parts[-2].upper()
    known = view if _VIEW.fullmatch(view) else "unknown"
    return _Path(subject, _MONTHS[int(digit)], "" if view.isdecimal() else known)


def _tell(path: str) -> str:
    """The path of a subject's film or folder with `*` for dates and words that may be a name.

    Of the study's own folders only the subject's is known for sure.
    """
    first, *rest = path.split("/")
    subject, ending = first[:-5], first[-5:]
    told = [mask_dates(part) for part in (ending, *rest)]
    known = [_WORD.sub(lambda w: w[0] if _KNOWN_WORD.fullmatch(w[0]) else "*", p) for p in told]
    return subject + "/".join(known)


def _find_films(
    root: pathlib.Path, listed: dict[str, int] | None, reader: Reader, notes: collections.Counter
) -> tuple[dict[tuple[str, int], list[str]], list[Dropped]]:
    """Compares the list with the disk.

    Returns:
        Paths of the films that are in both, by (subject, month) and sorted; and the knees of the
        others: `path_unknown`, `film_missing`, `not_listed`, and the reason of a header that cannot
        be read where only it tells the view; and `unreadable_folder`.
    """
    listing = tree.walk(root, lambda folder: folder != "tables")
    notes.update(listing.notes)
    on_disk = _on_disk(listing)
    known: dict[str, _Path] = {}
    dropped = []
    for folder, words in sorted(listing.unreadable.items()):
        subject = folder.split("/")[0][:-5].upper()
        # Not told of another name, which may be a person's.
        source = _tell(folder) if _SUBJECT.fullmatch(subject) else ""
        dropped.append(Dropped("", "", _UNKNOWN_VISIT, source, "unreadable_folder", words))
    wanted = on_disk if listed is None else set(listed)
    for path in sorted(on_disk | wanted):
        try:
            known[path] = _parse(path)
        except ValueError as error:
            if listed is not None and path in wanted:
                # Not quoted: it may hold anything, a name too.
                source, detail = f"tables/{LIST}", f"line {listed[path]}: {error}"
                dropped += [
                    Dropped("", side, _UNKNOWN_VISIT, source, "path_unknown", detail)
                    for side in SIDES
                ]
            else:
                notes["other_files"] += 1
    untold = [path for path, parts in known.items() if not parts.view and path in on_disk]
    headers = reader.read(root, untold) if untold else {}

    films = collections.defaultdict(list)
    uncertain = []
    for path, (subject, month, view) in known.items():
        header = headers.get(path)
        view = view or _view_in(header.description if header else "")
        if header and header.reason and path in wanted:
            # Its view it does not tell; that a knee may be lost with it, the account must.
            row = Dropped(subject, "", month, _tell(path), header.reason, header.detail)
            uncertain.append(row)
        elif view != VIEW:
            name = f"films_of_view_{view}" if path in wanted else "unlisted_films_of_other_views"
            notes[name] += 1
        elif path in wanted and path in on_disk:
            films[subject, month].append(path)
        elif path in wanted:
            detail = f"it is in {LIST}, but not on the disk"
            dropped += [
                Dropped(subject, side, month, _tell(path), "film_missing", detail) for side in SIDES
            ]
        else:
            detail = f"it is on the disk, but not in {LIST}"
            dropped += [
                Dropped(subject, side, month, _tell(path), "not_listed", detail) for side in SIDES
            ]
    if not films:
        layout = "{MOSTID}_XRAY/V{visit}.../PA10/{film}"
        where = "on the disk" if listed is None else f"both in tables/{LIST} and on the disk"
        raise UserError(
            f"{root}: no film of the view {VIEW} is {where}; they should lie as {layout}"
        )
    told = {(subject, side, month) for subject, month in films for side in SIDES}
    told |= {(knee.subject, knee.side, knee.visit) for knee in dropped}
    return films, [*dropped, *lose_uncertain(uncertain, told)]


def _view_in(description: str) -> str:
    """The view that a film's description names, such as PA10."""
    found = re.search(r"PA[ _-]*(05|10|15)", description.upper())
    return f"PA{found[1]}" if found else "unknown"


def _on_disk(listing: tree.Tree) -> set[str]:
    """All files but the tables and the landmarks."""
    marks = tuple(landmarks.SUFFIXES.values())
    return {
        f"{folder}/{name}" if folder else name
        for folder, names in listing.files.items()
        for name in names
        if not name.endswith(marks)
    }


def _read_readings(
    tables: pathlib.Path, months: list[int], rounding: str, notes: collections.Counter
) -> tuple[dict[KneeVisit, Reading], list[Dropped]]:
    """Readings of all visits whose columns are there, and rows that are of nobody.

    Code 8 as KL is a prosthesis or a film that could not be read; code 8 of another grade, 9 and
    blank are missing. A knee of which all is missing has no reading.

    Args:
        tables: folder of the table.
        months: visits that have films, whose columns must be there.
        rounding: see `readings.round_grades`.
        notes: where `duplicate_readings` (further rows of a subject) and `grades_out_of_range` are
            counted.
    """
    path = find_table(tables, TABLE)
    needed = [column for month in months for side in SIDES for column in _columns(month, side)]
    table = read_table(path, ["MOSTID", *needed])
    subjects = identifiers(table["MOSTID"]).str.upper()
    known = subjects.str.fullmatch(_SUBJECT)
    dropped = [
        Dropped("", side, _UNKNOWN_VISIT, f"tables/{path.name}", "subject_unknown", detail)
        for detail in (
            f"row {row + 1}: its MOSTID is not M and a number" for row in subjects[~known].index
        )
        for side in SIDES
    ]
    repeated = subjects.duplicated() & known
    notes["duplicate_readings"] = int(repeated.sum())
    notes["grades_out_of_range"] = 0
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
            read |= {
                (subject, side, month): reading
                for subject, reading in zip(subjects, found)
                if reading.unusable or (reading.grades != MISSING).any()
            }
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
