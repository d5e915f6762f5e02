"""Inventory of a study tree laid out as OAI's: films, their readings and the subjects' sites.

`oai_images` describes the layout of images. tables/ holds the readings of every visit (`readings`),
the enrollees and, if a user has put them there, further facts on the subjects (`enrolment`), the
outcomes (`progression`) and joint space widths (`joint_space`).

The films of interest are PA views of the flexed knees, of both or of one ("Bilateral PA Fixed
Flexion Knee", "PA Fixed Flexion Right Knee"). Of several films of one visit, the one whose barcode
is in the table of readings counts, otherwise the last one taken (`oai_images`). A film of both
knees takes precedence over films of one.
"""

import collections
import math
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

from knee_jax.errors import UserError
from knee_jax.ingest import contents, crops, enrolment, joint_space, progression, readings
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
from knee_jax.ingest.oai_images import (
    LAYOUT,
    NOT_ON_DISK,
    Image,
    film_sides,
    find_images,
    sources,
)
from knee_jax.ingest.report import Exclusion
from knee_jax.ingest.tables import look_for_table
from knee_jax.targets.grades import MISSING

# Words of a description that may appear in the report; others might be a person's name.
_VIEWS = re.compile(
    "ankle|ap|bilateral|chest|elbow|foot|full|hands?|hip|knees?|lateral|left|limb|lumbar|oblique|pa|"
    "patella|pelvis|right|shoulder|skyline|spine|standing|wrist"
)
_LONG_BARCODE = 6
_NO_SIDE = "neither its description nor its laterality tells the side, or they contradict"


def take_inventory(
    root: pathlib.Path, rules: Rules, loader: HeaderLoader = DEFAULT_LOADER
) -> Inventory:
    """Find films, or ready crops of them, readings and sites.

    Args:
        root: Root folder of the study.
        rules: Rules for tables and files.
        loader: Loader of headers.

    Raises:
        UserError: There are no films, a visit with films has no table, or a table lacks a column.
    """
    if rules.landmarks == "crops":
        notes: collections.Counter[str] = collections.Counter()
        films, exclusions = crops.find_crops_of_study(root, contents.SUBJECT, range(100), notes)
        single_films: dict[KneeVisit, list[str]] = {}
    else:
        films, single_films, exclusions, notes = _find_films(root, rules, loader)
    tables = root / "tables"
    sites = enrolment.read_sites(tables)
    filmed = {(subject, side, month) for subject, month in films for side in SIDES}
    filmed |= single_films.keys()
    notes["subjects_unknown_to_enrolment"] = len({subject for subject, *_ in filmed} - set(sites))
    # The films of months 18 and 30 were never read; they are kept as unlabelled knees.
    notes["films_of_visits_without_readings"] = sum(
        month not in readings.VISITS
        for _, month in {(subject, month) for subject, _, month in filmed}
    )
    read, counts = readings.read_readings(tables, sorted({month for *_, month in filmed}), rules)
    notes.update(counts)
    if rules.landmarks != "crops":
        films = {
            (subject, month): _read_first(
                of, [(subject, side, month) for side in SIDES], read, notes
            )
            for (subject, month), of in films.items()
        }
        single_films = {
            knee: _read_first(of, [knee], read, notes) for knee, of in single_films.items()
        }
    read |= _read_replaced(tables, filmed, read)
    widths, counts = joint_space.read_widths(tables)
    notes.update(counts)
    labels = {joint_space.COLUMN: widths}
    return Inventory(films, read, sites, exclusions, notes, single_films, labels)


def _find_films(
    root: pathlib.Path, rules: Rules, loader: HeaderLoader
) -> tuple[
    dict[tuple[str, int], list[str]],
    dict[KneeVisit, list[str]],
    list[Exclusion],
    collections.Counter[str],
]:
    """Find films of both knees, films of one knee, exclusions, and counts."""
    images, exclusions, notes = find_images(root, loader)
    films, single_films, unusable = _choose_films(images, rules.check_subject, notes)
    if not films and not single_films:
        reasons = collections.Counter(each.reason for each in [*exclusions, *unusable])
        counts = ", ".join(f"{count} {name}" for name, count in (notes + reasons).items())
        if set(reasons) == {"subject_contradicts"}:
            raise UserError(
                f"{root}: the headers of all films name other subjects than their folders do; if "
                "ids were replaced, prepare oai_xray/replaced_ids"
            )
        raise UserError(
            f"{root}: no films are here; they should lie as {LAYOUT}001, a subject's name being "
            f"seven digits, and their headers call them {contents.BILATERAL!r} (seen: "
            f"{counts or 'nothing'})"
        )
    return films, single_films, [*exclusions, *unusable], notes


def _choose_films(
    images: Iterable[Image], check_subject: bool, notes: collections.Counter[str]
) -> tuple[dict[tuple[str, int], list[str]], dict[KneeVisit, list[str]], list[Exclusion]]:
    """Choose the films of interest.

    Returns:
        Films of both knees by (subject, month), and those of one by (subject, side, month), the one
        that counts coming first in each; and the exclusions: `subject_contradicts`,
        `visit_contradicts`, `no_side`, `not_on_disk`, `unreadable_folder`, `repeated_film`, and the
        reasons of unreadable headers.
    """
    of_visits: dict[tuple[str, int], list[Image]] = collections.defaultdict(list)
    of_knees: dict[KneeVisit, list[Image]] = collections.defaultdict(list)
    uncertain = []
    exclusions: list[Exclusion] = []
    notes["mr_series"] = notes["films_without_description"] = 0
    for image in images:
        header = image.header
        sides = film_sides(header)
        side = sides if sides in SIDES else ""
        reason, detail = image.contradicts(check_subject)
        if image.is_series:
            notes["mr_series"] += 1
        elif header.reason and header.reason != NOT_ON_DISK:
            # It is unknown which knees it shows.
            uncertain.append(image.exclude("", header.reason, header.detail))
        elif not sides:
            words = re.findall(r"[a-z]+", header.description.lower())
            view = [word for word in words if _VIEWS.fullmatch(word)]
            notes["_".join(["other_films", *(view or ["unknown"])])] += 1
        elif header.reason:
            uncertain.append(image.exclude(side, header.reason, header.detail))
        elif reason:
            uncertain.append(image.exclude(side, reason, detail))
        elif sides == "?":
            uncertain.append(image.exclude("", "no_side", _NO_SIDE))
        else:
            notes["films_without_description"] += not header.description
            if len(sides) == len(SIDES):
                of_visits[image.subject, image.month].append(image)
            else:
                of_knees[image.subject, sides, image.month].append(image)
    films = {visit: sources(of_visit) for visit, of_visit in of_visits.items()}
    single_films = {}
    for (subject, side, month), of_knee in of_knees.items():
        if (subject, month) in films:
            detail = f"{films[subject, month][0]} shows both knees"
            exclusions += [image.exclude(side, "repeated_film", detail) for image in of_knee]
        else:
            single_films[subject, side, month] = sources(of_knee)
    known = {(subject, side, month) for subject, month in films for side in SIDES}
    return (
        films,
        single_films,
        [*exclusions, *exclude_uncertain(uncertain, known | {*single_films})],
    )


def _read_first(
    films: list[str],
    knees: Sequence[KneeVisit],
    read: Mapping[KneeVisit, Reading],
    notes: collections.Counter[str],
) -> list[str]:
    """Move a film that was read to the front of the films of some knees.

    Args:
        films: Films, the one that would otherwise count first.
        knees: Knees on each of the films.
        read: Readings by knee.
        notes: Counter of `readings_of_another_film` than the first, updated in place.
    """
    of_knees = [read.get(knee, UNREAD) for knee in knees]
    ordered = sorted(films, key=lambda film: not any(_is_of(each, film) for each in of_knees))
    others = sum(bool(each.barcode) and not _is_of(each, ordered[0]) for each in of_knees)
    notes["readings_of_another_film"] += others
    return ordered


def _is_of(reading: Reading, film: str) -> bool:
    """Return whether a reading's barcode is that of a film.

    Tables and folders pad barcodes with different numbers of zeros, and some tables prefix the
    study's number.
    """
    read, found = reading.barcode.lstrip("0"), film.split("/")[4].lstrip("0")
    long = min(len(read), len(found)) >= _LONG_BARCODE
    return bool(read) and (read == found or (long and read.endswith(found)))


def _read_replaced(
    tables: pathlib.Path,
    filmed: Iterable[KneeVisit],
    read: Mapping[KneeVisit, Reading],
) -> dict[KneeVisit, Reading]:
    """Find filmed knees without a grade whose joint, by the outcomes, had been replaced by then.

    In the archive's tables the readers' code for a replacement, .P, is blank.
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
