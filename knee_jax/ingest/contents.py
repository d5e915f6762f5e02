"""Tables of contents of a study's images, which can replace the headers of the images.

OAI's own contents.csv (since withdrawn) has ParticipantID, Folder, StudyDate and SeriesDescription;
public lists of the films that were read, such as OAI_summary.csv, have ID, Folder, StudyDate and
Visit, and list the bilateral films only. Folder is {release}/{subject}/{date}/{barcode}.
"""

import contextlib
import datetime
import pathlib
import re

import pandas as pd

from knee_jax import foreign_tables
from knee_jax.errors import UserError
from knee_jax.ingest import archives
from knee_jax.ingest.headers import Header

FILES = ("contents*.csv", "oai_summary.csv")
"""Names of such tables under tables/, in upper or lower case."""

BILATERAL = "Bilateral PA Fixed Flexion Knee"
"""SeriesDescription of OAI's bilateral films."""

SUBJECT = re.compile(r"\d{7}")
"""Pattern of a subject id of OAI."""

# Month of each release, by the first number of the release.
_MONTHS = {0: 0, 1: 12, 2: 18, 3: 24, 4: 30, 5: 36, 6: 48, 8: 72, 10: 96}
_DATES = ("%Y%m%d", "%Y-%m-%d", "%m/%d/%Y", "%d%b%Y")


def read_contents(tables: pathlib.Path) -> dict[str, Header]:
    """Read all tables of contents in a folder.

    Returns:
        Headers by folder, {month}m/{release}/{subject}/{date}/{barcode}; empty without a table. The
        modality is unknown. If several rows name a folder, the first one with a description counts.

    Raises:
        UserError: A table cannot be read or lacks a column, a row's folder is not OAI's, its date
            is not a date, or its subject or visit is not that of its folder.
    """
    headers: dict[str, Header] = {}
    if not archives.is_folder(tables):
        return headers
    paths = [tables / name for name in sorted(archives.names(tables))]
    paths = [path for path in paths if _is_contents(path)]
    for path in paths:
        table = _read(path)
        rows = table.drop_duplicates()
        for row, (below, visit, subject, description, date) in zip(
            rows.index, rows.to_numpy().tolist()
        ):
            # Cells are not quoted: misplaced, they may hold anything, even a name.
            where = f"{path}, row {row + 1}"
            folder = _folder(where, below, visit, subject)
            if description:
                header = Header(description=description, taken=_iso_date(where, date))
                headers.setdefault(folder, header)
    return headers


def _is_contents(path: pathlib.Path) -> bool:
    name = pathlib.PurePath(path.name.lower())
    return any(name.match(pattern) for pattern in FILES)


def _read(path: pathlib.Path) -> pd.DataFrame:
    """Read the columns folder, visit, subject, description and date, as text."""
    table = foreign_tables.read_table(
        path, fallback="latin-1", data=archives.read(path)
    ).reset_index(drop=True)
    table.columns = table.columns.str.strip().str.lower()
    # A list of readings has visits, and no descriptions.
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
    """Return a row's folder below that of its month, known from the release or else the visit."""
    release, *rest = folder.split("/")
    month = month_of(release)
    of_visit = int(visit[:2]) if re.fullmatch(r"\d\dm", visit) else None
    if len(rest) != 3 or not SUBJECT.fullmatch(rest[0]) or (month is None and of_visit is None):
        raise UserError(
            f"{where}: the folder is not {{release}}/{{subject}}/{{date}}/{{barcode}} of a release "
            "such as 0.C.2; correct or remove the row"
        )
    if (visit and of_visit is None) or (None not in (month, of_visit) and month != of_visit):
        raise UserError(
            f"{where}: the visit is not that of its folder's release, as 12m is of 1.C.2; correct "
            "or remove the row"
        )
    if subject and subject != rest[0]:
        raise UserError(f"{where}: another subject than its folder's; correct or remove the row")
    return f"{of_visit if month is None else month:02d}m/{folder}"


def month_of(release: str) -> int | None:
    """Return the month of the visit whose images a release of OAI holds, or None if unknown."""
    number = release.partition(".")[0]
    return _MONTHS.get(int(number)) if number.isdecimal() else None


def _iso_date(where: str, text: str) -> str:
    """Return a date in the form of DICOM headers, 20041231, so that dates can be compared."""
    for form in _DATES:
        with contextlib.suppress(ValueError):
            return datetime.datetime.strptime(text, form).strftime("%Y%m%d")
    if not text:
        return ""
    raise UserError(f"{where}: StudyDate is no date such as 20041231; correct or remove the row")
