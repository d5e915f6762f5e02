"""Runs jobs in worker processes, results in the order of the jobs."""

import collections
import concurrent.futures
import itertools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import cv2

from knee_jax.errors import UserError

T = TypeVar("T")
_AHEAD = 8


def run_in_order(jobs: Iterable[Callable[[], T]], workers: int) -> Iterator[T]:
    """Yields the result of every job, in order; at most a few jobs a worker run ahead.

    Args:
        jobs: picklable functions without arguments.
        workers: number of processes; 1 runs the jobs here.

    Raises:
        UserError: a worker process died.
    """
    if workers == 1:
        yield from (job() for job in jobs)
        return
    # Not fork: the caller may hold JAX's threads.
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start_worker
    )
    pending: collections.deque[concurrent.futures.Future[T]] = collections.deque()
    remaining = iter(jobs)
    try:
        pending.extend(pool.submit(job) for job in itertools.islice(remaining, _AHEAD * workers))
        while pending:
            yield pending.popleft().result()
            pending.extend(pool.submit(job) for job in itertools.islice(remaining, 1))
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process died (out of memory, or killed); try again with fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    cv2.setNumThreads(1)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    # A parent that is killed cannot stop its workers, and they would wait for jobs for ever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
