"""A study tree laid out as OAI's → its films, its MR series, its inventory.

{month}m/{release}/{subject}/{date}/{barcode}/ is a folder of one film, 001, or of the slices of an
MR series; its header tells which one (`headers`), or a table that the user has (`contents`).
tables/ holds the readings of every visit (`readings`), the enrollees and, if a user has put them
there, what else is known of them (`enrolment`) and the outcomes (`progression`).

The films of interest are PA views of the flexed knees, of both or of one ("Bilateral PA Fixed
Flexion Knee", "PA Fixed Flexion Right Knee"). Of several of one visit, and of several series of one
knee, the last one taken counts, by date and time and then by path: a second one was taken where the
first had failed. A film of both knees counts before those of one.
"""

import collections
import dataclasses
import math
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from knee_jax.errors import UserError
from knee_jax.grades import MISSING
from knee_jax.ingest import (
    contents,
    enrolment,
    landmarks,
    progression,
    readings,
    ready_crops,
    tree,
)
from knee_jax.ingest.account import Dropped
from knee_jax.ingest.headers import DEFAULT_READER, Header, Reader
from knee_jax.ingest.inventory import SIDES, UNREAD, Inventory, KneeVisit, Reading, Rules
from knee_jax.ingest.tables import look_for_table

LAYOUT = "{month}m/{release}/{subject}/{date}/{barcode}/"

NOT_ON_DISK = "not_on_disk"
CONTRADICTS = "its header names another subject than its folder"

SERIES = {"SAG_3D_DESS_LEFT": "L", "SAG_3D_DESS_RIGHT": "R"}
"""SeriesDescription of the MR series that are read → side."""

_MONTH = re.compile(r"(\d\d)m")
_DEPTH = LAYOUT.count("/")
_IMAGE = re.compile(r"\d+(\.dcm)?", re.IGNORECASE)
_MARKS = tuple(landmarks.SUFFIXES.values())
_ELSEWHERE = -1
# What a description may say in an account; other words of it might name somebody.
_VIEWS = re.compile(
    "ankle|ap|bilateral|chest|elbow|foot|full|hands?|hip|knees?|lateral|left|limb|lumbar|oblique|pa|"
    "patella|pelvis|right|shoulder|skyline|spine|standing|wrist"
)
_SUBJECT = re.compile(r"\d{7}")


@dataclasses.dataclass(frozen=True)
class Image:
    """One film, or one MR series.

    Attributes:
        source: path of the film or of the series' folder, relative to the study's root.
        header: of the film, or of the series' first file that can be read.
        is_series: whether it is an MR series.
    """

    source: str
    header: Header
    is_series: bool

    @property
    def subject(self) -> str:
        """As the folder says."""
        return self.source.split("/")[2]

    @property
    def month(self) -> int:
        """Since baseline."""
        return _month(self.source)

    def contradicts(self) -> bool:
        """Whether its header names another subject than its folder."""
        return self.header.subject not in ("", self.subject.upper())

    def dropped(self, sides: Iterable[str], reason: str, detail: str) -> list[Dropped]:
        """Its knees as rows of the quarantine."""
        return [
            Dropped(self.subject, side, self.month, self.source, reason, detail) for side in sides
        ]


def take_inventory(root: pathlib.Path, rules: Rules, reader: Reader = DEFAULT_READER) -> Inventory:
    """Finds films, or ready crops of them, readings and sites.

    Args:
        root: the study's folder.
        rules: how tables and files are read.
        reader: of headers.

    Raises:
        UserError: no films, a visit with films but without its table, or a table lacks a column.
    """
    if rules.landmarks == "crops":
        notes: collections.Counter[str] = collections.Counter()
        films, dropped = ready_crops.find_crops(root, _SUBJECT, range(100), notes)
        single_films: dict[KneeVisit, list[str]] = {}
    else:
        films, single_films, dropped, notes = _find_films(root, rules, reader)
    tables = root / "tables"
    sites = enrolment.read_sites(tables)
    filmed = {(subject, side, month) for subject, month in films for side in SIDES}
    filmed |= single_films.keys()
    # Nobody read the films of months 18 and 30; they are kept, and can be learnt from unlabelled.
    notes["films_of_visits_without_readings"] = sum(
        month not in readings.VISITS
        for _, month in {(subject, month) for subject, _, month in filmed}
    )
    read, counts = readings.read_readings(tables, sorted({month for *_, month in filmed}), rules)
    read |= _read_replaced(tables, filmed, read)
    notes.update(counts)
    return Inventory(films, read, sites, dropped, notes, single_films)


def _find_films(
    root: pathlib.Path, rules: Rules, reader: Reader
) -> tuple[
    dict[tuple[str, int], list[str]],
    dict[KneeVisit, list[str]],
    list[Dropped],
    collections.Counter[str],
]:
    """Films of both knees, films of one, what is lost on the way, and counts."""
    images, dropped, notes = find_images(root, reader)
    films, single_films, lost = _choose_films(images, rules.check_subject, notes)
    if not films and not single_films:
        told = notes + collections.Counter(each.reason for each in [*dropped, *lost])
        seen = ", ".join(f"{count} {name}" for name, count in told.items())
        raise UserError(
            f"{root}: no films are here; they should lie as {LAYOUT}001, and their headers call "
            f"them {contents.BILATERAL!r} (seen: {seen or 'nothing'})"
        )
    return films, single_films, [*dropped, *lost], notes


def find_images(
    root: pathlib.Path, reader: Reader, months: Sequence[int] = range(100)
) -> tuple[list[Image], list[Dropped], collections.Counter[str]]:
    """Finds all films and series of some months, whatever they show.

    Args:
        root: the study's folder.
        reader: of headers.
        months: since baseline; the folders of others are not entered.

    Returns:
        Images in the order of their paths, those among them that a table of contents has and the
        disk has not, with the reason `not_on_disk`; folders that cannot be listed
        (`unreadable_folder`); and counts of `empty_folders`, `other_files` (beside the images),
        `files_elsewhere` (than the layout says), `listed_of_visits_without_images` and those of
        `tree.walk`.
    """
    entered = {_ELSEWHERE, *months}
    listing = tree.walk(root, lambda folder: folder != "tables" and _month(folder) in entered)
    notes = collections.Counter(listing.notes)
    files = _image_files(listing, notes)
    told = contents.read_contents(root / "tables")
    images = list(_read_images(root, files, told, reader))
    present = {_month(folder) for folder in files}
    for folder in told.keys() - files.keys():
        if _month(folder) in present:
            detail = "the table of contents has it, the disk has not"
            header = dataclasses.replace(told[folder], reason=NOT_ON_DISK, detail=detail)
            images.append(Image(folder, header, not film_sides(header)))
        elif _month(folder) in months:
            notes["listed_of_visits_without_images"] += 1
    dropped = [
        Dropped(_subject(folder), "", _month(folder), folder, "unreadable_folder", words)
        for folder, words in sorted(listing.unreadable.items())
    ]
    return sorted(images, key=lambda image: image.source), dropped, notes


def film_sides(header: Header) -> str:
    """Sides of the knees on a film of interest: 'RL', 'R', 'L'; '?' one, untold; '' on others.

    The side of a single knee stands in the description, else in Laterality; where these contradict
    each other it is untold. A film without a description, as some tools that remove names leave
    it, is taken for one of both knees unless it has a laterality.
    """
    words = set(re.findall(r"[A-Z]+", header.description.upper()))
    if not words:
        return "" if header.side or header.modality == "MR" else "RL"
    if "PA" not in words or not any(word.startswith(("FLEX", "KNEE")) for word in words):
        return ""
    if any(word.startswith("BIL") for word in words):
        return "RL"
    told = {word[0] for word in words & {"LEFT", "RIGHT", "L", "R"}} | set(header.side)
    return told.pop() if len(told) == 1 else "?"


def _image_files(listing: tree.Tree, notes: collections.Counter[str]) -> dict[str, list[str]]:
    """Names of the images by the folder of a barcode; counts what else there is."""
    notes["empty_folders"] = notes["other_files"] = notes["files_elsewhere"] = 0
    parents = {folder.rpartition("/")[0] for folder in [*listing.files, *listing.unreadable]}
    found = {}
    for folder, names in listing.files.items():
        rest = [name for name in names if not name.endswith(_MARKS)]
        if _month(folder) == _ELSEWHERE or folder.count("/") != _DEPTH - 1:
            notes["files_elsewhere"] += len(rest)
        elif images := [name for name in rest if _IMAGE.fullmatch(name)]:
            notes["other_files"] += len(rest) - len(images)
            found[folder] = images
        else:
            notes["other_files"] += len(rest)
        notes["empty_folders"] += not names and folder not in parents
    return found


def _read_images(
    root: pathlib.Path, files: dict[str, list[str]], told: dict[str, Header], reader: Reader
) -> Iterator[Image]:
    """Reads one header a folder, and of a folder that holds no MR series all."""
    paths = {folder: [f"{folder}/{name}" for name in names] for folder, names in files.items()}
    untold = [of for folder, of in paths.items() if folder not in told]
    headers = reader.read(root, [first for first, *_ in untold])
    rest = [path for first, *more in untold if not _is_series(headers[first], 1) for path in more]
    headers |= reader.read(root, rest) if rest else {}
    for folder, of in paths.items():
        if folder in told:
            known = [told[folder]] * len(of)
        else:
            known = [headers[path] for path in of if path in headers]
        first = next((header for header in known if not header.reason), known[0])
        if _is_series(first, len(of)):
            yield Image(folder, first, is_series=True)
        else:
            yield from (Image(path, header, False) for path, header in zip(of, known))


def _is_series(header: Header, num_files: int) -> bool:
    """Whether a folder holds a series, by its first header that can be read."""
    if header.reason:
        return num_files > 1
    # A table of contents tells no modality.
    is_mr = header.modality == "MR" or (not header.modality and num_files > 1)
    return is_mr and not film_sides(header)


def _choose_films(
    images: Iterable[Image], check_subject: bool, notes: collections.Counter[str]
) -> tuple[dict[tuple[str, int], list[str]], dict[KneeVisit, list[str]], list[Dropped]]:
    """Finds the films of interest.

    Returns:
        Films of both knees by (subject, month), and those of one by (subject, side, month), the one
        that counts first; and what is lost: `subject_contradicts`, `no_side`, `not_on_disk`,
        `repeated_film`, and the reason of a film that cannot be read, where another of its visit
        can.
    """
    of_visits: dict[tuple[str, int], list[Image]] = collections.defaultdict(list)
    of_knees: dict[KneeVisit, list[Image]] = collections.defaultdict(list)
    broken = []
    dropped: list[Dropped] = []
    notes["mr_series"] = notes["films_without_description"] = 0
    for image in images:
        header = image.header
        sides = film_sides(header)
        if image.is_series:
            notes["mr_series"] += 1
        elif header.reason and header.reason != NOT_ON_DISK:
            broken.append(image)
        elif not sides:
            words = re.findall(r"[a-z]+", header.description.lower())
            known = [word for word in words if _VIEWS.fullmatch(word)]
            notes["_".join(["other_films", *(known or ["unknown"])])] += 1
        elif header.reason:
            dropped += image.dropped(sides, header.reason, header.detail)
        elif check_subject and image.contradicts():
            dropped += image.dropped(sides, "subject_contradicts", CONTRADICTS)
        elif sides == "?":
            detail = "neither its description nor its laterality tells, or they contradict"
            dropped += image.dropped([""], "no_side", detail)
        else:
            notes["films_without_description"] += not header.description
            if len(sides) == len(SIDES):
                of_visits[image.subject, image.month].append(image)
            else:
                of_knees[image.subject, sides, image.month].append(image)
    filmed = {*of_visits, *((subject, month) for subject, _, month in of_knees)}
    for image in broken:
        # What it shows, it does not tell.
        if (image.subject, image.month) in filmed:
            dropped += image.dropped(SIDES, image.header.reason, image.header.detail)
        else:
            of_visits[image.subject, image.month].append(image)
    films = {visit: _sources(of_visit) for visit, of_visit in of_visits.items()}
    single_films = {}
    for (subject, side, month), of_knee in of_knees.items():
        if (subject, month) in films:
            detail = f"{films[subject, month][0]} shows both knees"
            for image in of_knee:
                dropped += image.dropped(side, "repeated_film", detail)
        else:
            single_films[subject, side, month] = _sources(of_knee)
    return films, single_films, dropped


def choose_series(
    images: Iterable[Image], check_subject: bool, notes: collections.Counter[str]
) -> tuple[dict[tuple[str, str], str], list[Dropped]]:
    """Finds the MR series that are read, among the images of one visit.

    Returns:
        Their folders by (subject, side); and what is lost: `subject_contradicts`, `not_on_disk`,
        `repeated_series`, and reasons of files that cannot be read, of series of which none can.
    """
    of_knees: dict[tuple[str, str], list[Image]] = collections.defaultdict(list)
    dropped: list[Dropped] = []
    notes["films"] = notes["other_series"] = 0
    for image in images:
        header = image.header
        side = SERIES.get(header.description.upper())
        if not image.is_series:
            notes["films"] += 1
        elif header.reason and (side or header.reason != NOT_ON_DISK):
            dropped += image.dropped([side or ""], header.reason, header.detail)
        elif not side:
            notes["other_series"] += 1
        elif check_subject and image.contradicts():
            dropped += image.dropped(side, "subject_contradicts", CONTRADICTS)
        else:
            of_knees[image.subject, side].append(image)
    found = {}
    for (subject, side), of_knee in of_knees.items():
        found[subject, side], *earlier = _sources(of_knee)
        detail = f"{found[subject, side]} was taken later, and counts"
        dropped += [
            Dropped(subject, side, of_knee[0].month, source, "repeated_series", detail)
            for source in earlier
        ]
    return found, dropped


def _sources(images: Iterable[Image]) -> list[str]:
    """Paths of the images of one visit, that which counts first; the undated are the earliest."""
    ordered = sorted(images, key=lambda image: (image.header.taken, image.source), reverse=True)
    return [image.source for image in ordered]


def _month(path: str) -> int:
    """Months since baseline, of the first part of a path."""
    found = _MONTH.fullmatch(path.split("/")[0])
    return int(found[1]) if found else _ELSEWHERE


def _subject(folder: str) -> str:
    """Of a folder of the layout, '' of one above the subjects or elsewhere."""
    parts = folder.split("/")
    return parts[2] if _month(folder) != _ELSEWHERE and len(parts) > 2 else ""


def _read_replaced(
    tables: pathlib.Path,
    filmed: Iterable[KneeVisit],
    read: Mapping[KneeVisit, Reading],
) -> dict[KneeVisit, Reading]:
    """Filmed knees without a grade whose joint had been replaced by that visit, if outcomes tell.

    In the archive's tables the readers' own code of it, .P, is blank.
    """
    if not any(look_for_table(tables, name) for name in progression.OUTCOMES):
        return {}
    replacements = progression.read_replacements(tables)
    month_of = dict(
        zip(zip(replacements["subject"], replacements["side"]), replacements["visit"].tolist())
    )
    found = {}
    for subject, side, month in filmed:
        reading = read.get((subject, side, month), UNREAD)
        unread = not reading.unusable and (reading.grades == MISSING).all()
        if unread and month_of.get((subject, side), math.inf) <= month:
            detail = f"its replacement was reported by month {month_of[subject, side]}"
            found[subject, side, month] = Reading(UNREAD.grades, "replaced", detail)
    return found
