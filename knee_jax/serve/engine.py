"""What lives as long as the server does: models, readers, queue and uploads."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

from fastapi.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from knee_jax.serve import uploads
from knee_jax.serve.bodies import Room
from knee_jax.serve.grading import Grader
from knee_jax.serve.jobs import Jobs
from knee_jax.serve.limits import Limits
from knee_jax.serve.telemetry import Metrics, log, log_fault

STOP_SECONDS = 3.0
"""Time for which the end waits for models that are still being loaded: nothing breaks that off."""


class Engine:
    """Models, readers, queue and uploads of one server.

    Args:
        limits: Limits.
        room: Room for uploads.
        metrics: Metrics.
        lanes: Number of files that are worked on at once.
        spool: Folder for the files of unfinished requests; None: the system's temporary one.
        make_grader: Function that loads the models and starts the readers.
    """

    def __init__(
        self,
        limits: Limits,
        room: Room,
        metrics: Metrics,
        lanes: int,
        spool: Path | None,
        make_grader: Callable[[Metrics], Grader],
    ):
        self.limits, self.metrics, self.lanes = limits, metrics, lanes
        self.spool = uploads.Spool(room, spool)
        self.grader: Grader | None = None
        self.jobs: Jobs | None = None
        self.failed = ""
        self._loading = threading.Thread(
            target=self._load, args=(make_grader,), name="loading", daemon=True
        )
        self._stopped = False

    def start(self) -> None:
        """Begin to load the models and to warm them."""
        self._loading.start()

    @property
    def is_loading(self) -> bool:
        """True while the models are being loaded or warmed."""
        return self._loading.is_alive()

    def _load(self, make_grader: Callable[[Metrics], Grader]) -> None:
        try:
            grader = make_grader(self.metrics)
            grader.warm()
        except Exception as error:
            self.failed = type(error).__name__
            log_fault(error)
            return
        if self._stopped:
            grader.reader.stop()
            grader.batcher.stop()
            return
        self.grader = grader
        self.jobs = Jobs(grader, self.limits, self.spool.remove, self.lanes, self.metrics.result)
        jobs = self.jobs
        self.metrics.watch("files_waiting", "Files that wait.", lambda: jobs.waiting)
        self.metrics.watch("requests_kept", "Requests kept.", lambda: jobs.kept[0])
        self.metrics.watch("kept_bytes", "Bytes of kept results.", lambda: jobs.kept[1])
        log("ready", model=grader.predictor.name)

    async def clean_for_ever(self) -> None:
        """Forget old results."""
        while True:
            await asyncio.sleep(15)
            if self.jobs:
                await run_in_threadpool(self.jobs.clean)

    def stop(self) -> None:
        """Stop the threads and processes, and delete what is left of uploads."""
        self._stopped = True
        self._loading.join(STOP_SECONDS)
        if self.grader:
            self.grader.reader.stop()
        if self.jobs:
            self.jobs.stop()
        if self.grader:
            self.grader.batcher.stop()
        self.spool.close()

    def ready(self) -> tuple[Grader, Jobs]:
        """Return what grades.

        Raises:
            HTTPException: 503 while the models are loaded.
        """
        if self.grader is None or self.jobs is None:
            why = "could not load its models" if self.failed else "is still loading its models"
            raise HTTPException(503, f"The server {why}; try again soon.", {"Retry-After": "5"})
        return self.grader, self.jobs
