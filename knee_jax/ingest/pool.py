"""Runs jobs in worker processes, results in the order of the jobs.

A job that takes too long, or whose process dies, is lost alone: its worker is replaced and the
others go on. Process pools of the standard library do not do that: their workers share the fate of
the first that dies, and none can be stopped.
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
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from multiprocessing.connection import Connection
from typing import Any, NoReturn, TypeVar

import cv2

T = TypeVar("T")
_AHEAD = 8
_PRELOADED = ["__main__", "knee_jax.ingest.study", "knee_jax.ingest.volume"]
_SPARE_MEMORY = 3 * 2**28
"""Bytes that a worker may take beyond what it has at its start."""


@dataclasses.dataclass(frozen=True)
class Lost:
    """What a job gives that did not come to its end.

    Attributes:
        reason: timed_out, crashed_reader or out_of_memory.
        detail: that reason in words.
    """

    reason: str
    detail: str


def run_in_order(
    jobs: Iterable[Callable[[], T]], workers: int, seconds: float | None = None
) -> Generator[T | Lost, None, None]:
    """Yields the result of every job, in order; at most a few jobs a worker run ahead.

    What a job raises is raised here. A job whose process dies is tried once more, since the system
    may have killed the wrong one; one that takes too long is not.

    Args:
        jobs: picklable functions without arguments, whose results can be pickled too.
        workers: number of processes.
        seconds: that a job may take, None: as long as it likes.

    Raises:
        RuntimeError: a worker cannot be started.
    """
    pending: collections.deque[concurrent.futures.Future[T | Lost]] = collections.deque()
    remaining = iter(jobs)
    # A thread for each process waits for it.
    threads = concurrent.futures.ThreadPoolExecutor(workers)
    crew = _Crew(workers, seconds)
    try:
        for job in itertools.islice(remaining, _AHEAD * workers):
            pending.append(threads.submit(crew.run, job))
        while pending:
            yield pending.popleft().result()
            for job in itertools.islice(remaining, 1):
                pending.append(threads.submit(crew.run, job))
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        crew.dismiss()
        threads.shutdown()


class _Crew:
    """Worker processes, each of which does one job at a time; started when they are needed."""

    def __init__(self, workers: int, seconds: float | None):
        self._seconds = seconds
        self._idle: queue.SimpleQueue[_Worker | None] = queue.SimpleQueue()
        for _ in range(workers):
            self._idle.put(None)
        self._hired: set[_Worker] = set()
        self._dismissed = False
        self._lock = threading.Lock()

    def run(self, job: Callable[[], T]) -> T | Lost:
        """Has a job done by an idle worker, to be called by as many threads as there are."""
        worker = self._idle.get()
        try:
            for _ in range(2):
                worker = worker or self._hire()
                try:
                    succeeded, result = worker.do(job, self._seconds)
                except (TimeoutError, EOFError, ConnectionError) as trouble:
                    self._fire(worker)
                    worker = None
                    if isinstance(trouble, TimeoutError):
                        return Lost("timed_out", f"not read within {self._seconds:g} seconds")
                    continue
                if not succeeded:
                    raise result
                return result
            return Lost("crashed_reader", "the process that read it died, twice")
        finally:
            self._idle.put(worker)

    def _hire(self) -> "_Worker":
        with self._lock:
            if self._dismissed:
                raise RuntimeError("no job is wanted any more")
            worker = _Worker()
            self._hired.add(worker)
        try:
            worker.connection.recv()
        except (EOFError, ConnectionError) as error:
            self._fire(worker)
            raise RuntimeError("a worker process could not be started") from error
        return worker

    def _fire(self, worker: "_Worker") -> None:
        with self._lock:
            self._hired.discard(worker)
        worker.stop()

    def dismiss(self) -> None:
        """Stops all workers, whatever they do."""
        with self._lock:
            self._dismissed = True
            hired = list(self._hired)
        for worker in hired:
            worker.process.kill()
        for worker in hired:
            worker.process.join()


class _Worker:
    """One process and the line to it."""

    def __init__(self):
        # Not fork: the caller may hold JAX's threads. The server loads what workers need but once.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def do(self, job: Callable[[], Any], seconds: float | None) -> tuple[bool, Any]:
        """Whether the job came to its end, and its result or what it raised.

        Raises:
            TimeoutError: it takes longer.
            EOFError, ConnectionError: the process died.
        """
        self.connection.send(job)
        self.connection.recv()  # It has the job, and has loaded the modules that this needs.
        if not self.connection.poll(seconds):
            raise TimeoutError
        return self.connection.recv()

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    cv2.setNumThreads(1)
    # Decoders write there what they find in broken files, names of patients included.
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


def _attempt(job: Callable[[], T]) -> tuple[bool, T | Lost | Exception]:
    try:
        return True, job()
    except MemoryError:
        return True, Lost("out_of_memory", f"more than {_SPARE_MEMORY >> 20} MiB are needed")
    except Exception as error:
        return False, error


def _limit_memory() -> None:
    # One file that swells must not have the system kill this process's neighbours.
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        import resource

        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        taken = int(lines["VmData"].split()[0]) * 1024
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        if most == resource.RLIM_INFINITY or taken + _SPARE_MEMORY < most:
            resource.setrlimit(resource.RLIMIT_DATA, (taken + _SPARE_MEMORY, most))


def _die_with_parent() -> None:
    # A parent that is killed cannot stop its workers, and one may be busy for long.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
