"""Processes that the project starts, and their end with the one that started them."""

import multiprocessing
import os
import signal
import threading


def end_with_parent() -> None:
    """Make this worker process end when its parent does, even if that is killed.

    A killed parent cannot stop its workers, which may be busy for long. Signals that a terminal or
    a scheduler sends to all processes are left to the parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
