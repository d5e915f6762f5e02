"""A study tree laid out as OAI's → its images: films, and MR series.

{month}m/{release}/{subject}/{date}/{barcode}/ is a folder of one film, 001, or of the slices of an
MR series; its header tells which one (`headers`), or a table that the user has (`contents`). Of
several images of one visit that show the same, the last one taken counts, by date and time and then
by path: a second one was taken where the first had failed.
"""

import collections
import dataclasses
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence

from knee_jax.ingest import contents, landmarks, tree
from knee_jax.ingest.account import Dropped
from knee_jax.ingest.dicom import CONTRADICTS
from knee_jax.ingest.headers import Header, Reader
from knee_jax.ingest.series import NUMBERED

LAYOUT = "{month}m/{release}/{subject}/{date}/{barcode}/"

SERIES = {"SAG_3D_DESS_LEFT": "L", "SAG_3D_DESS_RIGHT": "R"}
"""SeriesDescription of the MR series that are read → side."""

NOT_ON_DISK = "not_on_disk"
UNREADABLE_FOLDER = "unreadable_folder"

_MONTH = re.compile(r"(\d\d)m")
# As little else as may be, level by level: another name might be a person's.
_LEVELS = (r"\d\dm", r"\d[\w.]{0,7}", r"\d{7}", r"(19|20)\d\d([-_.]?\d\d){2}", r"\d+")
_DEPTH_OF_SUBJECT = 3
_MARKS = tuple(landmarks.SUFFIXES.values())
_ELSEWHERE = -1


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

    def contradicts(self, check_subject: bool) -> tuple[str, str]:
        """Why it may be of another subject or visit than its path says, in words too; else ''.

        Args:
            check_subject: whether its header is asked for the subject.
        """
        if check_subject and self.header.subject not in ("", self.subject.upper()):
            return "subject_contradicts", CONTRADICTS
        if contents.month_of(self.source.split("/")[1]) not in (None, self.month):
            return "visit_contradicts", "its release is of another visit than its month"
        return "", ""

    def lost(self, side: str, reason: str, detail: str) -> Dropped:
        """A knee that it shows, or all with the side '', as a row of the quarantine."""
        return Dropped(self.subject, side, self.month, self.source, reason, detail)


def find_images(
    root: pathlib.Path, reader: Reader, months: Sequence[int] = range(100)
) -> tuple[list[Image], list[Dropped], collections.Counter[str]]:
    """Finds all films and series of some months, whatever they show.

    Args:
        root: the study's folder.
        reader: of headers.
        months: since baseline; the folders of others are not entered.

    Returns:
        Images in the order of their paths, among them those that a table of contents has and the
        disk has not, with the reason `not_on_disk`, and folders of a subject or below that cannot
        be listed, with the reason `unreadable_folder`; such folders above the subjects; and counts
        of `empty_folders`, `other_files` (beside the images), `files_elsewhere`, `listed_elsewhere`
        and `unreadable_folders_elsewhere` (than the layout says),
        `listed_of_visits_without_images` and those of `tree.walk`.
    """
    entered = {_ELSEWHERE, *months}
    listing = tree.walk(
        root,
        enters=lambda folder: folder != "tables" and _month(folder) in entered,
        first=lambda folder: _depth(folder) > 0,
    )
    notes = collections.Counter(listing.notes)
    notes["listed_elsewhere"] = notes["unreadable_folders_elsewhere"] = 0
    files = _image_files(listing, notes)
    told = contents.read_contents(root / "tables")
    images = list(_read_images(root, files, told, reader))
    present = {_month(folder) for folder in files}
    for folder in told.keys() - files.keys():
        if not _depth(folder):
            notes["listed_elsewhere"] += 1
        elif _month(folder) in present:
            detail = "the table of contents has it, the disk has not"
            header = dataclasses.replace(told[folder], reason=NOT_ON_DISK, detail=detail)
            images.append(Image(folder, header, not film_sides(header)))
        elif _month(folder) in months:
            notes["listed_of_visits_without_images"] += 1
    dropped = []
    for folder, words in sorted(listing.unreadable.items()):
        if _depth(folder) >= _DEPTH_OF_SUBJECT:
            images.append(Image(folder, Header(reason=UNREADABLE_FOLDER, detail=words), False))
        elif _depth(folder):
            row = Dropped("", "", _month(folder), folder, UNREADABLE_FOLDER, words)
            dropped.append(row)
        else:
            notes["unreadable_folders_elsewhere"] += 1
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


def sources(images: Iterable[Image]) -> list[str]:
    """Paths of the images of one visit, that which counts first; the undated are the earliest."""
    ordered = sorted(images, key=lambda image: (image.header.taken, image.source), reverse=True)
    return [image.source for image in ordered]


def _image_files(listing: tree.Tree, notes: collections.Counter[str]) -> dict[str, list[str]]:
    """Names of the images by the folder of a barcode; counts what else there is."""
    notes["empty_folders"] = notes["other_files"] = notes["files_elsewhere"] = 0
    parents = {folder.rpartition("/")[0] for folder in [*listing.files, *listing.unreadable]}
    found = {}
    for folder, names in listing.files.items():
        rest = [name for name in names if not name.endswith(_MARKS)]
        if _depth(folder) < len(_LEVELS):
            notes["files_elsewhere"] += len(rest)
        elif images := [name for name in rest if NUMBERED.fullmatch(name)]:
            notes["other_files"] += len(rest) - len(images)
            found[folder] = images
        else:
            notes["other_files"] += len(rest)
        notes["empty_folders"] += not names and folder not in parents
    return found


def _read_images(
    root: pathlib.Path, files: dict[str, list[str]], told: dict[str, Header], reader: Reader
) -> Iterator[Image]:
    """Reads one header a folder, and of a folder that holds no MR series all.

    Where a table of contents tells what a folder holds, of films and series of interest alone: whom
    they show, no table vouches for.
    """
    paths = {folder: [f"{folder}/{name}" for name in names] for folder, names in files.items()}
    asked = [of for folder, of in paths.items() if _is_of_interest(told.get(folder))]
    headers = reader.read(root, [first for first, *_ in asked])
    rest = [path for first, *more in asked if not _is_series(headers[first], 1) for path in more]
    headers |= reader.read(root, rest) if rest else {}
    for folder, of in paths.items():
        pairs = [_as_told(told.get(folder), headers.get(path)) for path in of]
        known = [header for header in pairs if header]
        first = next((header for header in known if not header.reason), known[0])
        if _is_series(first, len(of)):
            yield Image(folder, first, is_series=True)
        else:
            yield from (Image(path, header, False) for path, header in zip(of, known))


def _is_of_interest(told: Header | None) -> bool:
    """Whether a header is to be read beside what a table of contents tells, None: nothing."""
    return not told or bool(film_sides(told)) or told.description.upper() in SERIES


def _as_told(told: Header | None, found: Header | None) -> Header | None:
    """What a table of contents tells of an image, and the header of what it does not tell."""
    if told is None or found is None:
        return told or found
    if found.reason:
        return dataclasses.replace(told, reason=found.reason, detail=found.detail)
    # A header may tell the time, too.
    return dataclasses.replace(found, description=told.description, taken=found.taken or told.taken)


def _is_series(header: Header, num_files: int) -> bool:
    """Whether a folder holds a series, by its first header that can be read."""
    if header.reason:
        return num_files > 1
    # A table of contents tells no modality.
    is_mr = header.modality == "MR" or (not header.modality and num_files > 1)
    return is_mr and not film_sides(header)


def _depth(folder: str) -> int:
    """At which level of the layout a folder lies, 5 of a barcode; 0 of one that lies elsewhere."""
    parts = folder.split("/")
    fits = len(parts) <= len(_LEVELS) and all(map(re.fullmatch, _LEVELS, parts))
    return len(parts) if fits else 0


def _month(path: str) -> int:
    """Months since baseline, of the first part of a path."""
    found = _MONTH.fullmatch(path.split("/")[0])
    return int(found[1]) if found else _ELSEWHERE
