"""Images of a study tree laid out as OAI's: films and MR series.

{month}m/{release}/{subject}/{date}/{barcode}/ is a folder of one film, 001, or of the slices of an
MR series, as known from its header (`headers`) or from a table of contents (`contents`). Of several
images of one visit that show the same, the last one taken counts, by date and time and then by
path: an image was repeated if the first one had failed.
"""

import collections
import dataclasses
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence

from knee_jax.ingest import contents, landmarks, tree
from knee_jax.ingest.dicom import CONTRADICTS
from knee_jax.ingest.headers import Header, HeaderLoader
from knee_jax.ingest.report import Exclusion
from knee_jax.ingest.series import NUMBERED

LAYOUT = "{month}m/{release}/{subject}/{date}/{barcode}/"

SERIES = {"SAG_3D_DESS_LEFT": "L", "SAG_3D_DESS_RIGHT": "R"}
"""Side of each MR series that is read, by SeriesDescription."""

NOT_ON_DISK = "not_on_disk"
UNREADABLE_FOLDER = "unreadable_folder"

_MONTH = re.compile(r"(\d\d)m")
# The strictest pattern of each level: another name might be a person's.
_LEVELS = (r"\d\dm", r"\d[\w.]{0,7}", r"\d{7}", r"(19|20)\d\d([-_.]?\d\d){2}", r"\d+")
_DEPTH_OF_SUBJECT = 3
_LANDMARK_SUFFIXES = tuple(landmarks.SUFFIXES.values())
_ELSEWHERE = -1


@dataclasses.dataclass(frozen=True)
class Image:
    """One film, or one MR series.

    Attributes:
        source: Path of the film or of the series' folder, relative to the study's root.
        header: Header of the film, or of the series' first readable file.
        is_series: Whether the image is an MR series.
    """

    source: str
    header: Header
    is_series: bool

    @property
    def subject(self) -> str:
        """Subject id in the path."""
        return self.source.split("/")[2]

    @property
    def month(self) -> int:
        """Months since baseline in the path."""
        return _month(self.source)

    def contradicts(self, check_subject: bool) -> tuple[str, str]:
        """Return the reason and detail if subject or visit contradict the path, otherwise ''.

        Args:
            check_subject: Whether the subject in the header is compared.
        """
        if check_subject and self.header.subject not in ("", self.subject.upper()):
            return "subject_contradicts", CONTRADICTS
        if contents.month_of(self.source.split("/")[1]) not in (None, self.month):
            return "visit_contradicts", "its release is of another visit than its month"
        return "", ""

    def exclude(self, side: str, reason: str, detail: str) -> Exclusion:
        """Return the exclusion of one knee on the image, or of all its knees if `side` is ''."""
        return Exclusion(self.subject, side, self.month, self.source, reason, detail)


def find_images(
    root: pathlib.Path, loader: HeaderLoader, months: Sequence[int] = range(100)
) -> tuple[list[Image], list[Exclusion], collections.Counter[str]]:
    """Find all films and series of some months, whatever they show.

    Args:
        root: Root folder of the study.
        loader: Loader of headers.
        months: Months since baseline; the folders of other months are not entered.

    Returns:
        Images in the order of their paths. They include images of a table of contents that are not
        on the disk (reason `not_on_disk`) and unlistable folders of a subject or below (reason
        `unreadable_folder`). Then the unlistable folders above the subjects. Then counts of
        `empty_folders`, `other_files` (beside the images), `files_elsewhere`, `listed_elsewhere`
        and `unreadable_folders_elsewhere` (outside the layout), `listed_of_visits_without_images`
        and those of `tree.walk`.
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
    listed = contents.read_contents(root / "tables")
    images = list(_read_images(root, files, listed, loader))
    present = {_month(folder) for folder in files}
    for folder in listed.keys() - files.keys():
        if not _depth(folder):
            notes["listed_elsewhere"] += 1
        elif _month(folder) in present:
            detail = "the table of contents has it, the disk has not"
            header = dataclasses.replace(listed[folder], reason=NOT_ON_DISK, detail=detail)
            images.append(Image(folder, header, not film_sides(header)))
        elif _month(folder) in months:
            notes["listed_of_visits_without_images"] += 1
    exclusions = []
    for folder, words in sorted(listing.unreadable.items()):
        if _depth(folder) >= _DEPTH_OF_SUBJECT:
            images.append(Image(folder, Header(reason=UNREADABLE_FOLDER, detail=words), False))
        elif _depth(folder):
            row = Exclusion("", "", _month(folder), folder, UNREADABLE_FOLDER, words)
            exclusions.append(row)
        else:
            notes["unreadable_folders_elsewhere"] += 1
    return sorted(images, key=lambda image: image.source), exclusions, notes


def film_sides(header: Header) -> str:
    """Return the knees on a film of interest: 'RL', 'R', 'L' or '?' (unknown side); '' for others.

    The side of a single knee is in the description, otherwise in Laterality; it is unknown if these
    contradict each other. A film without a description, as left by some tools that remove names, is
    taken to show both knees unless it has a laterality.
    """
    words = set(re.findall(r"[A-Z]+", header.description.upper()))
    if not words:
        return "" if header.side or header.modality == "MR" else "RL"
    if "PA" not in words or not any(word.startswith(("FLEX", "KNEE")) for word in words):
        return ""
    if any(word.startswith("BIL") for word in words):
        return "RL"
    named = {word[0] for word in words & {"LEFT", "RIGHT", "L", "R"}} | set(header.side)
    return named.pop() if len(named) == 1 else "?"


def sources(images: Iterable[Image]) -> list[str]:
    """Return the paths of the images of one visit, latest first; undated ones are the earliest."""
    ordered = sorted(images, key=lambda image: (image.header.taken, image.source), reverse=True)
    return [image.source for image in ordered]


def _image_files(listing: tree.Tree, notes: collections.Counter[str]) -> dict[str, list[str]]:
    """Return the names of the images by barcode folder; count all other files."""
    notes["empty_folders"] = notes["other_files"] = notes["files_elsewhere"] = 0
    parents = {folder.rpartition("/")[0] for folder in [*listing.files, *listing.unreadable]}
    found = {}
    for folder, names in listing.files.items():
        rest = [name for name in names if not name.endswith(_LANDMARK_SUFFIXES)]
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
    root: pathlib.Path, files: dict[str, list[str]], listed: dict[str, Header], loader: HeaderLoader
) -> Iterator[Image]:
    """Read one header per folder, and all headers of a folder that is not an MR series.

    If a table of contents describes a folder, only headers of films and series of interest are
    read; their subject is not taken from the table.
    """
    paths = {folder: [f"{folder}/{name}" for name in names] for folder, names in files.items()}
    to_read = [of for folder, of in paths.items() if _is_of_interest(listed.get(folder))]
    headers = loader.read(root, [first for first, *_ in to_read])
    rest = [path for first, *more in to_read if not _is_series(headers[first], 1) for path in more]
    headers |= loader.read(root, rest) if rest else {}
    for folder, of in paths.items():
        pairs = [_merge_headers(listed.get(folder), headers.get(path)) for path in of]
        known = [header for header in pairs if header]
        first = next((header for header in known if not header.reason), known[0])
        if _is_series(first, len(of)):
            yield Image(folder, first, is_series=True)
        else:
            yield from (Image(path, header, False) for path, header in zip(of, known))


def _is_of_interest(listed: Header | None) -> bool:
    """Return whether a file's header must be read, given that of a table of contents."""
    return not listed or bool(film_sides(listed)) or listed.description.upper() in SERIES


def _merge_headers(listed: Header | None, found: Header | None) -> Header | None:
    """Merge the header from a table of contents, which takes precedence, with that of the file."""
    if listed is None or found is None:
        return listed or found
    if found.reason:
        return dataclasses.replace(listed, reason=found.reason, detail=found.detail)
    # The file's header may also have the time.
    return dataclasses.replace(
        found, description=listed.description, taken=found.taken or listed.taken
    )


def _is_series(header: Header, num_files: int) -> bool:
    """Return whether a folder holds a series, by its first readable header."""
    if header.reason:
        return num_files > 1
    # A table of contents has no modality.
    is_mr = header.modality == "MR" or (not header.modality and num_files > 1)
    return is_mr and not film_sides(header)


def _depth(folder: str) -> int:
    """Return the level of a folder in the layout, 5 for a barcode; 0 outside the layout."""
    parts = folder.split("/")
    fits = len(parts) <= len(_LEVELS) and all(map(re.fullmatch, _LEVELS, parts))
    return len(parts) if fits else 0


def _month(path: str) -> int:
    """Return the months since baseline in a path's first part, -1 if it has none."""
    found = _MONTH.fullmatch(path.split("/")[0])
    return int(found[1]) if found else _ELSEWHERE
