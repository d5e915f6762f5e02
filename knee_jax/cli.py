"""How every command starts, and how its users' mistakes are told: one line, exit status 1."""

import errno
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

from absl import app, flags, logging

from knee_jax.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MENDABLE = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


def run(main: Callable[[list[str]], object]) -> None:
    """Parses the flags and runs `main(argv)` as `absl.app.run` does.

    What the user can mend ends in one line on stderr and exit status 1: a `UserError`, a mistyped
    flag or config field, a file that is missing or not ours to read, a full disk. Ctrl-C exits with
    130. Anything else is a fault of the program and keeps its traceback.
    """

    def quietly(argv: list[str]) -> object:
        # Orbax and TFDS log every step they take at the level below.
        logging.set_verbosity(logging.WARNING)
        # Through absl's logger speak Orbax and TFDS, who warn even of what they were asked to do.
        logging.get_absl_logger().setLevel("ERROR")
        return main(argv)

    try:
        app.run(quietly, flags_parser=_parse_flags)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        _fail(line)


def explain(error: BaseException) -> str | None:
    """Says in one line what the user can mend about `error`; None if there is nothing."""
    chain = list(_causes(error))
    for each in chain:
        if isinstance(each, UserError):
            return str(each)
    if is_full_disk(error):
        names = [name for each in chain if (name := getattr(each, "filename", None))]
        place = f"{names[0]}: " if names else ""
        return f"{place}the disk is full; make room, or name a folder on another disk"
    if isinstance(error, OSError) and (isinstance(error, _MENDABLE) or error.errno == errno.EROFS):
        return f"{error.filename}: {(error.strerror or 'cannot be opened').lower()}"
    # So ml_collections tells of a config file that is not there, as soon as the config is used.
    missing = re.search(r"No such file or directory: '(.+)'", str(error))
    return f"{missing[1]}: no such file" if missing else None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def is_full_disk(error: BaseException) -> bool:
    """Whether a disk, a quota or a permitted file size that is full lies beneath `error`."""
    # ArrayRecord and Orbax turn the system's error into their own and keep only its words.
    return any(
        (isinstance(each, OSError) and each.errno in _FULL)
        or any(os.strerror(code) in str(each) for code in _FULL)
        for each in _causes(error)
    )


def _parse_flags(argv: list[str]) -> list[str]:
    try:
        program, *words = flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:
        # A config is locked: ml_collections so refuses an override of a field that it has not.
        key = error.args[0]
        text = str(key.args[0] if isinstance(key, KeyError) else key)
        _fail("the config has no field " + text.replace("\n", ". "))
    except flags.Error as error:
        # Where a config file raises, ml_collections packs the whole traceback into the message.
        what, _, rest = str(error).partition("Error whilst parsing config file:")
        last = rest.strip().splitlines()[-1:]
        _fail(what + "".join(last).removeprefix("knee_jax.errors.UserError: "))
    if words:
        _fail(f"unexpected argument {words[0]!r}; flags are written --name=value")
    return [program]


def _fail(line: str) -> NoReturn:
    print("error:", *line.split(), file=sys.stderr)
    sys.exit(1)
