"""A table of a study's images that a user has → what their headers would have told.

OAI's own contents.csv (since withdrawn) has ParticipantID, Folder, StudyDate and SeriesDescription;
public lists of the films that were read, such as OAI_summary.csv, have ID, Folder, StudyDate and
Visit, and hold nothing but the bilateral films. Folder is {release}/{subject}/{date}/{barcode}.
"""

import pathlib
import re

import pandas as pd

from knee_jax.errors import UserError
from knee_jax.ingest.headers import Header

FILES = ("contents*.csv", "oai_summary.csv")
"""Names of such tables in any case, under tables/."""

BILATERAL = "Bilateral PA Fixed Flexion Knee"
"""SeriesDescription of OAI's bilateral films."""

SUBJECT = re.compile(r"\d{7}")
"""A subject id of OAI."""

_MONTHS = {0: 0, 1: 12, 2: 18, 3: 24, 4: 30, 5: 36, 6: 48, 8: 72, 10: 96}
# By the first number of a release.


def read_contents(tables: pathlib.Path) -> dict[str, Header]:
    """Reads all such tables of a folder.

    Returns:
        By folder, {month}m/{release}/{subject}/{date}/{barcode}; none where there is no table. The
        modality is not told. Of several rows of a folder the first one that describes it counts.

    Raises:
        UserError: a table cannot be read, lacks a column, or a row's folder is none of OAI's.
    """
    found: dict[str, Header] = {}
    if not tables.is_dir():
        return found
    paths = [path for path in sorted(tables.iterdir()) if _is_contents(path)]
    for path in paths:
        table = _read(path)
        for below, visit, description, date in table.drop_duplicates().to_numpy().tolist():
            folder = _folder(path, below, visit)
            if description:
                found.setdefault(folder, Header(description=description, taken=date))
    return found


def _is_contents(path: pathlib.Path) -> bool:
    name = pathlib.PurePath(path.name.lower())
    return any(name.match(pattern) for pattern in FILES)


def _read(path: pathlib.Path) -> pd.DataFrame:
    """Columns folder, visit, description and date, as text."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="latin-1")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a table with commas: {error}") from error
    table.columns = table.columns.str.strip().str.lower()
    # A list of readings has the knees' sides, and no descriptions.
    wanted = ["folder", "studydate"]
    wanted.append("visit" if "klg" in table else "seriesdescription")
    missing = [name for name in wanted if name not in table]
    if missing:
        raise UserError(f"{path}: there is no column {' or '.join(missing)}; see contents.csv")
    cells = table[wanted].apply(lambda column: column.str.strip())
    return pd.DataFrame(
        {
            "folder": cells["folder"].str.replace("\\", "/").str.strip("/"),
            "visit": cells.get("visit", ""),
            "description": cells.get("seriesdescription", BILATERAL),
            "date": cells["studydate"],
        }
    )


def _folder(path: pathlib.Path, folder: str, visit: str) -> str:
    """A row's folder with its month, which the visit tells, or else the release."""
    release, *rest = folder.split("/")
    number = release.partition(".")[0]
    month = visit or (f"{_MONTHS[int(number)]:02d}m" if _is_release(number) else "")
    if len(rest) != 3 or not SUBJECT.fullmatch(rest[0]) or not month:
        raise UserError(
            f"{path}: the folder {folder!r} is not {{release}}/{{subject}}/{{date}}/{{barcode}} of "
            "a release such as 0.C.2; correct or remove the row"
        )
    return f"{month}/{folder}"


def _is_release(number: str) -> bool:
    return number.isdecimal() and int(number) in _MONTHS
