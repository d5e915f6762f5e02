"""Files read in worker processes, which are replaced when they die, take too long or grow."""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from knee_jax.inference import grade
from knee_jax.ingest.knee_files import Knee, KneeFileJob, Refusal, Unplaced
from knee_jax.ingest.pool import Failure, Workers
from knee_jax.ingest.sources import ListJob, Source


class Reader:
    """Reader of uploaded files; parsers see them in no other process.

    Args:
        workers: Number of processes.
        seconds: Time limit for one file.
    """

    def __init__(self, workers: int, seconds: float):
        self._workers = Workers(workers, seconds)
        self.number = workers

    def warm(self) -> None:
        """Start the processes."""
        with ThreadPoolExecutor(self.number) as threads:
            # Each is kept busy until all have one.
            list(threads.map(self._workers.run, [partial(time.sleep, 0.5)] * self.number))

    def files(self, path: Path, name: str, most: int) -> list[Source] | Failure:
        """List at most so many files of an archive, or the file itself if it is none."""
        return self._workers.run(ListJob(path, name, most))

    def read(self, job: KneeFileJob) -> list[Knee | Refusal | Unplaced]:
        """Read the knees of a file; one that breaks its reader is refused."""
        return grade.kept(self._workers.run(job), job.source)

    def stop(self) -> None:
        """Stop the processes, busy or not."""
        self._workers.stop_all()
