"""The application: routes within what guards, bounds and observes them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import knee_jax
from knee_jax.inference.grade import WARNING
from knee_jax.serve import routes
from knee_jax.serve.bodies import BoundedBodies, Room
from knee_jax.serve.engine import Engine
from knee_jax.serve.grading import Grader
from knee_jax.serve.limits import Limits
from knee_jax.serve.security import LOCAL, Guard
from knee_jax.serve.telemetry import Metrics, Observed, log_fault

WORDS = {
    400: "The request is damaged.",
    404: "There is nothing at this address; /openapi.json lists what there is.",
    405: "This address does not take requests of this kind; /openapi.json lists what it takes.",
}


def create(
    make_grader: Callable[[Metrics], Grader],
    limits: Limits | None = None,
    *,
    token: str = "",
    hosts: Collection[str] = LOCAL,
    lanes: int = 4,
    spool: Path | None = None,
) -> FastAPI:
    """Make the application; models are loaded when it starts, and it is ready when they are warm.

    Args:
        make_grader: Function that loads the models and starts the readers.
        limits: Limits.
        token: Token that requests must bring; '' if none is needed.
        hosts: Names by which the server may be called; empty: any.
        lanes: Number of files that are worked on at once.
        spool: Folder for the files of unfinished requests; None: the system's temporary one.
    """
    limits = limits or Limits()
    metrics, room = Metrics(), Room(limits)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = Engine(limits, room, metrics, lanes, spool, make_grader)
        app.state.engine = engine
        engine.start()
        cleaning = asyncio.create_task(engine.clean_for_ever())
        try:
            yield
        finally:
            cleaning.cancel()
            await run_in_threadpool(engine.stop)

    app = FastAPI(
        title="knee_jax",
        version=knee_jax.__version__,
        summary="Grades of knees in films and pictures.",
        description=WARNING,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.add_middleware(BoundedBodies, limits=limits, room=room)
    app.add_middleware(Guard, token=token, hosts=hosts)
    app.add_middleware(Observed, metrics=metrics)
    routes.add(app, lambda: app.state.engine)
    _add_words(app)
    return app


def _add_words(app: FastAPI) -> None:
    """Give every refusal one clear sentence."""

    @app.exception_handler(HTTPException)
    @app.exception_handler(404)
    @app.exception_handler(405)
    async def refuse(_: Request, error: HTTPException) -> Response:
        # What Starlette says of its own accord is a word or two.
        text = str(error.detail)
        words = text if text.endswith((".", "!")) and " " in text else WORDS.get(error.status_code)
        headers = dict(error.headers or {})
        if error.status_code in (408, 413):
            # The rest of the body may not have been read.
            headers["Connection"] = "close"
        return JSONResponse({"detail": words or f"{text}."}, error.status_code, headers)

    @app.exception_handler(RequestValidationError)
    async def mistaken(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = " ".join(str(each) for each in first["loc"][1:])
        if first["type"] == "extra_forbidden":
            words = f"There is no parameter {where}; /openapi.json lists those of each address."
            return JSONResponse({"detail": words}, 422)
        return JSONResponse(
            {"detail": f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}."}, 422
        )

    @app.exception_handler(ClientDisconnect)
    async def left(_: Request, __: ClientDisconnect) -> Response:
        return JSONResponse({"detail": "The client has left."}, 400)

    @app.exception_handler(Exception)
    async def fault(_: Request, error: Exception) -> Response:
        log_fault(error)
        return JSONResponse({"detail": "The server failed, by a fault of its own."}, 500)
