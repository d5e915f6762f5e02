"""Joining of the processes of one run, and an end of each that the others can explain.

A process waits for the others in every step. When one of them dies, JAX aborts those that are left,
with pages of native stack and the status of a crash; here they say so in one line and exit with
`errors.STOPPED`, as after SIGTERM, since the same command goes on from the last checkpoint.
"""

import atexit
import contextlib
import ctypes
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence

from knee_jax.errors import STOPPED, Stopped, UserError, causes

HEARTBEAT_SECONDS = 30
"""Time without a sign of life after which a process counts as dead. Most deaths are noticed within
a second, when their connections close."""

GRACE_SECONDS = 5
"""Time that a process with an error of its own waits, so that others with the same error can report
theirs before its end stops them."""

LOST = (
    "error: this process ends because another process of the run has ended or cannot be reached, "
    "whose own output tells why: the same command, started on all, goes on from the last checkpoint"
)

_ABORTED = (
    f"{LOST}. (JAX aborted this process; TF_CPP_MIN_LOG_LEVEL=0 shows its words, should they tell "
    "of something else.)"
)

_OF_ANOTHER = re.compile(
    "gloo|nccl|coordination|heartbeat|barrier|connection|unavailable|deadline|peer", re.IGNORECASE
)


def without_native_logs(arguments: Sequence[str]) -> None:
    """Hide XLA's log from processes that will join others; call it before jax is imported.

    `TF_CPP_MIN_LOG_LEVEL` in the environment overrides it.
    """
    if any(re.fullmatch("--?distributed(=.*)?", word) for word in arguments):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "4")


@contextlib.contextmanager
def joined(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> Iterator[None]:
    """Join the other processes of a run.

    Args:
        coordinator: HOST:PORT of process 0; None: as the environment tells.
        num_processes: Number of processes; None: as the environment tells.
        process_id: Number of this process; None: as the environment tells.

    Raises:
        UserError: The other processes are not found.
    """
    import jax

    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(
            "--distributed: the other processes are not found "
            f"({str(error).splitlines()[0]}): name --coordinator=HOST:PORT, --num_processes "
            "and --process_id, or leave it out to train with one process"
        ) from error
    _on_abort(_ABORTED, STOPPED)
    try:
        yield
    except BaseException as error:
        if _is_of_another(error):
            print(LOST, file=sys.stderr, flush=True)
            os._exit(STOPPED)
        # JAX would wait for the others for minutes, as they do for this process.
        atexit.register(_leave, _status_of(error))
        _on_abort("", _status_of(error))
        raise


def _is_of_another(error: BaseException) -> bool:
    """Return whether an error comes from the loss of another process."""
    import jax

    return any(
        isinstance(each, jax.errors.JaxRuntimeError) and _OF_ANOTHER.search(str(each))
        for each in causes(error)
    )


def _status_of(error: BaseException) -> int:
    """Return the exit status that `run.run_command` gives to an error."""
    if isinstance(error, Stopped):
        return STOPPED
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _leave(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(GRACE_SECONDS)
    os._exit(status)


_handlers: list[object] = []
"""Callbacks of the C library, which must stay alive."""


def _on_abort(line: str, status: int) -> None:
    """Have an abort print a line and exit with a status; its signal reaches no Python handler."""

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def handle(_: int) -> None:
        os.write(2, f"\n{line}\n".encode() if line else b"")
        os._exit(status)

    _handlers.append(handle)
    ctypes.CDLL(None).signal(signal.SIGABRT, handle)
