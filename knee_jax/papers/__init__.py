"""Tables of papers as data: what they print, and the config variant that reproduces each row.

A table is a file `SYSTEM/TABLE.csv`; to add one is to add its file. Lines `# title:`, `# source:`
and `# note:` come first, then one row per printed number:

    row        the row's name
    config     file and variant, as in `kpn.py:no_kpn`; empty: of another system, printed only
    mode       `train` or `cv`, of `knee-jax train`
    model      the folder of the run that holds the row's results; empty: the run's own
    split      of `metrics.json`
    target     a grade or task
    metric     by its name in `metrics.json`
    value      as printed; percentages of accuracy as fractions
    low, high  the printed interval, where there is one
    std        the printed standard deviation, where there is one; files may lack the column
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from knee_jax.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    *("row", "config", "mode", "model", "split", "target", "metric"),
    *("value", "low", "high", "std"),
)

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class PaperTable:
    """Table of a paper.

    Attributes:
        name: System and table, as in `kpn/3`.
        title: Subject of the table.
        source: Paper and table.
        notes: Contradictions within the paper or with its code, and what is compared with them
            here.
        cells: Cells, one row per printed number, with all `COLUMNS` as text.
    """

    name: str
    title: str
    source: str
    notes: tuple[str, ...]
    cells: "pd.DataFrame"


def names() -> list[str]:
    """Return the names of all tables."""
    return sorted(f"{path.parent.name}/{path.stem}" for path in _FOLDER.glob("*/*.csv"))


def has(name: str, config: str, mode: str) -> bool:
    """Return whether a config variant makes a row of the table in that mode of `knee-jax train`."""
    cells = read(name).cells
    return bool(((cells["config"] == config) & (cells["mode"] == mode) & (config != "")).any())


def read(name: str) -> PaperTable:
    """Read a table.

    Raises:
        UserError: There is no table of that name.
    """
    import pandas as pd

    if name not in names():
        raise UserError(f"no paper's table is called '{name}': choose {', '.join(names())}")
    path = _FOLDER / f"{name}.csv"
    head = [line for line in path.read_text(encoding="utf-8").splitlines() if line[:2] == "# "]
    facts = [line[2:].partition(": ")[::2] for line in head]
    cells = pd.read_csv(path, skiprows=len(head), dtype=str, keep_default_na=False)
    cells = cells.reindex(columns=COLUMNS, fill_value="")
    return PaperTable(
        name=name,
        title=dict(facts)["title"],
        source=dict(facts)["source"],
        notes=tuple(text for key, text in facts if key == "note"),
        cells=cells,
    )
