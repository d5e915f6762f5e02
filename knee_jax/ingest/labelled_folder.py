"""Anybody's folder of images and a table of labels: which row is of which file, and a job for each.

Images are read as `knee_files` reads them. Every row that cannot be used, and every file without a
row, is an exclusion.
"""

import collections
import dataclasses
import pathlib
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from knee_jax.errors import UnusableKnee, UserError
from knee_jax.foreign_tables import read_table
from knee_jax.ingest import archives, dicom, dicom_header
from knee_jax.ingest.knee_files import ROI_MM, Knee, KneeFileJob, Reading, Unplaced
from knee_jax.ingest.label_table import (
    COHORT,
    HELD_OUT_LAST,
    Row,
    find_columns,
    label_fields,
    read_rows,
)
from knee_jax.ingest.report import Example, Exclusion, Note, example
from knee_jax.ingest.sources import Source, find
from knee_jax.targets.grades import GRADES


@dataclasses.dataclass(frozen=True)
class LabelledFolder:
    """Images, their table, and how the two are read.

    Attributes:
        images: Folder or archive of the images.
        labels: Table, one row per knee and visit.
        columns: Column of a field, where it is not called like the field; '' leaves a field out.
        encoding: Encoding of the table; None: from its mark, otherwise UTF-8.
        cohort: Name of the cohort where no column names it.
        reading: How the images are read; its `side` is not used.
    """

    images: pathlib.Path
    labels: pathlib.Path
    reading: Reading
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    encoding: str | None = None
    cohort: str = COHORT


class Plan(NamedTuple):
    """Jobs by split, and what is known before any image is read.

    Attributes:
        jobs: Jobs by split, in the order of the table.
        exclusions: Rows and files that cannot be used.
        notes: Counts for the ingest report.
        label_columns: Dtype of each label besides the grades.
    """

    jobs: dict[str, list["LabelledFileJob"]]
    exclusions: list[Exclusion]
    notes: dict[str, int]
    label_columns: dict[str, Any]


def plan(folder: LabelledFolder) -> Plan:
    """Plan one job per row of the table.

    Raises:
        UserError: The table or the folder cannot be read, or no row of it can be used.
    """
    table = read_table(folder.labels, folder.encoding)
    columns = find_columns(folder.labels, list(map(str, table)), folder.columns)
    rows, exclusions = read_rows(table, columns, folder.cohort)
    if not folder.images.exists():
        raise UserError(f"--images={folder.images}: no such folder")
    sources = [
        each for each in find([folder.images]) if each.path.resolve() != folder.labels.resolve()
    ]
    if not sources:
        raise UserError(f"--images={folder.images}: no files are in there")
    matched, unmatched = match(rows, sources)
    named = {source.path for _, source in matched}
    kept, contradictory = _without_contradictions(matched)
    # A file whose rows were excluded for another reason has one all the same.
    cells = table[columns["file"]]
    named |= {source.path for source in _named_by(cells, sources)}
    exclusions += unmatched + contradictory
    exclusions += [_without_row(source) for source in sources if source.path not in named]
    if not kept:
        first = next(each for each in exclusions if each.detail.startswith("line "))
        raise UserError(f"{folder.labels}: no row can be used; the first: {first.detail}")
    sides = collections.defaultdict(set)
    for row, source in kept:
        sides[source.path].add(row.side)
    jobs: dict[str, list[LabelledFileJob]] = {}
    for row, source in kept:
        both = len(sides[source.path]) > 1
        jobs.setdefault(row.split, []).append(LabelledFileJob(source, row, folder.reading, both))
    labels = {
        name: target.dtype
        for name, target in label_fields().items()
        if name in columns and name not in GRADES
    }
    notes = {"rows_of_the_table": len(table), "files_in_the_folder": len(sources)}
    return Plan(jobs, exclusions, notes, labels)


def _without_row(source: Source) -> Exclusion:
    if archives.stem(source.path.name):
        # An archive that can be read is listed by its files.
        said = ("unreadable", "the archive is damaged; copy it again, or unpack what is left")
    else:
        said = ("no_row", "no row of the table names this file")
    return Exclusion("", "", -1, source.name, *said)


def match(
    rows: Iterable[Row], sources: Sequence[Source]
) -> tuple[list[tuple[Row, Source]], list[Exclusion]]:
    """Find the file that each row names.

    A row may name a file by its path below the folder, by its name alone, or without its suffix.
    """
    finder = _Finder(sources)
    matched, exclusions = [], []
    for row in rows:
        found = finder.find(row.file)
        if len(found) == 1:
            matched.append((row, found[0]))
            continue
        reason, problem = "file_missing", "no file of the folder is called so"
        if found:
            reason = "file_ambiguous"
            problem = f"{len(found)} files are called so; name the path below the folder"
        exclusions.append(row.exclude(row.file, reason, f"line {row.line}: {problem}"))
    return matched, exclusions


def _named_by(cells: pd.Series, sources: Sequence[Source]) -> list[Source]:
    finder = _Finder(sources)
    return [source for cell in cells.str.strip().unique() for source in finder.find(cell)]


class _Finder:
    """Files by path, name and stem, the most exact of which counts."""

    def __init__(self, sources: Sequence[Source]):
        self._by: list[dict[str, list[Source]]] = []
        for key in _KEYS:
            named = collections.defaultdict(list)
            for source in sources:
                named[key(_path(source.name))].append(source)
            self._by.append(named)

    def find(self, cell: str) -> list[Source]:
        """Return the files that a cell may mean."""
        path = _path(cell)
        for key, named in zip(_KEYS, self._by, strict=True):
            if found := named.get(key(path)):
                return found
        return []


def _path(text: str) -> pathlib.PurePosixPath:
    # Of another machine, such as C:\films\1.png, or with accents written apart from letters.
    return pathlib.PurePosixPath(unicodedata.normalize("NFC", text.replace("\\", "/")))


_KEYS: tuple[Callable[[pathlib.PurePosixPath], str], ...] = (
    lambda path: path.as_posix(),
    lambda path: path.name,
    lambda path: path.name.lower(),
    lambda path: path.stem.lower(),
)


def _without_contradictions(
    matched: Sequence[tuple[Row, Source]],
) -> tuple[list[tuple[Row, Source]], list[Exclusion]]:
    """Take out rows that repeat or contradict others of the same file, or a subject's split."""
    out: dict[int, Exclusion] = {}

    def exclude(row: Row, source: Source, reason: str, detail: str) -> None:
        said = f"line {row.line}: {detail}"
        out.setdefault(row.line, row.exclude(source.name, reason, said))

    def contradict(same: Sequence[tuple[Row, Source]]) -> None:
        for row, source in same:
            other = next(each for each, _ in same if each.says() != row.says())
            exclude(row, source, "two_readings", f"line {other.line} says otherwise of this file")

    for same in _groups(matched, lambda row, source: source.path):
        # The two knees of one film may differ in side and labels alone.
        of_film = {(row.subject, row.visit, row.split, row.cohort, row.site) for row, _ in same}
        sides = _groups(same, lambda row, _: row.side, alone=True)
        unnamed = len(sides) > 1 and any(not row.side for row, _ in same)
        if len(of_film) > 1 or unnamed:
            contradict(same)
            continue
        for of_side in sides:
            if len({row.says() for row, _ in of_side}) > 1:
                contradict(of_side)
            for row, source in of_side[1:]:
                first = of_side[0][0].line
                exclude(row, source, "repeated_row", f"says the same as line {first}")
    left = [(row, source) for row, source in matched if row.line not in out]
    for same in _groups(left, lambda row, _: (row.cohort, row.subject)):
        splits = {row.split for row, _ in same}
        if len(splits) > 1:
            keeps = next(split for split in HELD_OUT_LAST if split in splits)
            for row, source in same:
                if row.split != keeps:
                    problem = f"the subject is also in the split {keeps}, which keeps it"
                    exclude(row, source, "split_contradicts", problem)
    kept = [(row, source) for row, source in matched if row.line not in out]
    return kept, [out[line] for line in sorted(out)]


def _groups(
    matched: Sequence[tuple[Row, Source]], key: Any, alone: bool = False
) -> list[list[tuple[Row, Source]]]:
    """Return the rows that agree in a key, where there are several."""
    groups = collections.defaultdict(list)
    for row, source in matched:
        groups[key(row, source)].append((row, source))
    return [same for same in groups.values() if alone or len(same) > 1]


@dataclasses.dataclass(frozen=True)
class LabelledFileJob:
    """Job that reads the knee of one row.

    Attributes:
        source: File.
        row: What the table says of the knee.
        reading: How the file is read.
        both_sides: Whether the table also names the other side of the file.
    """

    source: Source
    row: Row
    reading: Reading
    both_sides: bool = False

    def __call__(self) -> list[Example | Exclusion | Note]:
        """Read the knee."""
        reading = dataclasses.replace(self.reading, side=self.row.side)
        found = KneeFileJob(self.source, reading)()
        if len(found) != 1:
            return self.exclude("no_side", "a film of both knees, and the table names no side")
        (knee,) = found
        assert not isinstance(knee, Unplaced), "only a localiser's reading leaves films unplaced"
        if not isinstance(knee, Knee):
            return self.exclude(knee.reason, knee.detail)
        if not knee.side:
            return self.exclude("no_side", "neither the table nor the file names the side")
        if knee.located == "crop" and self.both_sides:
            return self.exclude("two_readings", "a crop of one knee, of which two sides are named")
        if knee.located == "crop" and self._header_contradicts(knee.side):
            return self.exclude("side_mismatch", "the file's header names the other side")
        row = self.row
        names = {meaning: name for name, meaning in dicom.NOTES.items()}
        notes = [
            Note(row.subject, row.visit, self.source.name, names.get(text, "remark"), text)
            for text in knee.notes
        ]
        cut = knee.located != "crop"
        kept = example(
            knee.image,
            np.array(row.grades),
            subject=row.subject,
            side=knee.side,
            visit=row.visit,
            cohort=row.cohort,
            site=row.site,
            source=self.source.name,
            spacing_mm=ROI_MM / self.reading.pixels if cut else float("nan"),
            keypoints=knee.landmarks,
            labels={name: label_fields()[name].dtype(value) for name, value in row.labels},
        )
        return [kept, *notes]

    def _header_contradicts(self, side: str) -> bool:
        try:
            header = dicom_header.read_header(self.source.path, ("ImageLaterality", "Laterality"))
        except UnusableKnee:
            return False
        told = {str(header.get(name, "") or "").upper() for name in header.dir()} & {"L", "R"}
        return len(told) == 1 and side not in told

    def exclude(self, reason: str, detail: str) -> list[Example | Exclusion | Note]:
        """Return the knee as excluded."""
        said = f"line {self.row.line}: {detail}"
        return [self.row.exclude(self.source.name, reason, said)]

    def paths(self) -> list[pathlib.Path]:
        """Return all paths that are read."""
        return [self.source.path]


# Proposals.
