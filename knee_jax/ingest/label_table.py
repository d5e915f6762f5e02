"""Table of labels of anybody's images: its columns, proposals for them, and its rows.

A row names a file, the subject, and labels; it may name side, visit, split, cohort and site. Cells
are not quoted in messages, since a name may stand in the wrong place.
"""

import dataclasses
import pathlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from knee_jax import targets
from knee_jax.errors import UserError
from knee_jax.foreign_tables import MISSING, identifiers, is_missing, numbers
from knee_jax.ingest.report import Exclusion, Label
from knee_jax.targets.grades import GRADES
from knee_jax.targets.kinds import Classes, Target

REQUIRED = ("file", "subject")
OPTIONAL = ("side", "visit", "split", "cohort", "site")

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""Splits, and the words that stand for them."""

ONLY_SPLIT = "knees"
"""Split of a table that names none."""

HELD_OUT_LAST = ("test", "val", "train")
"""Splits in the order in which they keep a subject that several of them name."""

_SIDE_WORDS = {
    "L": "l left links linke linkes li g gauche i izq izda izquierda izquierdo esquerda esquerdo "
    "s sin sinister sinistra sinistro v vas vasen vänster venstre",
    "R": "r right rechts rechte rechtes re d droite droit der dcha derecha derecho direita direito "
    "dex dx dexter destra destro o oik oikea h höger højre høyre",
}
"""Words for both sides in English, German, Dutch, French, Spanish, Portuguese, Italian, Latin,
Finnish, Swedish, Danish and Norwegian; no word is left in one of them and right in another.
"""

SIDES = {word: side for side, words in _SIDE_WORDS.items() for word in words.split()}

_PLAIN_SIDES = {word for word in SIDES if len(word) > 2} | {"l", "r", "li", "re"}
"""Words that mean a side in any column; others, such as `d`, only in one that is called so."""

COHORT = "own"
"""Cohort of a table that names none: within a cohort, a subject's id stands for one person."""


@dataclasses.dataclass(frozen=True)
class Row:
    """Row of the table that can be used.

    Attributes:
        line: Line of the file.
        file: File as the table names it.
        subject: Subject id.
        side: 'L' or 'R', '' to take it from the file.
        visit: Months since baseline.
        split: Split of the set.
        cohort: Name of the cohort.
        site: Clinical site, '' where unknown.
        grades: Grades in the order of `GRADES`, -1 where missing.
        labels: Further labels by column.
    """

    line: int
    file: str
    subject: str
    side: str
    visit: int
    split: str
    cohort: str
    site: str
    grades: tuple[int, ...]
    labels: tuple[tuple[str, Label], ...]

    def exclude(self, source: str, reason: str, detail: str) -> Exclusion:
        """Return the knee as excluded."""
        return Exclusion(self.subject, self.side, self.visit, source, reason, detail)

    def says(self) -> tuple[Any, ...]:
        """Return all that the row says of its file; an unknown value equals another."""
        return (*dataclasses.astuple(self)[2:-1], str(self.labels))


def label_fields() -> dict[str, Target]:
    """Return the labels that a table may hold, by name: the column that each target is read from.

    A target that is made of a grade has no column of its own.
    """
    return {name: each for name, each in targets.all_targets().items() if each.source == name}


def fields() -> tuple[str, ...]:
    """Return the names of all fields that a column can be of."""
    return (*REQUIRED, *OPTIONAL, *label_fields())


def find_columns(
    path: pathlib.Path, names: Sequence[str], given: Mapping[str, str]
) -> dict[str, str]:
    """Return the column of each field: the one that is given, or the one that is called like it.

    Args:
        path: Table, for messages.
        names: Names of its columns.
        given: Columns by field; '' leaves a field out.

    Raises:
        UserError: A field or column is unknown, a required field has no column, or no label has.
    """
    if unknown := [field for field in given if field not in fields()]:
        raise UserError(
            f"--columns={unknown[0]}=...: there is no such field; choose from {', '.join(fields())}"
        )
    found = {}
    for field in fields():
        wanted = given.get(field, field)
        if not wanted:
            continue
        same = [name for name in names if name == wanted] or [
            name for name in names if name.lower() == wanted.lower()
        ]
        if len(same) > 1:
            raise UserError(f"{path}: columns {same[0]} and {same[1]}: name one by --columns")
        if same:
            found[field] = same[0]
        elif field in given:
            raise UserError(
                f"--columns={field}={wanted}: {path} has no such column; it has {', '.join(names)}"
            )
    if absent := [field for field in REQUIRED if field not in found]:
        raise UserError(
            f"{path} has no column {absent[0]}: name it, as --columns={absent[0]}=COLUMN; "
            "--infer proposes columns"
        )
    if not set(found) & set(label_fields()):
        raise UserError(
            f"{path} has no column of labels ({', '.join(label_fields())}): name one, as "
            "--columns=kl=COLUMN; --infer proposes columns"
        )
    return found


def read_rows(
    table: pd.DataFrame, columns: Mapping[str, str], cohort: str = COHORT
) -> tuple[list[Row], list[Exclusion]]:
    """Read the rows of a table of labels.

    Args:
        table: Cells as text, by line.
        columns: Column of each field.
        cohort: Name of the cohort where no column names it.

    Returns:
        The rows that can be used, and the others with their reasons.
    """

    def text(field: str) -> pd.Series:
        if field not in columns:
            return pd.Series("", index=table.index)
        cells = table[columns[field]].str.strip()
        whole = cells.str.replace(r"^(\d+),0+$", r"\1", regex=True)
        return identifiers(whole.mask(is_missing(cells), ""))

    names, subjects, sites = text("file"), text("subject"), text("site")
    cohorts = text("cohort").replace("", cohort)
    sides = text("side").str.lower().map(SIDES).fillna("")
    visits = numbers(table[columns["visit"]]) if "visit" in columns else text("visit").map(len)
    words = {word: split for split, some in SPLITS.items() for word in some}
    splits = text("split").str.lower().map(words).fillna("")
    if "split" not in columns:
        splits[:] = ONLY_SPLIT
    problems = pd.Series("", index=table.index)
    for wrong, field, problem in (
        (names == "", "file", "is empty"),
        (subjects == "", "subject", "is empty"),
        (("side" in columns) & (sides == ""), "side", "names no side, such as L or R"),
        (~((visits >= 0) & (visits % 1 == 0) & (visits < 10_000)), "visit", "is no month"),
        (splits == "", "split", "is none of train, val and test"),
    ):
        problems = problems.mask(wrong & (problems == ""), f"{columns.get(field, field)} {problem}")
    known = {name: target for name, target in label_fields().items() if name in columns}
    read = {name: read_labels(table[columns[name]], target) for name, target in known.items()}
    rows, exclusions = [], []
    for line in table.index:
        visit = visits[line]
        row = Row(
            line=int(line),
            file=names[line],
            subject=subjects[line],
            side=sides[line],
            visit=int(visit) if not problems[line] else -1,
            split=splits[line],
            cohort=cohorts[line],
            site=sites[line],
            grades=tuple(
                int(_plain(read[name][0][line], known[name])) if name in read else -1
                for name in GRADES
            ),
            labels=tuple(
                (name, _plain(values[line], known[name]))
                for name, (values, _) in read.items()
                if name not in GRADES
            ),
        )
        bad = [f"{columns[name]} {wrong[line]}" for name, (_, wrong) in read.items() if wrong[line]]
        if problems[line]:
            exclusions.append(row.exclude(row.file, "bad_row", f"line {line}: {problems[line]}"))
        elif bad:
            exclusions.append(row.exclude(row.file, "bad_label", f"line {line}: {'; '.join(bad)}"))
        else:
            rows.append(row)
    return rows, exclusions


def read_labels(column: pd.Series, target: Target) -> tuple[pd.Series, pd.Series]:
    """Read the labels of a target.

    A class is a number, with or without decimals of zero, or its name; -1 is a missing one.

    Returns:
        Labels, float64, NaN where missing; and what is wrong with each cell, '' if nothing.
    """
    values, missing = numbers(column), is_missing(column)
    wrong = pd.Series("", index=column.index)
    if not isinstance(target, Classes):
        wrong[values.isna() & ~missing] = "is no number"
        wrong[np.isinf(values)] = "is infinite"
        return values, wrong
    lower = column.str.strip().str.lower()
    names = {name.lower(): number for number, name in enumerate(target.class_names)}
    # 'none' is also a way to leave a cell empty, unless other cells hold names of classes.
    unmistakable = [name for name in names if name not in {each.lower() for each in MISSING}]
    if lower.isin([name for name in unmistakable if not name.isdecimal()]).any():
        values = values.mask(lower.isin(names), lower.map(names).astype("float64"))
        missing &= ~lower.isin(names)
    values = values.mask(values == target.missing)
    missing |= numbers(column) == target.missing
    wrong[values.isna() & ~missing] = f"is no {target.noun}"
    beyond = values.notna() & ~values.isin(range(target.num_outputs))
    scale = f"not a {target.noun} from 0 to {target.num_outputs - 1}"
    for line in values.index[beyond]:
        wrong[line] = f"is {values[line]:g}, {scale}"
    return values, wrong


def _plain(value: float, target: Target) -> Label:
    if isinstance(target, Classes):
        known = np.isfinite(value) and 0 <= value < target.num_outputs
        return int(value) if known else int(target.missing)
    return float(value)


_CALLED = {
    "file": "file filename filepath path image imagefile imagename imagepath imageid img png dicom "
    "picture photo xray radiograph film bild bilddatei datei dateiname fichier nomfichier cliche "
    "archivo imagen imagem immagine bestand afbeelding tiedosto kuva fil",
    "subject": "subject participant patient person case mrn proband studyid studynr studyno patid "
    "pat pid sid id sujet paciente sujeto paziente soggetto proefpersoon deelnemer potilas "
    "tutkittava",
    "side": "side laterality kneeside knee leg lr rl seite koerperseite cote lateralite lado lato "
    "zijde kant puoli sida",
    "visit": "visit month months visitmonth timepoint followup monat monate besuch mois visite "
    "mes visita maand bezoek kaynti kuukausi",
    "split": "split partition subset set part",
    "cohort": "cohort study kohorte cohorte",
    "site": "site centre center clinic zentrum",
    "kl": "kl klg klgrade klscore klgrading klgrad klgraad klgrado klstade klaste kellgren "
    "kellgrenlawrence kellgrenlawrencegrade kellgrenlawrencescore kellgrenlawrencegrad xrkl grade "
    "grad stade grado graad aste",
    "jsw_medial": "jswmedial mcmjsw mjsw jsw",
    "progression": "progression progressor progressorclass",
}
"""Names of columns by field, without case, accents and signs, the likeliest first."""

_NUMBERED = re.compile(
    r"^(?:id|nr|no|n|numero|code|codice|codigo)"
    r"|(?:id|nr|nro|no|num|number|nummer|numero|code|codice|codigo|kennung)$"
)
"""Words beside a subject's name for its number, as in `Patient Nr` and `Study ID`."""

_IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm", ".dicom")
_LEAST = 0.9
"""Share of the filled cells that must be of a field."""


class Proposal(NamedTuple):
    """Columns that look like fields.

    Attributes:
        columns: Column by field.
        fits: Number of cells of it that can be read, and of those that are filled, by field.
        unused: Names of the other columns.
    """

    columns: dict[str, str]
    fits: dict[str, tuple[int, int]]
    unused: list[str]


def propose(table: pd.DataFrame) -> Proposal:
    """Propose the column of each field, by names and by what the cells hold."""
    columns: dict[str, str] = {}
    fits: dict[str, tuple[int, int]] = {}
    names = list(map(str, table))
    for field in fields():
        candidates = _candidates(field, [name for name in names if name not in columns.values()])
        if field in ("file", "side"):
            # Their cells give them away, whatever they are called.
            candidates += [name for name in names if name not in (*candidates, *columns.values())]
        for name in candidates:
            filled = table[name][~is_missing(table[name])]
            fitting = int(_fits(field, filled, name in _candidates(field, [name])).sum())
            if len(filled) and fitting >= _LEAST * len(filled):
                columns[field], fits[field] = name, (fitting, len(filled))
                break
    return Proposal(columns, fits, [name for name in names if name not in columns.values()])


def missing(proposal: Proposal) -> list[str]:
    """Return the fields that are needed and have no column; of the labels `kl` stands for any."""
    needed = [field for field in REQUIRED if field not in proposal.columns]
    return needed if set(proposal.columns) & set(label_fields()) else [*needed, "kl"]


def _candidates(field: str, names: Iterable[str]) -> list[str]:
    called = _CALLED.get(field, f"{field} xr{field}").split()
    ranked = []
    for name in names:
        words = [re.sub(r"^v\d\d(?=xr|mc)", "", _bare(name))]
        if field == "subject":
            words.append(_NUMBERED.sub("", words[0]))
        if known := [called.index(word) for word in words if word in called]:
            ranked.append((known[0], name))
    return [name for _, name in sorted(ranked, key=lambda pair: pair[0])]


def _bare(name: str) -> str:
    """Return a column's name without case, accents and signs."""
    letters = unicodedata.normalize("NFKD", name.lower().replace("ß", "ss"))
    return re.sub(r"[^a-z0-9]", "", letters)


def _fits(field: str, filled: pd.Series, called: bool) -> pd.Series:
    """Return for each cell whether it can be read as the field."""
    lower = filled.str.strip().str.lower()
    if field == "file":
        return lower.str.endswith(_IMAGES) | called
    if field == "side":
        return lower.isin(SIDES if called else _PLAIN_SIDES)
    if field == "visit":
        return numbers(filled) >= 0
    if field == "split":
        return lower.isin([word for some in SPLITS.values() for word in some])
    if field in label_fields():
        return read_labels(filled, label_fields()[field])[1] == ""
    return lower != ""


def describe(proposal: Proposal) -> str:
    """Format a proposal as text, one field a line."""
    width = max(map(len, fields())) + 2
    lines = [
        f"{field:<{width}}{name}   ({fitting:,} of {filled:,} filled cells can be read)"
        for field, name in proposal.columns.items()
        for fitting, filled in [proposal.fits[field]]
    ]
    for field in missing(proposal):
        wanted = "it" if field in REQUIRED else f"a label ({', '.join(label_fields())})"
        lines.append(f"{field:<{width}}no column looks like {wanted}; one is needed")
    if proposal.unused:
        lines.append(f"not used: {', '.join(proposal.unused)}")
    return "\n".join(lines)
