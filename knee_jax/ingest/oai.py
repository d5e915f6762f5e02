"""A study tree laid out as OAI's → its inventory.

{month}m/{release}/{subject}/{date}/{barcode}/001 is a bilateral film, and tables/ holds the
readings of every visit (`readings`) and the enrollees.
"""

import collections
import pathlib

from knee_jax.errors import UserError
from knee_jax.ingest import enrolment, readings
from knee_jax.ingest.inventory import Inventory, Rules

_FILMS = "[0-9][0-9]m/*/*/*/*/001"


def take_inventory(root: pathlib.Path, rules: Rules) -> Inventory:
    """Finds films, readings and sites.

    Args:
        root: the study's folder.
        rules: how the tables are read.

    Raises:
        UserError: no films, a visit with films but without its table, or a table lacks a column.
    """
    films = _find_films(root)
    tables = root / "tables"
    sites = enrolment.read_sites(tables)
    visits = sorted({visit for _, visit in films})
    read, notes = readings.read_readings(tables, visits, rules)
    return Inventory(films, read, sites, notes=notes)


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
