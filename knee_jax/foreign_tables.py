"""Tables that people hand in, as spreadsheets and other software write them.

One reader for all of them: text in UTF-8, or in UTF-16 or UTF-32 with a byte-order mark, separated
by commas, semicolons, tabs or '|'. Cells come out as they are, since '007' and 'NA' may be names.
What does not hold together is refused by its line, and no cell is quoted, which may name a person.
"""

import codecs
import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from knee_jax.errors import UserError

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "#N/A", ".")
"""Cells that stand for no value in a column of numbers."""

_MARKS = (
    # That of UTF-32 begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
_SEPARATORS = ",;\t|"
_OTHER_FILES = {
    b"PK\x03\x04": "a workbook or archive; save the sheet as CSV",
    b"\xd0\xcf\x11\xe0": "a workbook; save the sheet as CSV",
    b"\x1f\x8b": "compressed; unpack it",
    b"%PDF": "a PDF document; save the table as CSV",
    b"SQLite": "a database; export the table as CSV",
}
_REMEDY = "name the file's encoding, as --encoding=cp1252, or save it as UTF-8"
_WEB_PAGE = (b"<!doctype", b"<html")
_DECIMAL_COMMA = re.compile(r"[-+]?\d*,\d+(?:[eE][-+]?\d+)?")


def read_table(
    path: Path | str,
    encoding: str | None = None,
    *,
    fallback: str | None = None,
    remedy: str = _REMEDY,
    data: bytes | None = None,
) -> pd.DataFrame:
    """Read a table as text.

    Args:
        path: Path of the file.
        encoding: Encoding of the file; None: from its byte-order mark, otherwise UTF-8.
        fallback: Encoding of a file that is not UTF-8; None: it is refused.
        remedy: Advice for a file that is not UTF-8.
        data: Content of the file, if it has been read already.

    Returns:
        Cells exactly as they are, '' where empty; names of columns without blanks around them. The
        index has the line of each row, from 1 for the first of the file; empty lines are left out.

    Raises:
        UserError: The file cannot be read as a table, or a row has more or fewer fields than the
            header. One empty field at the end of a row is no field.
    """
    rows = read_rows(path, encoding, fallback=fallback, remedy=remedy, data=data)
    header = [name.strip() for name in rows[0][1]]
    body = rows[1:]
    if not header[-1] and all(len(row) < len(header) or not row[-1].strip() for _, row in body):
        header = header[:-1]
    _check_header(path, header)
    cells = [_fit(path, line, row, len(header)) for line, row in body]
    index = pd.Index([line for line, _ in body], name="line", dtype="int64")
    return pd.DataFrame(cells, index=index, columns=header, dtype=str)


def read_rows(
    path: Path | str,
    encoding: str | None = None,
    *,
    fallback: str | None = None,
    remedy: str = _REMEDY,
    data: bytes | None = None,
) -> list[tuple[int, list[str]]]:
    """Read the rows of a table that are not empty, each with its line, as `read_table` does.

    They may have any number of fields, and the first is as any other.
    """
    data = _read(path) if data is None else data
    _check_kind(path, data)
    text = _decode(path, data, encoding, fallback, remedy)
    if separator := re.match(r"sep=(.)\r?\n", text):
        # A line for Excel.
        return _split(path, text[separator.end() :], separator[1], first=2)
    return _split(path, text, _separator(text), first=1)


def numbers(column: pd.Series) -> pd.Series:
    """Return the values of a column of text, float64; NaN where missing or no number.

    A comma within a number is a decimal one, as some spreadsheets write it.
    """
    text = column.astype(str).str.strip()
    with_comma = text.str.fullmatch(_DECIMAL_COMMA)
    text = text.mask(with_comma, text.str.replace(",", "."))
    return pd.to_numeric(text.mask(text.isin(MISSING)), errors="coerce").astype("float64")


def is_missing(column: pd.Series) -> pd.Series:
    """Return for each cell of text whether it stands for no value."""
    return column.astype(str).str.strip().isin(MISSING)


def identifiers(column: pd.Series) -> pd.Series:
    """Return subject ids as text, without the '.0' of a spreadsheet that took them for numbers."""
    return column.astype(str).str.strip().str.replace(r"^(\d+)\.0+$", r"\1", regex=True)


def decimals(columns: pd.DataFrame) -> int:
    """Return the most digits after the point of the numbers from 0.1 to 1 in columns of text.

    Smaller ones have more, where a number of digits is kept that counts.
    """
    cells = pd.unique(columns.astype(str).to_numpy().ravel())
    found = (re.fullmatch(r"\s*\+?0?[.,]([1-9]\d*)\s*", cell) for cell in cells)
    return max((len(m[1]) for m in found if m), default=0)


def _read(path: Path | str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; correct the path") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or 'it cannot be read'}") from None


def _check_kind(path: Path | str, data: bytes) -> None:
    if data[:512].lstrip().lower().startswith(_WEB_PAGE):
        raise UserError(f"{path}: a web page, not a table: the download failed; repeat it")
    for begin, what in _OTHER_FILES.items():
        if data.startswith(begin):
            raise UserError(f"{path}: not a table as text, but {what}")


def _decode(
    path: Path | str, data: bytes, encoding: str | None, fallback: str | None, remedy: str
) -> str:
    of_mark = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    name = encoding or of_mark or "utf-8"
    try:
        text = data.decode(name).removeprefix("\ufeff")
    except LookupError:
        raise UserError(
            f"--encoding={encoding}: no such encoding; cp1252, latin-1 and utf-16 are some"
        ) from None
    except UnicodeError as error:
        if fallback and not encoding and not of_mark:
            return _decode(path, data, fallback, None, remedy)
        at = error.start if isinstance(error, UnicodeDecodeError) else len(data)
        byte = f"0x{data[at]:02x}" if at < len(data) else "its end"
        line = data[:at].count(b"\n") + 1
        raise UserError(
            f"{path}: byte {at + 1} ({byte}), in line {line}, is not {name.upper()}: {remedy}"
        ) from None
    if "\0" in text:
        raise UserError(
            f"{path}: holds bytes of zero, as UTF-16 without its mark or a damaged file does: "
            "name the encoding, as --encoding=utf-16-le, or save it as UTF-8"
        )
    if not text.strip():
        raise UserError(f"{path}: is empty; it needs a header and rows")
    return text


def _separator(text: str) -> str:
    """Return the character that divides the header into most fields."""
    header = next(line for line in text.splitlines() if line.strip())
    outside = re.sub(r'"[^"]*"', "", header)
    return max(_SEPARATORS, key=outside.count)


def _split(path: Path | str, text: str, separator: str, first: int) -> list[tuple[int, list[str]]]:
    """Return the rows that are not empty, each with the line on which it begins."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows, line = [], first
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append((line, row))
            line = first + reader.line_num
    except csv.Error:
        raise UserError(
            f"{path}: line {line}: a quotation mark is not closed, or stands within a field"
        ) from None
    if not rows:
        raise UserError(f"{path}: is empty; it needs a header and rows")
    return rows


def _check_header(path: Path | str, header: Sequence[str]) -> None:
    if "" in header:
        raise UserError(f"{path}: column {header.index('') + 1} has no name; give it one")
    twice = [name for name in dict.fromkeys(header) if header.count(name) > 1]
    if twice:
        raise UserError(f"{path}: two columns are called {twice[0]}; rename or remove one")


def _fit(path: Path | str, line: int, row: Sequence[str], width: int) -> list[str]:
    """Return the cells of a row, which must be as many as the header's."""
    cells = list(row)
    if len(cells) == width + 1 and not cells[-1].strip():
        cells = cells[:-1]
    if len(cells) != width:
        remedy = (
            "name the column, or quote a field that holds the separator"
            if len(cells) > width
            else "it breaks off; complete it, or copy the table again"
        )
        raise UserError(
            f"{path}: line {line} has {len(cells)} fields, the header {width}: {remedy}"
        )
    return cells
