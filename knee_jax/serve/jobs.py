"""Requests that are graded: a fair queue, the threads that work it off, and kept results."""

import collections
import concurrent.futures
import dataclasses
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

from starlette.exceptions import HTTPException

from knee_jax.inference import grade
from knee_jax.ingest.knee_files import Reading, Refusal
from knee_jax.ingest.sources import Source, numbered
from knee_jax.serve import telemetry
from knee_jax.serve.grading import Graded, Grader
from knee_jax.serve.limits import MIB, Limits

JobState = Literal["queued", "running", "done", "cancelled"]

ROW_BYTES = 2048
"""Bytes that the row of a knee takes, about."""


@dataclasses.dataclass(eq=False)
class Job:
    """Files of one request.

    Attributes:
        id: Name that cannot be guessed: whoever knows it may see the results.
        client: Address that it came from.
        folder: Folder of the files, deleted once they are graded.
        sources: Files.
        reading: How they are read.
        graded: What became of each file; None: not yet.
        finished: Set when nothing more is done; its result is whether all files were graded.
        asked: Time at which somebody last asked for it, in seconds.
    """

    id: str
    client: str
    folder: Path
    sources: Sequence[Source] = ()
    reading: Reading | None = None
    graded: list[list[Graded] | None] = dataclasses.field(default_factory=list)
    finished: "concurrent.futures.Future[bool]" = dataclasses.field(
        default_factory=concurrent.futures.Future
    )
    asked: float = dataclasses.field(default_factory=time.monotonic)
    next: int = 0
    done: int = 0

    @property
    def state(self) -> JobState:
        """State; a request that is given up is cancelled."""
        if self.finished.done():
            return "done" if self.finished.result() else "cancelled"
        return "running" if self.next else "queued"

    @property
    def results(self) -> list[Graded]:
        """Knees and refused files, in the order of the files."""
        return [each for of_file in self.graded for each in of_file or ()]

    @property
    def size(self) -> int:
        """Bytes that the results take, about."""
        return sum(ROW_BYTES + (each.shown.size if each.shown else 0) for each in self.results)


class Jobs:
    """All requests, those that are worked on and those whose results are kept.

    Files are taken from the requests in turn, so that a folder of hundreds holds up nobody.

    Args:
        grader: What grades a file.
        limits: Limits.
        remove: Called with the folder of a request that needs it no more.
        lanes: Number of files that are worked on at once.
        observe: Called with each result.
    """

    def __init__(
        self,
        grader: Grader,
        limits: Limits,
        remove: Callable[[Path], None],
        lanes: int,
        observe: Callable[[Graded], None],
    ):
        self._grader, self._limits, self._remove = grader, limits, remove
        self._observe = observe
        self._jobs: dict[str, Job] = {}
        self._turns: collections.deque[Job] = collections.deque()
        self._changed = threading.Condition()
        self._stopped = False
        self._lanes = [
            threading.Thread(target=self._work, name=f"lane-{i}", daemon=True) for i in range(lanes)
        ]
        for lane in self._lanes:
            lane.start()

    def open(self, client: str, make_folder: Callable[[], Path]) -> Job:
        """Take a place in the queue, before the files come in.

        Raises:
            HTTPException: 429 if the client has too many unfinished requests, 503 if all have.
        """
        with self._changed:
            unfinished = [job for job in self._jobs.values() if not job.finished.done()]
            if sum(job.client == client for job in unfinished) >= self._limits.jobs_of_client:
                raise HTTPException(
                    429,
                    f"{self._limits.jobs_of_client} requests from this address are not finished; "
                    "send the next one when one of them is.",
                    {"Retry-After": "5"},
                )
            if len(unfinished) >= self._limits.jobs:
                raise HTTPException(
                    503, "The server is busy; try again in a moment.", {"Retry-After": "5"}
                )
            job = Job(secrets.token_urlsafe(16), client, make_folder())
            self._jobs[job.id] = job
        return job

    def start(self, job: Job, sources: Sequence[Source], reading: Reading) -> None:
        """Put the files of a request into the queue."""
        with self._changed:
            job.sources, job.reading = sources, reading
            job.graded = [None] * len(sources)
            self._turns.append(job)
            self._changed.notify_all()

    def get(self, identifier: str) -> Job:
        """Return a request.

        Raises:
            HTTPException: 404 if there is none.
        """
        with self._changed:
            job = self._jobs.get(identifier)
        if job is None:
            minutes = self._limits.keep_minutes
            raise HTTPException(
                404,
                f"There is no such request; results are kept for {minutes:g} minutes, and given up "
                "earlier where memory runs short.",
            )
        job.asked = time.monotonic()
        return job

    def cancel(self, job: Job) -> None:
        """Give up what is left of a request, and forget it."""
        with self._changed:
            self._jobs.pop(job.id, None)
            if job in self._turns:
                self._turns.remove(job)
            if job.next == job.done:
                self._finish(job, complete=False)
            else:
                # The lane that is at work on one of its files finishes it.
                job.sources = job.sources[: job.next]

    def clean(self) -> None:
        """Forget results that are too old, or too many."""
        with self._changed:
            kept = [job for job in self._jobs.values() if job.finished.done()]
            size = sum(job.size for job in kept)
            for job in sorted(kept, key=lambda job: job.asked):
                age = time.monotonic() - job.asked
                if age > 60 * self._limits.keep_minutes or size > self._limits.keep_mb * MIB:
                    size -= job.size
                    del self._jobs[job.id]

    @property
    def waiting(self) -> int:
        """Number of files that nobody works on yet."""
        with self._changed:
            return sum(len(job.sources) - job.next for job in self._turns)

    @property
    def kept(self) -> tuple[int, int]:
        """Number of requests whose results are kept, and their bytes, about."""
        with self._changed:
            kept = [job for job in self._jobs.values() if job.finished.done()]
        return len(kept), sum(job.size for job in kept)

    def stop(self) -> None:
        """Work on no further file, and wait for those that are worked on."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for lane in self._lanes:
            lane.join()

    def _finish(self, job: Job, *, complete: bool) -> None:
        if not job.finished.done():
            job.finished.set_result(complete)
            self._remove(job.folder)

    def _take(self) -> tuple[Job, int] | None:
        """Wait for the next file, that of the request whose turn it is; None at the end."""
        with self._changed:
            while not self._turns and not self._stopped:
                self._changed.wait()
            if self._stopped:
                return None
            job = self._turns.popleft()
            number = job.next
            job.next += 1
            if job.next < len(job.sources):
                self._turns.append(job)
            return job, number

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            job, number = taken
            graded = self._graded(job, number)
            for each in graded:
                self._observe(each)
            with self._changed:
                job.graded[number] = graded
                job.done += 1
                is_last = job.done == len(job.sources)
                if is_last:
                    self._finish(job, complete=job.id in self._jobs)
            if is_last:
                self.clean()

    def _graded(self, job: Job, number: int) -> list[Graded]:
        """Grade a file; a fault of the program is told, and ends nothing else."""
        source, reading = job.sources[number], job.reading
        assert reading is not None
        try:
            return self._grader.grade(source, reading)
        except Exception as error:
            telemetry.log_fault(error)
            detail = (
                "the server could not grade it, by a fault of its own; the operator's log has it"
            )
            refusal = Refusal(source.name, "", "server_fault", detail)
            return [Graded(grade.refused(self._grader.predictor, refusal))]


def results_of(jobs: Iterable[Job]) -> list[Graded]:
    """Return the results of several requests, one after another.

    Of files that have one name in two requests, the later get a number.
    """
    found: list[Graded] = []
    taken: set[str] = set()
    for job in jobs:
        names = {each.row["file"]: "" for each in job.results}
        for name in names:
            names[name] = numbered(name, taken)
            taken.add(names[name])
        found += [
            dataclasses.replace(each, row={**each.row, "file": names[each.row["file"]]})
            for each in job.results
        ]
    return found
