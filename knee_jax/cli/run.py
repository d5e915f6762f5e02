"""Runner of commands: `--help`, flags, and users' mistakes as one line with exit status 1."""

import errno
import importlib
import re
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from absl import app, flags, logging

import knee_jax
from knee_jax.cli import HELP, TRAINING, show
from knee_jax.errors import STOPPED, Stopped, UserError, causes, is_full_disk

_MENDABLE = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
_FOLDERS = ("knee_jax.configs", "knee_jax.datasets")


def run_command(name: str, arguments: Sequence[str] | None = None) -> None:
    """Run the command `knee_jax.cli.NAME` and exit.

    What the user can mend ends in one line on stderr and exit status 1: a `UserError`, a mistyped
    flag or config field, a file that is missing or may not be read, a full disk. Ctrl-C exits with
    130, and SIGTERM with `errors.STOPPED`: a run saves its state first, and a second signal ends it
    at once. Anything else is a fault of the program and keeps its traceback.

    Args:
        name: Key of `COMMANDS`.
        arguments: Command line after the command's name; that of the process if None.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    command = module_of(name)
    choices = getattr(command, "CHOICES", ())
    try:
        command.define_flags()
        # Answers that need no run.
        if not set(HELP).isdisjoint(arguments):
            show(help_text(name, command))
            sys.exit(0)
        if "--help-config" in arguments and name in TRAINING:
            from knee_jax.config import reference

            show(reference.render())
            sys.exit(0)
        if "--version" in arguments:
            show(f"knee_jax {knee_jax.__version__}")
            sys.exit(0)
        if rewrite := getattr(command, "rewrite", None):
            arguments = rewrite(arguments)
        # ml_collections looks here for the fields that are changed.
        sys.argv = [f"knee-jax {name}", *arguments]
        app.run(
            lambda argv: _quietly(command, argv[1:]),
            flags_parser=lambda argv: _parse(
                name, argv, choices, getattr(command, "TAKES_WORDS", False)
            ),
        )
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Stopped as end:
        print(end, file=sys.stderr)
        sys.exit(STOPPED)
    except Exception as error:
        line = line_for_user(error)
        if line is None:
            raise
        fail(line)


def module_of(name: str) -> ModuleType:
    """Return the module of a command."""
    # A module `list` would hide the builtin in its package.
    return importlib.import_module(
        "knee_jax.cli." + {"list": "listing"}.get(name, name.replace("-", "_"))
    )


def help_text(name: str, command: ModuleType) -> str:
    """Return a command's docstring and all of its flags, which must already be defined."""
    modules = sorted(m for m in flags.FLAGS.flags_by_module_dict() if m.startswith("knee_jax.cli."))
    word = f" {'|'.join(command.CHOICES)}" if hasattr(command, "CHOICES") else ""
    parts = [f"usage: knee-jax {name}{word} [--FLAG=VALUE ...]", str(command.__doc__).strip()]
    for module in modules:
        # absl heads the flags with the name of the module that defines them.
        _, _, listed = flags.FLAGS.module_help(module).strip().partition("\n")
        parts.append(listed.replace("\n    (default: 'None')", ""))
    return "\n\n".join(parts)


def line_for_user(error: BaseException) -> str | None:
    """Return one line on what the user can mend about an error, or None if there is nothing."""
    chain = list(causes(error))
    for each in chain:
        if isinstance(each, UserError):
            return str(each)
        if isinstance(each, ModuleNotFoundError) and each.name in _FOLDERS:
            return (
                f"{each.name} cannot be imported, since knee_jax is not installed: run "
                "`pip install -e .` in its repository"
            )
    if is_full_disk(error):
        names = [name for each in chain if (name := getattr(each, "filename", None))]
        place = f"{names[0]}: " if names else ""
        return f"{place}the disk is full; make room, or name a folder on another disk"
    if isinstance(error, OSError) and (isinstance(error, _MENDABLE) or error.errno == errno.EROFS):
        return f"{error.filename}: {(error.strerror or 'cannot be opened').lower()}"
    # ml_collections reports a missing config file in this way, once the config is used.
    missing = re.search(r"No such file or directory: '(.+)'", str(error))
    return f"{missing[1]}: no such file" if missing else None


def fail(line: str) -> NoReturn:
    """Print an error in one line and exit with status 1."""
    print("error:", *line.split(), file=sys.stderr)
    sys.exit(1)


def _quietly(command: ModuleType, words: list[str]) -> object:
    # Orbax and TFDS log every step at the level below.
    logging.set_verbosity(logging.WARNING)
    # They also warn through absl's logger, even about what they were instructed to do.
    logging.get_absl_logger().setLevel("ERROR")
    return command.main(words)


def _parse(name: str, argv: list[str], choices: Sequence[str], takes_words: bool) -> list[str]:
    try:
        program, *words = flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:
        # A config is locked: ml_collections refuses to override a field that does not exist.
        key = error.args[0]
        text = str(key.args[0] if isinstance(key, KeyError) else key)
        paths = (word.partition("=")[0] for word in argv if word.startswith("--config."))
        given = [path for path in paths if text.partition("\n")[0].strip("'\"") in path.split(".")]
        where = f" ({given[0]}); knee-jax train --help-config lists all" if given else ""
        fail("the config has no field " + text.replace("\n", ". ") + where)
    except flags.Error as error:
        # If a config file raises, ml_collections packs the whole traceback into the message.
        what, _, rest = str(error).partition("Error whilst parsing config file:")
        what = re.sub(r"^flag (--\w+)=None: .* must have a value .*", r"\1=... is needed", what)
        last = rest.strip().splitlines()[-1:]
        fail(what + "".join(last).removeprefix("knee_jax.errors.UserError: "))
    if choices and not (len(words) == 1 and words[0] in choices):
        fail(f"knee-jax {name} takes one of: {', '.join(choices)}")
    if words and not choices and not takes_words:
        fail(f"unexpected argument {words[0]!r}; flags are written --name=value")
    return [program, *words]
