"""Batches across clients: one thread runs the networks, on what several callers ask at once.

What callers ask within a few milliseconds goes into one batch, up to the largest that is compiled;
nobody waits where all who are at work have asked. A batch is filled up to one of few sizes, so that
nothing is compiled while somebody waits, and is joined only where that costs no more than apart.
"""

import concurrent.futures
import contextlib
import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from knee_jax.inference.predictor import Batch, Predictor
from knee_jax.landmarks import NUM_LANDMARKS


@dataclasses.dataclass(frozen=True, eq=False)
class _Program:
    """Compiled function from a batch to an array, or arrays by name, of as many rows."""

    function: Callable[[Batch], Any]
    sizes: tuple[int, ...]

    def filled(self, rows: int) -> int:
        """Return the size of the batch that so many rows are filled up to."""
        return next(size for size in self.sizes if size >= rows)

    def __call__(self, batch: Batch) -> Any:
        """Run it on a batch that is filled up with its last row, and return only the real rows."""
        rows = len(next(iter(batch.values())))
        size = self.filled(rows)
        filled = {
            name: np.concatenate([array, np.repeat(array[-1:], size - rows, axis=0)])
            for name, array in batch.items()
        }
        return _rows(jax.device_get(self.function(filled)), 0, rows)


@dataclasses.dataclass(frozen=True, eq=False)
class _Asked:
    """What one caller asks."""

    program: _Program
    batch: Batch
    answer: "concurrent.futures.Future[Any]"

    @property
    def rows(self) -> int:
        return len(next(iter(self.batch.values())))


class Batcher:
    """The thread that runs the networks.

    Args:
        seconds: Time to wait for other callers before a batch is run.
        observe: Called with the number of rows and of callers of each batch.
    """

    def __init__(self, seconds: float = 0.004, observe: Callable[[int, int], None] | None = None):
        self._seconds = seconds
        self._observe = observe
        self._queue: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._waiting: list[_Asked] = []
        self._at_work = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._serve, name="networks", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def caller(self) -> Iterator[None]:
        """Count this thread among those that are at work, and may ask soon."""
        with self._lock:
            self._at_work += 1
        try:
            yield
        finally:
            with self._lock:
                self._at_work -= 1

    def shared(self, predictor: Predictor, sizes: Sequence[int]) -> Predictor:
        """Return a predictor whose functions run in the thread, beside those of other callers.

        Args:
            predictor: Model.
            sizes: Numbers of rows in a batch, ascending, each a program of its own.
        """

        def through(function: Callable[[Batch], Any]) -> Callable[[Batch], Any]:
            program = _Program(function, tuple(sizes))
            return lambda batch: self._ask(program, batch)

        return dataclasses.replace(
            predictor,
            forward=through(predictor.forward),
            heat=None if predictor.heat is None else through(predictor.heat),
            # Batches come as they are: they are filled up here.
            batch_sizes=tuple(range(1, sizes[-1] + 1)),
        )

    def warm(self, shared: Predictor, sizes: Sequence[int]) -> None:
        """Run the functions of a shared predictor once at every size, which compiles them."""
        for size in sizes:
            batch: Batch = {
                shared.reads: np.zeros((size, shared.side, shared.side), np.uint8),
                "keypoints": np.full((size, NUM_LANDMARKS, 2), np.nan, np.float32),
            }
            shared.forward(batch)
            if shared.heat is not None:
                shared.heat(batch)

    def stop(self) -> None:
        """End the thread once it has answered what was asked before."""
        self._queue.put(None)
        self._thread.join()

    def _ask(self, program: _Program, batch: Batch) -> Any:
        asked = _Asked(program, batch, concurrent.futures.Future())
        self._queue.put(asked)
        return asked.answer.result()

    def _serve(self) -> None:
        while True:
            first = self._waiting.pop(0) if self._waiting else self._queue.get()
            if first is None:
                return
            self._run(self._with_others(first))

    def _with_others(self, first: _Asked) -> list[_Asked]:
        """Return what is run together with the first one that was asked."""
        group, left = [first], first.program.sizes[-1] - first.rows
        for other in list(self._waiting):
            if other.program is first.program and other.rows <= left:
                self._waiting.remove(other)
                group.append(other)
                left -= other.rows
        end = time.monotonic() + self._seconds
        while left and len(group) + len(self._waiting) < self._at_work:
            try:
                other_asked = self._queue.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                break
            if other_asked is None:
                self._queue.put(None)
                break
            if other_asked.program is first.program and other_asked.rows <= left:
                group.append(other_asked)
                left -= other_asked.rows
            else:
                self._waiting.append(other_asked)
        # What is filled up costs as much as what is asked: none may be dearer together than apart.
        program, rows = first.program, [asked.rows for asked in group]
        while program.filled(sum(rows)) > sum(map(program.filled, rows)):
            rows.pop()
            self._waiting.insert(0, group.pop())
        return group

    def _run(self, group: Sequence[_Asked]) -> None:
        names = group[0].batch.keys()
        try:
            batch = {name: np.concatenate([a.batch[name] for a in group]) for name in names}
            if self._observe:
                self._observe(sum(asked.rows for asked in group), len(group))
            outputs = group[0].program(batch)
        except Exception as error:
            for asked in group:
                asked.answer.set_exception(error)
            return
        first = 0
        for asked in group:
            asked.answer.set_result(_rows(outputs, first, first + asked.rows))
            first += asked.rows


def _rows(outputs: Any, first: int, last: int) -> Any:
    """Return some rows of an array, or of arrays by name."""
    if isinstance(outputs, Mapping):
        return {name: np.asarray(array)[first:last] for name, array in outputs.items()}
    return np.asarray(outputs)[first:last]
