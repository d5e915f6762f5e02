"""A study tree laid out as OAI's → its inventory.

{month}m/{release}/{subject}/{date}/{barcode}/001 is a bilateral film, and tables/ holds the
readings of every visit (`readings`) and the enrollees.
"""

import collections
import pathlib
import re

from knee_jax.errors import UserError
from knee_jax.ingest import readings, ready_crops
from knee_jax.ingest.account import Dropped
from knee_jax.ingest.inventory import Inventory, KneeVisit, Reading, Rules

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
    sites = readings.read_sites(tables)
    read, counts = _read_tables(tables, sorted({visit for _, visit in films}), rules)
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


def _read_tables(
    tables: pathlib.Path, visits: list[int], rules: Rules
) -> tuple[dict[KneeVisit, Reading], dict[str, int]]:
    read: dict[KneeVisit, Reading] = {}
    notes: collections.Counter[str] = collections.Counter()
    for visit in visits:
        # Nobody read the films of interim visits such as months 18 and 30.
        if visit in readings.VISITS:
            found, counts = readings.read_readings(tables, visit, rules)
            read |= {(*knee, visit): reading for knee, reading in found.items()}
            notes.update(counts)
    return read, dict(notes)
