"""The server: the application at an address, until it is told to stop."""

import asyncio
import contextlib
import os
import socket

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from knee_jax.errors import Stopped, UserError
from knee_jax.inference import grade
from knee_jax.inference.locate import Localiser
from knee_jax.inference.predictor import Predictor
from knee_jax.serve import app, telemetry
from knee_jax.serve.batching import Batcher
from knee_jax.serve.grading import Grader
from knee_jax.serve.limits import Limits
from knee_jax.serve.reader import Reader
from knee_jax.serve.security import LOCAL

HEAD_SECONDS = 10.0
"""Time for the head of a request to come in."""

CONNECTIONS = 512
"""Number of connections, above which further ones get a 503 at once."""

LEAST_TOKEN = 16
"""Length of a token at least."""


class PromptProtocol(H11Protocol):
    """HTTP whose clients must send the head of a request soon after they have connected."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the head."""
        super().connection_made(transport)
        self._too_late = self.loop.call_later(HEAD_SECONDS, self._close_unless_asked)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._too_late.cancel()
        super().connection_lost(exc)

    def _close_unless_asked(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


def check_address(host: str, token: str) -> None:
    """Refuse an address that others reach, where no token is asked for.

    Raises:
        UserError: There is no token, or a short one.
    """
    if token and len(token) < LEAST_TOKEN:
        raise UserError(f"the token is shorter than {LEAST_TOKEN} characters, and can be guessed")
    if host not in LOCAL and not token:
        raise UserError(
            f"--host={host}: others can reach this address, so that a token is needed: set "
            "KNEE_JAX_TOKEN to a long random word, as `openssl rand -hex 24` prints"
        )


def serve(
    predictor: Predictor,
    localiser: Localiser,
    limits: Limits,
    *,
    host: str,
    port: int,
    token: str,
    workers: int,
) -> None:
    """Serve until the process is told to stop.

    Args:
        predictor: Model that grades.
        localiser: Finder of knees.
        limits: Limits.
        host: Name or address to listen at.
        port: Port; 0: any that is free.
        token: Token that requests must bring; '' if none is needed.
        workers: Processes that read files.

    Raises:
        UserError: The address cannot be listened at or needs a token, or the model grades no films.
    """
    check_address(host, token)
    grade.reading_for(predictor)

    def make_grader(metrics: telemetry.Metrics) -> Grader:
        reader = Reader(workers, limits.read_seconds)
        batcher = Batcher(observe=metrics.batch)
        return Grader(predictor, localiser, reader, batcher, metrics.stage)

    application = app.create(
        make_grader,
        limits,
        token=token,
        hosts=LOCAL if host in LOCAL else (),
        lanes=2 * workers,
    )
    telemetry.write_lines()
    run(application, host, port)
    if application.state.engine.is_loading:
        telemetry.log("stopped", words="stopped while the models were still being loaded")
        # Threads that compile would hold up an end in good order; nothing is left to be saved.
        os._exit(0)


def run(application: FastAPI, host: str, port: int) -> None:
    """Serve an application until the process is told to stop, and print its address first.

    Args:
        application: Application.
        host: Name or address to listen at.
        port: Port; 0: any that is free.

    Raises:
        UserError: The address cannot be listened at.
    """
    config = uvicorn.Config(
        application,
        http=PromptProtocol,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=10,
    )
    listening = _listen(host, port)
    address = f"[{host}]" if ":" in host else host
    print(f"http://{address}:{listening.getsockname()[1]}", flush=True)
    with contextlib.suppress(KeyboardInterrupt, Stopped):
        uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(address[:2], family=family, backlog=CONNECTIONS)
    except OSError as error:
        # Of the lookup of a name it has a negative number.
        number = error.errno or 0
        reason = os.strerror(number) if number > 0 else str(error.strerror)
        raise UserError(
            f"--host={host} --port={port}: {reason.lower()}; name another by --port"
        ) from error
    return listening
