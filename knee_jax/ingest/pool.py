"""Pool of worker processes that returns results in the order of the jobs.

A job that takes too long, or whose process dies, fails alone: its worker is replaced and the others
go on. The process pools of the standard library cannot do this: all their workers end with the
first that dies, and none can be stopped.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import multiprocessing
import os
import pathlib
import pickle
import queue
import sys
import threading
from collections.abc import Callable, Generator, Iterable
from multiprocessing.connection import Connection
from typing import Any, NoReturn, TypeVar

import cv2

from knee_jax.errors import NOT_STARTED, UserError
from knee_jax.processes import end_with_parent

T = TypeVar("T")
_AHEAD = 8
_PRELOADED = [
    "__main__",
    *(f"knee_jax.ingest.{name}" for name in ("study", "volume", "knee_files")),
]
_SPARE_MEMORY = 3 * 2**28
"""Memory that a worker may use beyond that at its start, bytes."""


@dataclasses.dataclass(frozen=True)
class Failure:
    """Result of a job that did not finish.

    Attributes:
        reason: Reason, one of timed_out, crashed_reader and out_of_memory.
        detail: Description of that reason.
    """

    reason: str
    detail: str


def run_in_order(
    jobs: Iterable[Callable[[], T]], workers: int, seconds: float | None = None
) -> Generator[T | Failure, None, None]:
    """Yield the result of every job, in order; only a few jobs per worker run ahead.

    An exception of a job is raised here. A job whose process dies is tried once more, since the
    system may have killed the wrong process; one that takes too long is not.

    Args:
        jobs: Picklable functions without arguments and with picklable results.
        workers: Number of processes.
        seconds: Time limit of a job; None: no limit.

    Raises:
        UserError: A worker cannot be started.
    """
    pending: collections.deque[concurrent.futures.Future[T | Failure]] = collections.deque()
    remaining = iter(jobs)
    # Each process has a thread that waits for it.
    threads = concurrent.futures.ThreadPoolExecutor(workers)
    processes = Workers(workers, seconds)
    try:
        for job in itertools.islice(remaining, _AHEAD * workers):
            pending.append(threads.submit(processes.run, job))
        while pending:
            yield pending.popleft().result()
            for job in itertools.islice(remaining, 1):
                pending.append(threads.submit(processes.run, job))
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        processes.stop_all()
        threads.shutdown()


def exit_if_imported_by_worker() -> None:
    """Exit if a worker process runs the script that started it once more.

    Worker processes import the script that starts them. One that prepares a set when it is
    imported would wait there for itself; the parent tells what is wrong (`errors.NOT_STARTED`).
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        sys.exit(1)


class Workers:
    """Worker processes that do one job at a time, started when they are needed.

    Args:
        workers: Number of processes.
        seconds: Time limit of a job; None: no limit.
    """

    def __init__(self, workers: int, seconds: float | None):
        self._seconds = seconds
        # The last one first: it may still hold what the next job needs.
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(workers):
            self._idle.put(None)
        self._running: set[_Worker] = set()
        self._stopped = False
        self._lock = threading.Lock()

    def run(self, job: Callable[[], T]) -> T | Failure:
        """Run a job in an idle worker, waiting for one; called by any number of threads.

        An exception of the job is raised here.

        Raises:
            UserError: A worker cannot be started.
        """
        worker = self._idle.get()
        try:
            for _ in range(2):
                worker = worker or self._start()
                try:
                    succeeded, result = worker.do(job, self._seconds)
                except (TimeoutError, EOFError, ConnectionError) as error:
                    self._stop(worker)
                    worker = None
                    if isinstance(error, TimeoutError):
                        return Failure("timed_out", f"not read within {self._seconds:g} seconds")
                    continue
                if not succeeded:
                    raise result
                return result
            return Failure("crashed_reader", "the process that read it died, twice")
        finally:
            self._idle.put(worker)

    def _start(self) -> "_Worker":
        with self._lock:
            if self._stopped:
                raise RuntimeError("the pool has been stopped")
            try:
                worker = _Worker()
            except (EOFError, ConnectionError) as error:
                raise UserError(NOT_STARTED) from error
            self._running.add(worker)
        try:
            worker.connection.recv()
        except (EOFError, ConnectionError) as error:
            self._stop(worker)
            raise UserError(NOT_STARTED) from error
        return worker

    def _stop(self, worker: "_Worker") -> None:
        with self._lock:
            self._running.discard(worker)
        worker.stop()

    def stop_all(self) -> None:
        """Stop all workers, busy or not."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for worker in running:
            worker.process.kill()
        for worker in running:
            worker.process.join()


class _Worker:
    """One process and the connection to it."""

    def __init__(self):
        # Not fork: the caller may hold JAX's threads. The server loads the modules only once.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        self.connection, far_end = context.Pipe()
        self.process = context.Process(target=_serve, args=(far_end,), daemon=True)
        self.process.start()
        far_end.close()

    def do(self, job: Callable[[], Any], seconds: float | None) -> tuple[bool, Any]:
        """Run a job; return whether it succeeded, and its result or its exception.

        Raises:
            TimeoutError: The job takes longer than the limit.
            EOFError, ConnectionError: The process died.
        """
        self.connection.send(job)
        self.connection.recv()  # The job has arrived, and the modules that it needs are loaded.
        if not self.connection.poll(seconds):
            raise TimeoutError
        return self.connection.recv()

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(connection: Connection) -> None:
    end_with_parent()
    cv2.setNumThreads(1)
    # Decoders print parts of broken files, which may hold names of patients.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    _limit_memory()
    connection.send(None)
    with contextlib.suppress(EOFError):
        while True:
            packed = connection.recv_bytes()
            try:
                job = pickle.loads(packed)
            except Exception as error:
                job = functools.partial(_raise, error)
            connection.send(None)
            connection.send(_attempt(job))


def _raise(error: Exception) -> NoReturn:
    raise error


def _attempt(job: Callable[[], T]) -> tuple[bool, T | Failure | Exception]:
    try:
        return True, job()
    except MemoryError:
        return True, Failure("out_of_memory", f"more than {_SPARE_MEMORY >> 20} MiB are needed")
    except Exception as error:
        return False, error


def _limit_memory() -> None:
    # One file that inflates in memory must not make the system kill other processes.
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        import resource

        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        taken = int(lines["VmData"].split()[0]) * 1024
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        if most == resource.RLIM_INFINITY or taken + _SPARE_MEMORY < most:
            resource.setrlimit(resource.RLIMIT_DATA, (taken + _SPARE_MEMORY, most))
