"""A study tree laid out as OAI's → its inventory.

{month}m/{release}/{subject}/{date}/{barcode}/001 is a bilateral film, and tables/ holds the
readings of every visit (`readings`), the enrollees and, if a user has put them there, what else is
known of them (`enrolment`) and the outcomes (`progression`).
"""

import collections
import math
import pathlib
import re
from collections.abc import Mapping

from knee_jax.errors import UserError
from knee_jax.grades import MISSING
from knee_jax.ingest import enrolment, progression, readings, ready_crops
from knee_jax.ingest.account import Dropped
from knee_jax.ingest.inventory import SIDES, UNREAD, Inventory, KneeVisit, Reading, Rules
from knee_jax.ingest.tables import look_for_table

_FILMS = "[0-9][0-9]m/*/*/*/*/001"
_SUBJECT = re.compile(r"\d{7}")


def take_inventory(root: pathlib.Path, rules: Rules) -> Inventory:
    """Finds films, or ready crops of them, readings and sites.

    Args:
        root: the study's folder.
        rules: how the tables are read.

    Raises:
        UserError: no films, a visit with films but without its table, or a table lacks a column.
    """
    notes: collections.Counter[str] = collections.Counter()
    dropped: list[Dropped] = []
    if rules.landmarks == "crops":
        films, dropped = ready_crops.find_crops(root, _SUBJECT, range(100), notes)
    else:
        films = _find_films(root)
    tables = root / "tables"
    sites = enrolment.read_sites(tables)
    visits = sorted({visit for _, visit in films})
    read, counts = readings.read_readings(tables, visits, rules)
    read |= _read_replaced(tables, films, read)
    notes.update(counts)
    return Inventory(films, read, sites, dropped, notes)


def _find_films(root: pathlib.Path) -> dict[tuple[str, int], list[str]]:
    """Paths of the films by (subject, month), relative to `root`, sorted."""
    films = collections.defaultdict(list)
    for path in sorted(root.glob(_FILMS)):
        month, _, subject, *_ = path.relative_to(root).parts
        films[subject, int(month.removesuffix("m"))].append(path.relative_to(root).as_posix())
    if not films:
        layout = "{month}m/{release}/{subject}/{date}/{barcode}/001"
        raise UserError(f"{root}: no films are here; they should lie as {layout}")
    return films


def _read_replaced(
    tables: pathlib.Path,
    films: Mapping[tuple[str, int], list[str]],
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
    for subject, month in films:
        for side in SIDES:
            knee = (subject, side, month)
            reading = read.get(knee, UNREAD)
            unread = not reading.unusable and (reading.grades == MISSING).all()
            if unread and month_of.get((subject, side), math.inf) <= month:
                detail = f"its replacement was reported by month {month_of[subject, side]}"
                found[knee] = Reading(UNREAD.grades, "replaced", detail)
    return found
