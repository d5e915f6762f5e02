"""The application: routes of the page and of its REST interface."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.staticfiles import StaticFiles

import knee_jax
from knee_jax.inference.grade import WARNING
from knee_jax.serve import jobs as job_states
from knee_jax.serve import results, uploads
from knee_jax.serve.bodies import BoundedBodies
from knee_jax.serve.grading import Graded, Grader
from knee_jax.serve.jobs import Job, Jobs, JobState
from knee_jax.serve.limits import Limits
from knee_jax.serve.security import LOCAL, PAGE_FILES, Guard
from knee_jax.serve.telemetry import Metrics, Observed, log, log_fault

PAGE = Path(__file__).parent / "page"

STATUS_OF_REASON = {
    "not_dicom": 415,
    "too_large": 413,
    "out_of_memory": 413,
    "timed_out": 504,
    "server_fault": 500,
}
"""Status of `/predict` by the reason for which its only file is refused; others are 422."""

WORDS = {
    400: "The request is damaged.",
    404: "There is nothing at this address; /openapi.json lists what there is.",
    405: "This address does not take requests of this kind; /openapi.json lists what it takes.",
}

Format = Literal["json", "csv", "html"]
Side = Annotated[
    Literal["L", "R"] | None, Query(description="Side of every knee; default: from the file.")
]
Spacing = Annotated[
    float | None,
    Query(ge=0.02, le=1, description="Pixel size of films that carry none, mm."),
]
_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {
                        "files": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "description": "Films (DICOM), crops of one knee (PNG, JPEG, TIFF), "
                            "archives (.zip, .tar.gz) of them, and landmark files beside films.",
                        }
                    },
                }
            }
        },
    }
}


class Problem(BaseModel):
    """Answer that says why there is no other."""

    detail: str = Field(description="One sentence: what is wrong, and what to do.")


class State(BaseModel):
    """State of a request."""

    id: str = Field(description="Name of the request; whoever knows it may see the results.")
    state: JobState
    files: int = Field(description="Number of files, those in archives included.")
    done: int = Field(description="Number of files that are finished.")


class TargetOfModel(BaseModel):
    """Target that the model predicts."""

    name: str
    title: str
    classes: list[str] = Field(description="Names of the classes; empty for a value.")
    columns: list[str] = Field(description="Fields of a row with the classes' probabilities.")


class About(BaseModel):
    """The model behind the answers."""

    model: str
    knee_jax: str
    warning: str
    targets: list[TargetOfModel]


class Results(About):
    """Graded knees and refused files."""

    rows: list[dict[str, Any]] = Field(
        description="One per knee, or per refused file with the reason, with the columns of "
        "`predictions.csv` of `knee-jax predict`, and whether it has a picture."
    )


class Picture(BaseModel):
    """Picture of a graded knee."""

    region: str = Field(description="Region that was read, oriented as a right knee: a PNG as URI.")
    heat: str | None = Field(description="Where the evidence lay, 0 to 255: a PNG as URI.")
    landmarks: list[list[float]] | None = Field(description="74 points, pixels of the region.")
    medial: list[bool] = Field(description="Whether each landmark is medial.")
    spacing_mm: float | None = Field(description="Pixel size, mm.")


PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": what}
    for status, what in {
        401: "A token is needed.",
        408: "The upload came in too slowly.",
        413: "Too many bytes, files or pixels.",
        415: "No form, or no picture and no film.",
        422: "Nothing to read in it, or a film that cannot be graded.",
        429: "Too many unfinished requests from this address.",
        503: "The server is busy or not ready; `Retry-After` tells when to try again.",
        504: "It was not graded in time.",
    }.items()
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
    metrics = Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        server = _Server(limits, metrics, lanes, spool)
        app.state.server = server
        starting = asyncio.create_task(run_in_threadpool(server.start, make_grader))
        cleaning = asyncio.create_task(server.clean_for_ever())
        try:
            yield
        finally:
            cleaning.cancel()
            with contextlib.suppress(Exception):
                await starting
            await run_in_threadpool(server.stop)

    app = FastAPI(
        title="knee_jax",
        version=knee_jax.__version__,
        summary="Grades of knees in films and pictures.",
        description=WARNING,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.add_middleware(BoundedBodies, limits=limits)
    app.add_middleware(Guard, token=token, hosts=hosts)
    app.add_middleware(Observed, metrics=metrics)
    _add_routes(app, limits, metrics)
    _add_words(app)
    return app


class _Server:
    """What lives as long as the application does."""

    def __init__(self, limits: Limits, metrics: Metrics, lanes: int, spool: Path | None):
        self.limits, self.metrics, self.lanes = limits, metrics, lanes
        self.spool = uploads.Spool(limits, spool)
        self.grader: Grader | None = None
        self.jobs: Jobs | None = None
        self.failed = ""

    def start(self, make_grader: Callable[[Metrics], Grader]) -> None:
        """Load the models and warm them."""
        try:
            grader = make_grader(self.metrics)
            grader.warm()
        except Exception as error:
            self.failed = type(error).__name__
            log_fault(error)
            raise
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
        if self.grader:
            self.grader.reader.stop()
        if self.jobs:
            self.jobs.stop()
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


def _add_routes(app: FastAPI, limits: Limits, metrics: Metrics) -> None:
    def server() -> _Server:
        found: _Server = app.state.server
        return found

    async def submitted(request: Request, side: str | None, spacing: float | None) -> Job:
        """Take a request's files and put them into the queue."""
        grader, jobs = server().ready()
        spool = server().spool
        client = request.client.host if request.client else ""
        job = jobs.open(client, spool.new)
        try:
            sources = await uploads.receive(request, job.folder, spool, grader.reader, limits)
        except BaseException:
            jobs.cancel(job)
            raise
        reading = dataclasses.replace(grader.reading, side=side or "", spacing_mm=spacing)
        jobs.start(job, sources, reading)
        return job

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    app.mount(PAGE_FILES, StaticFiles(directory=PAGE))

    @app.get("/health", summary="Whether the process answers")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready", responses={503: PROBLEMS[503]}, summary="Whether the models are loaded")
    async def ready() -> dict[str, str]:
        server().ready()
        return {"status": "ready"}

    @app.get("/about", summary="The model, and the limits of the server")
    async def about() -> dict[str, Any]:
        grader, _ = server().ready()
        return results.about(grader.predictor) | {"limits": dataclasses.asdict(limits)}

    @app.get("/metrics", response_class=PlainTextResponse, summary="Metrics for Prometheus")
    async def of_metrics() -> Response:
        text = await run_in_threadpool(metrics.text)
        return Response(text, media_type="text/plain; version=0.0.4")

    @app.post(
        "/predict",
        summary="Grade the knees of one film, or of a few, and wait for it",
        response_model=Results,
        responses=PROBLEMS,
        openapi_extra=_FORM,
    )
    async def predict(
        request: Request,
        side: Side = None,
        spacing: Spacing = None,
        format: Annotated[Format, Query(description="Form of the answer.")] = "json",
    ) -> Response:
        job = await submitted(request, side, spacing)
        grader, jobs = server().ready()
        try:
            if not await _finished(job, limits.answer_seconds, request):
                raise HTTPException(
                    504,
                    f"It was not graded within {limits.answer_seconds:g} seconds; send fewer "
                    "files, or use /jobs.",
                )
            found = job.results
        finally:
            jobs.cancel(job)
        status, words = _status_of(found)
        answer = await run_in_threadpool(_answer, grader, found, format, words)
        answer.status_code = status
        return answer

    @app.post(
        "/jobs",
        status_code=202,
        summary="Hand in many files, and ask for the results later",
        responses=PROBLEMS,
        openapi_extra=_FORM,
    )
    async def hand_in(request: Request, side: Side = None, spacing: Spacing = None) -> State:
        return _state(await submitted(request, side, spacing))

    @app.get("/jobs/{id}", responses={404: {"model": Problem}}, summary="State of a request")
    async def state(
        id: str,
        request: Request,
        wait: Annotated[
            float, Query(ge=0, le=60, description="Seconds to wait for the end of it.")
        ] = 0,
    ) -> State:
        job = server().ready()[1].get(id)
        await _finished(job, wait, request)
        return _state(job)

    @app.delete("/jobs/{id}", status_code=204, summary="Give up a request and its results")
    async def give_up(id: str) -> None:
        jobs = server().ready()[1]
        jobs.cancel(jobs.get(id))

    @app.get(
        "/jobs/{ids}/results.{format}",
        response_model=Results,
        responses={status: {"model": Problem} for status in (404, 409)},
        summary="Results of one request or several, whose names are joined by commas",
    )
    async def of_jobs(ids: str, format: Format) -> Response:
        grader, jobs = server().ready()
        asked = [jobs.get(each) for each in ids.split(",")]
        if not all(job.finished.done() for job in asked):
            raise HTTPException(409, "It is not finished; ask for its state with `?wait=60`.")
        found = job_states.results_of(asked)
        return await run_in_threadpool(_answer, grader, found, format)

    @app.get(
        "/jobs/{id}/knees/{number}",
        responses={404: {"model": Problem}},
        summary="Picture, landmarks and evidence of a knee, by the number of its row from 0",
    )
    async def knee(id: str, number: int) -> Picture:
        found = server().ready()[1].get(id).results
        shown = found[number].shown if 0 <= number < len(found) else None
        if shown is None:
            raise HTTPException(404, "This row has no picture.")
        return Picture(**results.picture(shown))


def _state(job: Job) -> State:
    return State(id=job.id, state=job.state, files=len(job.sources), done=job.done)


async def _finished(job: Job, seconds: float, request: Request) -> bool:
    """Wait until a request is finished, its client has left or the time is over; return if it is.

    Raises:
        ClientDisconnect: The client has left.
    """
    end = asyncio.get_running_loop().time() + seconds
    finished = asyncio.wrap_future(job.finished)
    while not finished.done() and (left := end - asyncio.get_running_loop().time()) > 0:
        await asyncio.wait([finished], timeout=min(left, 1.0))
        if not finished.done() and await request.is_disconnected():
            raise ClientDisconnect
    return finished.done()


def _status_of(found: list[Graded]) -> tuple[int, str]:
    """Return the status of an answer, and what is wrong where the only result is a refusal."""
    if len(found) != 1 or found[0].row["status"] == "graded":
        return 200, ""
    row = found[0].row
    sentence = f"{row['detail'][:1].upper()}{row['detail'][1:].removesuffix('.')}."
    return STATUS_OF_REASON.get(row["reason"], 422), sentence


def _answer(grader: Grader, found: list[Graded], format: Format, problem: str = "") -> Response:
    if format == "csv":
        headers = {"Content-Disposition": 'attachment; filename="predictions.csv"'}
        return PlainTextResponse(results.as_csv(found), media_type="text/csv", headers=headers)
    if format == "html":
        headers = {"Content-Disposition": 'attachment; filename="graded.html"'}
        return HTMLResponse(results.as_html(grader.predictor, found), headers=headers)
    content = results.as_json(grader.predictor, found)
    return JSONResponse(content | ({"detail": problem} if problem else {}))


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
        return JSONResponse({"detail": f"{where}: {first['msg'].lower()}."}, 422)

    @app.exception_handler(ClientDisconnect)
    async def left(_: Request, __: ClientDisconnect) -> Response:
        return JSONResponse({"detail": "The client has left."}, 400)

    @app.exception_handler(Exception)
    async def fault(_: Request, error: Exception) -> Response:
        log_fault(error)
        return JSONResponse({"detail": "The server failed, by a fault of its own."}, 500)
