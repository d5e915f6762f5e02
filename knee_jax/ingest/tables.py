"""Columns of text, codes and numbers, read from the studies' tables on disk.

There are three kinds: SAS files, the same tables as text separated by '|', and the tab-separated
tables of the NIMH Data Archive, whose second line describes the columns.
"""

import contextlib
import pathlib
import re
import tempfile
from collections.abc import Iterable, Mapping

import pandas as pd
import pyreadstat

from knee_jax import foreign_tables
from knee_jax.errors import UserError
from knee_jax.ingest import archives, tree

SUFFIXES = ("sas7bdat", "txt", "csv")
"""Suffixes of a table's file, in order of preference."""

# Blank, SAS's '.', or a special missing code: .P prosthesis, .T poor image, .A not expected.
_MISSING = re.compile(r"\.?[A-Z]?")
_WEB_PAGE = (b"<!doctype", b"<html")


def look_for_table(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    """Find a table in a folder or below it, in upper or lower case; return None if there is none.

    Args:
        folder: Folder of the tables.
        name: Name of the file without its suffix, in lower case.

    Raises:
        UserError: Two files of the same kind have this name.
    """
    names = [f"{name}.{suffix}" for suffix in SUFFIXES]
    listed = tree.walk(folder).files.items() if archives.is_folder(folder) else ()
    files = [folder / below / file for below, of_folder in listed for file in of_folder]
    for each in names:
        found = [path for path in files if path.name.lower() == each]
        if len(found) > 1:
            raise UserError(f"{found[0]} and {found[1]} are both {each}: leave the right one here")
        if found:
            return found[0]
    return None


def find_table(folder: pathlib.Path, *names: str) -> pathlib.Path:
    """Find the table that has one of several names.

    The first name is that of the study's own release, the others those of the archive's text files.

    Args:
        folder: Folder of the tables, which may lie below it.
        names: Names of the file without its suffix, in lower case.

    Raises:
        UserError: There is no table, or there are tables of two releases.
    """
    found = [path for name in names if (path := look_for_table(folder, name))]
    if len(found) > 1:
        raise UserError(
            f"{found[0]} and {found[1]} are two releases of one table: leave the right one here"
        )
    if not found:
        files = " or ".join([f"{names[0]}.sas7bdat", *(f"{name}.txt" for name in names)])
        raise UserError(f"{folder}: the table {files} is missing; copy it here")
    return found[0]


def read_table(path: pathlib.Path, columns: Iterable[str] = ()) -> pd.DataFrame:
    """Read a table unchanged except for upper-case column names.

    Args:
        path: Path of a SAS file, or of text (`foreign_tables`).
        columns: Names of the required columns, in upper case.

    Raises:
        UserError: The file cannot be read as a table, has no rows, or lacks a column.
    """
    is_sas = path.suffix.lower() == ".sas7bdat"
    table = _read_sas(path) if is_sas else _read_text(path)
    table.columns = table.columns.str.strip().str.upper()
    check_columns(table, path, columns)
    if table.empty:
        raise UserError(f"{path}: the table has no rows; copy it again from the study")
    return table


def check_columns(table: pd.DataFrame, path: pathlib.Path, columns: Iterable[str]) -> None:
    """Check that the columns are present.

    Raises:
        UserError: A column is missing.
    """
    for column in columns:
        if column not in table.columns:
            raise UserError(f"{path}: the column {column} is missing; use the study's own table")


def _read_sas(path: pathlib.Path) -> pd.DataFrame:
    data = _read(path)
    if data[:512].lstrip().lower().startswith(_WEB_PAGE):
        raise UserError(f"{path}: a web page, not a table: the download failed; repeat it")
    try:
        with contextlib.ExitStack() as stack:
            file = str(path)
            if archives.on_disk(path) != path:
                unpacked = stack.enter_context(tempfile.NamedTemporaryFile(suffix=path.suffix))
                unpacked.write(data)
                unpacked.flush()
                file = unpacked.name
            # user_missing keeps SAS's special codes, as letters.
            table, _ = pyreadstat.read_sas7bdat(file, user_missing=True)
    except (pyreadstat.ReadstatError, MemoryError) as error:
        raise UserError(
            f"{path}: not a table as SAS writes it; copy it again from the study"
        ) from error
    return table


def _read(path: pathlib.Path) -> bytes:
    try:
        return archives.read(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or 'it cannot be read'}") from error


def _read_text(path: pathlib.Path) -> pd.DataFrame:
    # Studies write Latin-1; only codes and numbers of it are read.
    table = foreign_tables.read_table(path, fallback="latin-1", data=_read(path)).reset_index(
        drop=True
    )
    # The archive describes `subjectkey` in words; an identifier has no space.
    described = table.filter(regex="(?i)^ *subjectkey *$")[:1].apply(lambda cell: cell.str.strip())
    if described.apply(lambda cell: cell.str.contains(" ")).any(axis=None):
        table = table[1:].reset_index(drop=True)
    return table


def identifiers(column: pd.Series) -> pd.Series:
    """Return subject ids as text; SAS stores them as text or as numbers."""
    return column.astype(str).str.strip().str.removesuffix(".0")


def codes(column: pd.Series) -> pd.Series:
    """Return the codes before the colon of values: '1: Right' → '1', '.P: Prosthetic' → 'P'."""
    # Value by value: columns of grades have many rows and few values.
    text = column.astype("string").fillna("").astype(object)
    return text.map({value: _code(value) for value in text.unique()}).astype(object)


def _code(value: str) -> str:
    code = value.split(":")[0].strip()
    return code.removeprefix(".") if _MISSING.fullmatch(code) else code


def is_missing(column: pd.Series) -> pd.Series:
    """Return for each code of a column (of `codes`) whether it stands for no value."""
    return column.isin([code for code in column.unique() if _MISSING.fullmatch(code)])


def numbers(column: pd.Series, path: pathlib.Path) -> pd.Series:
    """Return the values of a column as floats, NaN if blank or a missing code.

    Args:
        column: Column of `read_table`.
        path: Path of the table, named in messages.

    Raises:
        UserError: A value is neither a number nor a code.
    """
    text = codes(column)
    missing = is_missing(text)
    numbers = pd.to_numeric(text.mask(missing), errors="coerce").astype("float64")
    wrong = numbers.isna() & ~missing
    if wrong.any():
        row = column.index[wrong][0]
        # The cell is not quoted: misplaced, it may hold anything, even a name.
        raise UserError(
            f"{path}: row {row + 1} of column {column.name} holds neither a number nor a code; use "
            "the study's own table"
        )
    return numbers


def named(column: pd.Series, names: Mapping[str, str], path: pathlib.Path) -> pd.Series:
    """Return the names of a column's codes, '' if blank or a missing code.

    Args:
        column: Column of `read_table`.
        names: Name of each code.
        path: Path of the table, named in messages.

    Raises:
        UserError: A code has no name.
    """
    text = codes(column).astype(str).str.removesuffix(".0")
    strange = ~text.isin(list(names)) & ~is_missing(text)
    if strange.any():
        row = column.index[strange][0]
        raise UserError(
            f"{path}: row {row + 1} of column {column.name} holds another code than "
            f"{', '.join(names)}; use the study's own table"
        )
    return text.map(names).fillna("").astype(str)
