"""A table of a study's images that a user has → what their headers would have told.

OAI's own contents.csv (since withdrawn) has ParticipantID, Folder, StudyDate and SeriesDescription;
public lists of the films that were read, such as OAI_summary.csv, have ID, Folder, StudyDate and
Visit, and hold nothing but the bilateral films. Folder is {release}/{subject}/{date}/{barcode}.
"""

import contextlib
import datetime
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
_DATES = ("%Y%m%d", "%Y-%m-%d", "%m/%d/%Y", "%d%b%Y")


def read_contents(tables: pathlib.Path) -> dict[str, Header]:
    """Reads all such tables of a folder.

    Returns:
        By folder, {month}m/{release}/{subject}/{date}/{barcode}; none where there is no table. The
        modality is not told. Of several rows of a folder the first one that describes it counts.

    Raises:
        UserError: a table cannot be read, lacks a column, or a row's folder is none of OAI's, its
            date none, or its subject or visit another than its folder's.
    """
    found: dict[str, Header] = {}
    if not tables.is_dir():
        return found
    paths = [path for path in sorted(tables.iterdir()) if _is_contents(path)]
    for path in paths:
        table = _read(path)
        rows = table.drop_duplicates()
        for row, (below, visit, subject, description, date) in zip(
            rows.index, rows.to_numpy().tolist()
        ):
            # Not quoted: in the wrong place may stand anything, a name too.
            where = f"{path}, row {row + 1}"
            folder = _folder(where, below, visit, subject)
            if description:
                header = Header(description=description, taken=_iso_date(where, date))
                found.setdefault(folder, header)
    return found


def _is_contents(path: pathlib.Path) -> bool:
    name = pathlib.PurePath(path.name.lower())
    return any(name.match(pattern) for pattern in FILES)


def _read(path: pathlib.Path) -> pd.DataFrame:
    """Columns folder, visit, subject, description and date, as text."""
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
            "subject": table.get("participantid", pd.Series("", table.index)).str.strip(),
            "description": cells.get("seriesdescription", BILATERAL),
            "date": cells["studydate"],
        }
    )


def _folder(where: str, folder: str, visit: str, subject: str) -> str:
    """A row's folder with its month, which the release tells, or else the visit."""
    release, *rest = folder.split("/")
    month = month_of(release)
    told = int(visit[:2]) if re.fullmatch(r"\d\dm", visit) else None
    if len(rest) != 3 or not SUBJECT.fullmatch(rest[0]) or (month is None and told is None):
        raise UserError(
            f"{where}: the folder is not {{release}}/{{subject}}/{{date}}/{{barcode}} of a release "
            "such as 0.C.2; correct or remove the row"
        )
    if (visit and told is None) or (None not in (month, told) and month != told):
        raise UserError(
            f"{where}: the visit is not that of its folder's release, as 12m is of 1.C.2; correct "
            "or remove the row"
        )
    if subject and subject != rest[0]:
        raise UserError(f"{where}: another subject than its folder's; correct or remove the row")
    return f"{told if month is None else month:02d}m/{folder}"


def month_of(release: str) -> int | None:
    """Months since baseline of the visit whose images a release of OAI holds; None: unknown."""
    number = release.partition(".")[0]
    return _MONTHS.get(int(number)) if number.isdecimal() else None


def _iso_date(where: str, text: str) -> str:
    """A date as headers tell it, 20041231, so that dates can be compared."""
    for form in _DATES:
        with contextlib.suppress(ValueError):
            return datetime.datetime.strptime(text, form).strftime("%Y%m%d")
    if not text:
        return ""
    raise UserError(f"{where}: StudyDate is no date such as 20041231; correct or remove the row")
