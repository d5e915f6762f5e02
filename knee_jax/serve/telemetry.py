"""Metrics for Prometheus and a log of JSON lines; neither tells names of files or identities."""

import json
import logging
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import prometheus_client
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from knee_jax.serve.grading import Graded

LOGGER = logging.getLogger("knee_jax.serve")

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Metrics of one server, at `/metrics`."""

    def __init__(self) -> None:
        self.registry = registry = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=registry)
        prometheus_client.PlatformCollector(registry=registry)
        self.requests = prometheus_client.Counter(
            "knee_jax_requests", "Requests.", ["route", "method", "status"], registry=registry
        )
        self.request_seconds = prometheus_client.Histogram(
            "knee_jax_request_seconds",
            "Time from the head of a request to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.results = prometheus_client.Counter(
            "knee_jax_results",
            "Knees graded, and files or knees refused by reason.",
            ["status", "reason"],
            registry=registry,
        )
        self.stage_seconds = prometheus_client.Histogram(
            "knee_jax_stage_seconds",
            "Time of one file in each stage.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_rows = prometheus_client.Histogram(
            "knee_jax_batch_rows",
            "Knees or windows in a batch of a network.",
            buckets=(1, 2, 4, 8, 16, 32, 48),
            registry=registry,
        )
        self.batch_callers = prometheus_client.Histogram(
            "knee_jax_batch_callers",
            "Files that share a batch of a network.",
            buckets=(1, 2, 4, 8),
            registry=registry,
        )

    def watch(self, name: str, what: str, value: Callable[[], float]) -> None:
        """Tell a value that is asked for when the metrics are."""
        prometheus_client.Gauge(f"knee_jax_{name}", what, registry=self.registry).set_function(
            value
        )

    def result(self, graded: Graded) -> None:
        """Count a result."""
        self.results.labels(graded.row["status"], graded.row["reason"]).inc()

    def stage(self, name: str, seconds: float) -> None:
        """Count the time of a stage."""
        self.stage_seconds.labels(name).observe(seconds)

    def batch(self, rows: int, callers: int) -> None:
        """Count a batch."""
        self.batch_rows.observe(rows)
        self.batch_callers.observe(callers)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' format."""
        return prometheus_client.generate_latest(self.registry)


class Observed:
    """ASGI middleware that counts requests, and logs each as a line.

    Args:
        app: What is within.
        metrics: Metrics.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = time.perf_counter(), 0

        async def noting(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            seconds = time.perf_counter() - begin
            # The template of the route, since a path may hold anything.
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in METHODS else "OTHER"
            self._metrics.requests.labels(route, method, str(status)).inc()
            self._metrics.request_seconds.labels(route).observe(seconds)
            log("request", route=route, method=method, status=status, seconds=seconds)


def log(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Write a line to the log."""
    LOGGER.log(level, event, extra={"fields": fields})


def log_fault(error: BaseException) -> None:
    """Write where an error arose, without its message, which may hold anything of a file."""
    frames = traceback.extract_tb(error.__traceback__)
    where = [f"{frame.name}:{frame.lineno}" for frame in frames]
    log("fault", logging.ERROR, error=type(error).__name__, where=where)


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Return a record as a line of JSON."""
        fields = getattr(record, "fields", None)
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage() if fields is not None else "server",
            **(fields if fields is not None else {"message": record.getMessage()}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = type(record.exc_info[1]).__name__
        rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()}
        return json.dumps(rounded)


def write_lines() -> None:
    """Write the log, and uvicorn's messages, to stderr as lines of JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    for logger in (LOGGER, logging.getLogger("uvicorn.error")):
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(logging.INFO)
