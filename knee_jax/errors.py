"""Errors that a user's files can cause, and the detection of a full disk beneath others."""

import errno
import os
from collections.abc import Iterator

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


NOT_STARTED = (
    "a worker process could not be started; workers import the script that starts them: put what "
    "it does under if __name__ == '__main__':"
)


class UserError(Exception):
    """Mistake that the user can mend: one line that names the thing and the remedy.

    Commands print it without a traceback and exit with status 1 (`knee_jax.cli.run`).
    """


class Stopped(BaseException):
    """End of a command on request, as by SIGTERM; the same command goes on (exit status `STOPPED`).

    Like `KeyboardInterrupt` it is no `Exception`, so that nothing takes it for a failure.
    """


STOPPED = 75
"""Exit status of a command that was stopped: EX_TEMPFAIL of sysexits.h, "try again"."""


class UnusableKnee(Exception):
    """Film, landmark file or image that cannot be used; the others are not affected.

    Attributes:
        reason: Short fixed name, such as `no_spacing`, by which the ingest report counts.
        detail: Description of what was found, for the knee's row among the exclusions.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self):
        # Worker processes send it back to the parent, and unpickling an exception replays `args`.
        return type(self), (self.reason, self.detail)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and, one after another, the errors that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def is_full_disk(error: BaseException) -> bool:
    """Return whether the error comes from a full disk, quota or permitted file size."""
    # ArrayRecord and Orbax turn the system's error into their own and keep only its message.
    return any(
        (isinstance(each, OSError) and each.errno in _FULL)
        or any(os.strerror(code) in str(each) for code in _FULL)
        for each in causes(error)
    )
