"""SAS files for tests, written by the C library in pyreadstat, which has no function for it."""

import ctypes
import math
from pathlib import Path

import pytest

_TEXT, _NUMBER = 0, 5
_SINK = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
_ANSWERS = {"readstat_writer_init": ctypes.c_void_p, "readstat_add_variable": ctypes.c_void_p}


def _library() -> ctypes.CDLL:
    from pyreadstat import _readstat_writer

    library = ctypes.CDLL(_readstat_writer.__file__)
    if not hasattr(library, "readstat_begin_writing_sas7bdat"):
        pytest.skip("pyreadstat hides its C library here")
    for name, answer in _ANSWERS.items():
        getattr(library, name).restype = answer
    return library


def write_sas7bdat(path: Path, columns: dict[str, list]) -> None:
    """Writes a table.

    Args:
        path: of the file.
        columns: name → values: all text, or numbers with NaN for SAS's '.' and one capital letter
            for a special missing value.
    """
    library = _library()
    written = bytearray()

    @_SINK
    def sink(data, length, _):
        written.extend(ctypes.string_at(data, length))
        return length

    def call(name, *arguments):
        error = getattr(library, name)(writer, *arguments)
        assert error == 0, f"{name}: error {error}"

    writer = ctypes.c_void_p(library.readstat_writer_init())
    call("readstat_set_data_writer", sink)
    # Only letters that are special values stand in a column of numbers.
    texts = {name: all(isinstance(v, str) for v in values) for name, values in columns.items()}
    variables = []
    for name, is_text in texts.items():
        kind, width = (_TEXT, 16) if is_text else (_NUMBER, 8)
        arguments = (name.encode(), kind, ctypes.c_size_t(width))
        variables.append(ctypes.c_void_p(library.readstat_add_variable(writer, *arguments)))
    rows = list(zip(*columns.values(), strict=True))
    call("readstat_begin_writing_sas7bdat", None, ctypes.c_long(len(rows)))
    for row in rows:
        call("readstat_begin_row")
        for variable, value, is_text in zip(variables, row, texts.values()):
            if is_text:
                call("readstat_insert_string_value", variable, value.encode())
            elif isinstance(value, str):
                call(
                    "readstat_insert_tagged_missing_value", variable, ctypes.c_char(value.encode())
                )
            elif math.isnan(value):
                call("readstat_insert_missing_value", variable)
            else:
                call("readstat_insert_double_value", variable, ctypes.c_double(value))
        call("readstat_end_row")
    call("readstat_end_writing")
    library.readstat_writer_free(writer)
    path.write_bytes(written)
