"""Inventory of a study tree laid out as MOST's.

tables/ holds `mostv01235xray`, with one row per subject and columns such as V0XRKL (visit, leg,
grade), and `MOST_names.csv`, with one path per line and no header. The first part of a path without
its last five characters is the MOSTID, the second character of its second part the visit, and its
last part but one the view, or a number if only the SeriesDescription in the header has the view.
Only the view PA10 is read; of several at a visit, the first by path. The films lie under the
study's root at these paths. Without the list all films under the root count. Two tables are
optional: `mostoutcomes` lists the replaced joints, and `mostv{visit}enroll` has in V{visit}PA
whether a film was taken. (Facts from the Oulu code bases.)
"""

import collections
import pathlib
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from knee_jax import foreign_tables
from knee_jax.errors import UserError
from knee_jax.ingest import archives, crops, landmarks, tree
from knee_jax.ingest.headers import DEFAULT_LOADER, HeaderLoader
from knee_jax.ingest.inventory import (
    SIDES,
    UNREAD,
    Inventory,
    KneeVisit,
    Reading,
    Rules,
    exclude_uncertain,
)
from knee_jax.ingest.readings import round_grades
from knee_jax.ingest.report import Exclusion, mask_dates
from knee_jax.ingest.tables import (
    find_table,
    identifiers,
    look_for_table,
    numbers,
    read_table,
)
from knee_jax.targets.grades import GRADES, MISSING

VISITS = {0: 0, 15: 1, 30: 2, 60: 3, 84: 5}
"""Number of each visit in column names and paths, by month."""

TABLE, LIST, VIEW = "mostv01235xray", "MOST_names.csv", "PA10"
OUTCOMES = "mostoutcomes"

_MONTHS = {number: month for month, number in VISITS.items()}
_SUBJECT = re.compile(r"M[A-Z]?[0-9]{2,}")
_UNREADABLE, _NOT_READ = 8, 9
_UNKNOWN_VISIT = -1


# Known words of a film's path; any other word might be a person's name.
_VIEW = re.compile(r"(PA|AP)\d{0,2}|LAT[LR]?|SKY|FL|FULL")
_WORD = re.compile(r"[^\W\d_]{2,}")
_KNOWN_WORD = re.compile(rf"{_VIEW.pattern}|XRAY|DCM", re.IGNORECASE)


class _Path(NamedTuple):
    """Parts of a film's path; the view is '' if the path has a number instead."""

    subject: str
    month: int
    view: str


def take_inventory(
    root: pathlib.Path, rules: Rules, loader: HeaderLoader = DEFAULT_LOADER
) -> Inventory:
    """Find films, or ready crops of them, and readings; the study's tables have no sites.

    Args:
        root: Root folder of the study.
        rules: Rules for the table; see `readings.round_grades` for decimals such as 1.9.
        loader: Loader of the headers of films whose path has no view.

    Raises:
        UserError: There is no film of the view PA10, or no table, or it lacks a column.
    """
    notes: collections.Counter[str] = collections.Counter()
    if rules.landmarks == "crops":
        films, exclusions = crops.find_crops_of_study(root, _SUBJECT, VISITS, notes)
    else:
        listed = _read_list(root / "tables", notes)
        films, exclusions = _find_films(root, listed, loader, notes)
    months = sorted({month for _, month in films})
    read, unknown = _read_readings(root / "tables", months, rules.rounding, notes)
    read |= _read_replaced(root / "tables", films)
    _compare_enrolment(root / "tables", films, notes)
    mask_path = str if rules.landmarks == "crops" else _mask_names
    return Inventory(
        films, read, exclusions=[*exclusions, *unknown], notes=notes, mask_path=mask_path
    )


def _read_list(tables: pathlib.Path, notes: collections.Counter) -> dict[str, int] | None:
    """Read the list as paths with their first lines; return None, and count it, without a list."""
    names = archives.names(tables) if archives.is_folder(tables) else []
    found = [tables / name for name in names if name.lower() == LIST.lower()]
    notes["lists_of_films_missing"] = int(not found)
    if not found:
        return None
    rows = foreign_tables.read_rows(found[0], fallback="latin-1", data=archives.read(found[0]))
    cells = {line: row[0].strip().replace("\\", "/") for line, row in rows}
    first: dict[str, int] = {}
    for line, path in cells.items():
        if path:
            first.setdefault(path, line)
    notes["repeated_lines_of_the_list"] = sum(map(bool, cells.values())) - len(first)
    # The list has no header; if one was added, it is not a path.
    return {path: line for path, line in first.items() if line > 1 or "/" in path}


def _parse(path: str) -> _Path:
    """Parse the path of a film.

    Raises:
        ValueError: The path does not follow the pattern.
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


def _mask_names(path: str) -> str:
    """Replace dates, and words that may be names, in the path of a film or folder by `*`.

    Of the study's own folders, only the form of the subject's folder is certain.
    """
    first, *rest = path.split("/")
    subject, ending = first[:-5], first[-5:]
    parts = [mask_dates(part) for part in (ending, *rest)]
    masked = [_WORD.sub(lambda w: w[0] if _KNOWN_WORD.fullmatch(w[0]) else "*", p) for p in parts]
    return subject + "/".join(masked)


def _find_films(
    root: pathlib.Path,
    listed: dict[str, int] | None,
    loader: HeaderLoader,
    notes: collections.Counter,
) -> tuple[dict[tuple[str, int], list[str]], list[Exclusion]]:
    """Compare the list with the disk.

    Returns:
        Sorted paths of the films that are in both, by (subject, month); and the knees of the
        others: `path_unknown`, `film_missing`, `not_listed`, `unreadable_folder`, and the reason of
        an unreadable header if only the header has the view.
    """
    listing = tree.walk(root, lambda folder: folder != "tables")
    notes.update(listing.notes)
    on_disk = _on_disk(listing)
    known: dict[str, _Path] = {}
    exclusions = []
    for folder, words in sorted(listing.unreadable.items()):
        subject = folder.split("/")[0][:-5].upper()
        # Another name is not reported, since it may be a person's.
        source = _mask_names(folder) if _SUBJECT.fullmatch(subject) else ""
        exclusions.append(Exclusion("", "", _UNKNOWN_VISIT, source, "unreadable_folder", words))
    wanted = on_disk if listed is None else set(listed)
    for path in sorted(on_disk | wanted):
        try:
            known[path] = _parse(path)
        except ValueError as error:
            if listed is not None and path in wanted:
                # The line is not quoted: it may hold anything, even a name.
                source, detail = f"tables/{LIST}", f"line {listed[path]}: {error}"
                exclusions += [
                    Exclusion("", side, _UNKNOWN_VISIT, source, "path_unknown", detail)
                    for side in SIDES
                ]
            else:
                notes["other_files"] += 1
    without_view = [path for path, parts in known.items() if not parts.view and path in on_disk]
    headers = loader.read(root, without_view) if without_view else {}

    films = collections.defaultdict(list)
    uncertain = []
    for path, (subject, month, view) in known.items():
        header = headers.get(path)
        view = view or _view_in(header.description if header else "")
        if header and header.reason and path in wanted:
            # Its view is unknown, but the report must list the knees that may be lost with it.
            row = Exclusion(subject, "", month, _mask_names(path), header.reason, header.detail)
            uncertain.append(row)
        elif view != VIEW:
            name = f"films_of_view_{view}" if path in wanted else "unlisted_films_of_other_views"
            notes[name] += 1
        elif path in wanted and path in on_disk:
            films[subject, month].append(path)
        elif path in wanted:
            detail = f"it is in {LIST}, but not on the disk"
            exclusions += [
                Exclusion(subject, side, month, _mask_names(path), "film_missing", detail)
                for side in SIDES
            ]
        else:
            detail = f"it is on the disk, but not in {LIST}"
            exclusions += [
                Exclusion(subject, side, month, _mask_names(path), "not_listed", detail)
                for side in SIDES
            ]
    if not films:
        layout = "{MOSTID}_XRAY/V{visit}.../PA10/{film}"
        where = "on the disk" if listed is None else f"both in tables/{LIST} and on the disk"
        raise UserError(
            f"{root}: no film of the view {VIEW} is {where}; they should lie as {layout}"
        )
    covered = {(subject, side, month) for subject, month in films for side in SIDES}
    covered |= {(knee.subject, knee.side, knee.visit) for knee in exclusions}
    return films, [*exclusions, *exclude_uncertain(uncertain, covered)]


def _view_in(description: str) -> str:
    """Return the view in a film's description, such as PA10."""
    found = re.search(r"PA[ _-]*(05|10|15)", description.upper())
    return f"PA{found[1]}" if found else "unknown"


def _on_disk(listing: tree.Tree) -> set[str]:
    """Return all files except the tables and the landmarks."""
    suffixes = tuple(landmarks.SUFFIXES.values())
    return {
        f"{folder}/{name}" if folder else name
        for folder, names in listing.files.items()
        for name in names
        if not name.endswith(suffixes)
    }


def _read_readings(
    tables: pathlib.Path, months: list[int], rounding: str, notes: collections.Counter
) -> tuple[dict[KneeVisit, Reading], list[Exclusion]]:
    """Read the grades of all visits that have columns; also return rows of unknown subjects.

    Code 8 as KL is a prosthesis or a film that could not be read; code 8 of another grade, 9 and
    blank are missing. A knee without any grade has no reading.

    Args:
        tables: Folder of the table.
        months: Months of the visits with films, whose columns must be present.
        rounding: Rule of rounding; see `readings.round_grades`.
        notes: Counter of `duplicate_readings` (further rows of a subject) and
            `grades_out_of_range`, updated in place.
    """
    path = find_table(tables, TABLE)
    needed = [column for month in months for side in SIDES for column in _columns(month, side)]
    table = read_table(path, ["MOSTID", *needed])
    subjects = identifiers(table["MOSTID"]).str.upper()
    known = subjects.str.fullmatch(_SUBJECT)
    exclusions = [
        Exclusion("", side, _UNKNOWN_VISIT, f"tables/{path.name}", "subject_unknown", detail)
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
    return read, exclusions


def _read_replaced(
    tables: pathlib.Path, films: Mapping[tuple[str, int], list[str]]
) -> dict[KneeVisit, Reading]:
    """Find, from the outcomes, the filmed knees whose joint had been replaced by that visit."""
    if not (path := look_for_table(tables, OUTCOMES)):
        return {}
    columns = {side: f"V99E{side}KRINDEX" for side in SIDES}
    table = read_table(path, ["MOSTID", *columns.values()])
    subjects = identifiers(table["MOSTID"]).str.upper()
    found = {}
    for side, column in columns.items():
        number_of = dict(zip(subjects, numbers(table[column], path)))
        for subject, month in films:
            # In the published code both 0 and a blank mean none.
            if 0 < (number := number_of.get(subject, 0)) <= VISITS[month]:
                detail = f"{path.name} tells of its replacement by visit {number:g}"
                found[subject, side, month] = Reading(UNREAD.grades, "replaced", detail)
    return found


def _compare_enrolment(
    tables: pathlib.Path,
    films: Mapping[tuple[str, int], list[str]],
    notes: collections.Counter,
) -> None:
    """Count films missing from the enrolment tables, and the reverse, for visits with films."""
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
    """Make the readings of the knees of one visit and side.

    Args:
        values: Values of the table, float [subjects, 7], NaN where blank.
        rounding: Rule of rounding; see `readings.round_grades`.
        notes: Counter of `grades_out_of_range`, updated in place.
    """
    unreadable = values[:, 0] == _UNREADABLE
    coded = np.isin(values, (_UNREADABLE, _NOT_READ))
    grades, beyond = round_grades(np.where(coded, np.nan, values), rounding)
    notes["grades_out_of_range"] += beyond
    detail = "KL is coded 8: the joint has been replaced, or the film cannot be read"
    return [
        Reading(row, "prosthesis_or_unreadable", detail)
        if lost
        else Reading(row, fully_read=bool((row != MISSING).all()))
        for row, lost in zip(grades, unreadable)
    ]
