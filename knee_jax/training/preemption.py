"""End of a run on request (SIGTERM), as schedulers send it before they take a machine away."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

from knee_jax.errors import Stopped


class Preemption:
    """Request to end a run, which `requested` tells between the steps."""

    def __init__(self) -> None:
        self._asked = False

    def ask(self, number: int, _: FrameType | None = None) -> None:
        """Ask for the end; a second signal ends the process at once."""
        self._asked = True
        signal.signal(number, signal.SIG_DFL)

    def requested(self, step: int) -> bool:
        """Return whether the run shall end after a step, the same on every process.

        Args:
            step: Number of training steps done.
        """
        if jax.process_count() > 1:
            # JAX catches the signal itself, and agrees on a step that none has passed.
            return bool(multihost_utils.reached_preemption_sync_point(step))
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
