"""Command line `knee-jax COMMAND`: one module per command, imported by no other package.

The docstring of a command's module says what the command does and opens its `--help`. The module
has

- `define_flags()`, which defines its absl flags;
- `main(words)`, which does the work and may return an exit status; `words` are the arguments that
  are not flags.

and may have

- `CHOICES`, the values of its one positional argument; without it the command takes none;
- `TAKES_WORDS`, True if it takes any number of positional arguments, such as files;
- `rewrite(arguments)`, which changes the command line before the flags are parsed.

Heavy modules are imported inside `main`, so that `--help` answers at once. `run.py` runs the
commands.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import FrameType

import knee_jax
from knee_jax.errors import STOPPED, Stopped

COMMANDS = {
    "train": "train and evaluate a system; cross-validate it; sweep variants and seeds",
    "demo": "train the demo of kpn on phantom knees, which needs no data",
    "prepare": "make a prepared set from a study's raw files",
    "reproduce": "make a table of a paper again",
    "predict": "grade the knees in any files: films, and crops of single knees",
    "serve": "serve a page for films and its REST interface",
    "locate": "find the knees in any files, and the landmarks of each",
    "listen": "receive films from an image archive, and send their grades back",
    "evaluate": "score finished runs, or other predictions, on any prepared set",
    "finetune": "train a finished model on with knees of your own",
    "export": "write a run's network to one file, which predicts by itself",
    "dry-run": "tell what a config asks of devices, before any data is touched",
    "convert": "convert weights from PyTorch to ours, and back",
    "compare": "compare models on the same knees, with paired intervals",
    "runs": "list the runs in a folder, with their figures",
    "coherence": "list the knees whose seven grades fit together least",
    "mislabelled": "list the knees whose label a model contradicts most",
    "read": "let people read knees blind, and compare them with each other and a model",
    "readers": "compare human readers with a model on the same knees",
    "phantom": "write a study tree of phantom knees",
    "list": "list configs, their variants, models, weights, data sets or papers' tables",
    "completion": "print a script that completes commands and configs in a shell",
}
"""Summary of each command, in the order of the overview."""

TRAINING = ("train", "demo", "finetune")
"""Commands that train; the process is prepared for them (see `process`)."""

HELP = ("--help", "-h", "-help", "--helpshort", "--helpfull")


def main(arguments: Sequence[str] | None = None, command: str | None = None) -> None:
    """Run the command that the first argument names; flags alone are those of `train`.

    Args:
        arguments: Command line; that of the process if None.
        command: Name of the command, where the process is started for one alone.
    """
    as_process = arguments is None
    if as_process:
        _Signals()
    from knee_jax.cli.joined import without_native_logs
    from knee_jax.cli.process import with_large_pages
    from knee_jax.cli.run import fail, run_command

    words = list(sys.argv[1:] if arguments is None else arguments)
    first, *others = [command, *words] if command else words or ["--help"]
    if first == "help" and others:
        first, others = others[0], ["--help"]
    if first in (*HELP, "help"):
        show(overview())
    elif first.startswith("-") or first in COMMANDS:
        name, others = (first, others) if first in COMMANDS else ("train", [first, *others])
        if as_process and name in TRAINING:
            without_native_logs(others)
            with_large_pages()
        run_command(name, others)
    else:
        fail(f"there is no command '{first}'" + nearest(first, COMMANDS))


class _Signals:
    """Handler of SIGINT and SIGTERM of a process that runs a command.

    A signal raises an exception, for which `run.run_command` has a word and a status. A second one
    ends the process at once, and so does one while a module is imported: there is nothing to undo,
    and importing code may swallow an exception.
    """

    def __init__(self) -> None:
        self._raised = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)
        self._unraisable = sys.unraisablehook
        sys.unraisablehook = self._send_again

    def _handle(self, number: int, frame: FrameType | None) -> None:
        interrupted = number == signal.SIGINT
        stopped = Stopped("stopped by SIGTERM: the same command goes on")
        if self._raised or _is_importing(frame):
            print("interrupted" if interrupted else stopped, file=sys.stderr, flush=True)
            os._exit(130 if interrupted else STOPPED)
        self._raised = True
        raise KeyboardInterrupt if interrupted else stopped

    def _send_again(self, lost: "sys.UnraisableHookArgs") -> None:
        """Send a signal again whose exception was raised where Python cannot pass it on."""
        numbers = {KeyboardInterrupt: signal.SIGINT, Stopped: signal.SIGTERM}
        if (number := numbers.get(lost.exc_type)) is None:
            self._unraisable(lost)
            return
        self._raised = False
        threading.Timer(0.05, os.kill, (os.getpid(), number)).start()


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def overview() -> str:
    """Return the text of `knee-jax --help`."""
    width = max(map(len, COMMANDS)) + 2
    return "\n".join(
        [
            f"knee_jax {knee_jax.__version__}: knee osteoarthritis from radiographs and MR volumes",
            "",
            "usage: knee-jax COMMAND [--FLAG=VALUE ...]",
            "",
            *(f"  {name:<{width}}{summary}" for name, summary in COMMANDS.items()),
            "",
            "`knee-jax COMMAND --help` lists a command's flags; without a command it is `train`.",
            "Results are for research, not for the care of patients.",
        ]
    )


def show(text: str) -> None:
    """Print a text, whose reader, such as `head`, may close the pipe early."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python would flush again at exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def path(text: str) -> Path:
    """Return the path that a flag names; `~` is the user's home."""
    return Path(text).expanduser()


def nearest(word: str, names: Iterable[str]) -> str:
    """Return the end of a message about an unknown word: the closest name, or all names."""
    import difflib

    close = difflib.get_close_matches(word, list(names), n=1)
    return f"; did you mean '{close[0]}'?" if close else f": choose {', '.join(names)}"
