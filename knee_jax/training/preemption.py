"""End of a run on request (SIGTERM), as schedulers send it before they take a machine away."""

import contextlib
import itertools
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

from knee_jax.errors import Stopped

_calls = itertools.count(1)
"""Calls of the devices by this process, over all its runs; the same number on every process."""


class Preemption:
    """Request to end a run, which `requested` tells between the steps."""

    def __init__(self) -> None:
        self._asked = False

    def ask(self, number: int, _: FrameType | None = None) -> None:
        """Ask for the end; a second signal ends the process at once."""
        self._asked = True
        signal.signal(number, signal.SIG_DFL)

    def requested(self) -> bool:
        """Return whether the run shall end after this call of the devices.

        Every process asks after every call, and is told the same.
        """
        if jax.process_count() > 1:
            # JAX catches the signal itself, and agrees on a call that none has passed. It counts
            # by ones: steps, of which a call may have several, could miss the one agreed on.
            return bool(multihost_utils.reached_preemption_sync_point(next(_calls)))
        return self._asked

    def stop(self, step: int, num_steps: int) -> None:
        """End the run, whose state is saved.

        Raises:
            Stopped: Always.
        """
        raise Stopped(
            f"stopped by SIGTERM at step {step} of {num_steps}, which is saved: the same command "
            "goes on from there"
        )


@contextlib.contextmanager
def watch() -> Iterator[Preemption]:
    """Watch for SIGTERM; elsewhere than in the main thread nothing is watched."""
    preemption = Preemption()
    if threading.current_thread() is not threading.main_thread() or jax.process_count() > 1:
        yield preemption
        return
    before = signal.signal(signal.SIGTERM, preemption.ask)
    try:
        yield preemption
    finally:
        signal.signal(signal.SIGTERM, before)
