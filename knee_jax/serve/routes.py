"""Routes of the page and of its REST interface."""

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.staticfiles import StaticFiles

from knee_jax.serve import jobs as job_states
from knee_jax.serve import results, uploads
from knee_jax.serve.engine import Engine
from knee_jax.serve.grading import Graded, Grader, Shown
from knee_jax.serve.jobs import Job
from knee_jax.serve.schema import (
    FORM,
    PROBLEMS,
    Format,
    HowToAnswer,
    HowToRead,
    HowToWait,
    Picture,
    Problem,
    Results,
    State,
)
from knee_jax.serve.security import PAGE_FILES

PAGE = Path(__file__).parent / "page"

STATUS_OF_REASON = {
    "not_dicom": 415,
    "too_large": 413,
    "out_of_memory": 413,
    "timed_out": 504,
    "server_fault": 500,
}
"""Status of `/predict` by the reason for which its only file is refused; others are 422."""


def add(app: FastAPI, engine: Callable[[], Engine]) -> None:
    """Add the routes to an application.

    Args:
        app: Application.
        engine: Function that returns the engine, once the application has started.
    """

    async def submitted(request: Request, given: HowToRead) -> Job:
        """Take a request's files and put them into the queue."""
        grader, jobs = engine().ready()
        spool, limits = engine().spool, engine().limits
        client = request.client.host if request.client else ""
        job = jobs.open(client, spool.new)
        try:
            sources = await uploads.receive(request, job.folder, spool, grader.reader, limits)
        except BaseException:
            jobs.cancel(job)
            raise
        reading = dataclasses.replace(
            grader.reading, side=given.side or "", spacing_mm=given.spacing
        )
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
        engine().ready()
        return {"status": "ready"}

    @app.get("/about", summary="The model, and the limits of the server")
    async def about() -> dict[str, Any]:
        grader, _ = engine().ready()
        return results.about(grader.predictor) | {"limits": dataclasses.asdict(engine().limits)}

    @app.get(
        "/card",
        response_class=PlainTextResponse,
        responses={404: {"model": Problem}},
        summary="Model card, Markdown",
    )
    async def card() -> Response:
        grader, _ = engine().ready()
        if not grader.predictor.card:
            raise HTTPException(404, "The model has no card.")
        return PlainTextResponse(grader.predictor.card)

    @app.get("/metrics", response_class=PlainTextResponse, summary="Metrics for Prometheus")
    async def of_metrics() -> Response:
        text = await run_in_threadpool(engine().metrics.text)
        return Response(text, media_type="text/plain; version=0.0.4")

    @app.post(
        "/predict",
        summary="Grade the knees of one film, or of a few, and wait for it",
        response_model=Results,
        responses=PROBLEMS,
        openapi_extra=FORM,
    )
    async def predict(request: Request, given: Annotated[HowToAnswer, Query()]) -> Response:
        job = await submitted(request, given)
        grader, jobs = engine().ready()
        seconds = engine().limits.answer_seconds
        try:
            if not await _finished(job, seconds, request):
                raise HTTPException(
                    504,
                    f"It was not graded within {seconds:g} seconds; send fewer "
                    "files, or use /jobs.",
                )
            found = job.results
        finally:
            jobs.cancel(job)
        status, words = _status_of(found)
        answer = await run_in_threadpool(_answer, grader, found, given.format, words)
        answer.status_code = status
        return answer

    @app.post(
        "/jobs",
        status_code=202,
        summary="Hand in many files, and ask for the results later",
        responses=PROBLEMS,
        openapi_extra=FORM,
    )
    async def hand_in(request: Request, given: Annotated[HowToRead, Query()]) -> State:
        return _state(await submitted(request, given))

    @app.get("/jobs/{id}", responses={404: {"model": Problem}}, summary="State of a request")
    async def state(id: str, request: Request, given: Annotated[HowToWait, Query()]) -> State:
        job = engine().ready()[1].get(id)
        await _finished(job, given.wait, request)
        return _state(job)

    @app.delete("/jobs/{id}", status_code=204, summary="Give up a request and its results")
    async def give_up(id: str) -> None:
        jobs = engine().ready()[1]
        jobs.cancel(jobs.get(id))

    @app.get(
        "/jobs/{ids}/results.{format}",
        response_model=Results,
        responses={status: {"model": Problem} for status in (404, 409)},
        summary="Results of one request or several, whose names are joined by commas",
    )
    async def of_jobs(ids: str, format: Format) -> Response:
        grader, jobs = engine().ready()
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
        return Picture(**results.picture(shown_of(id, number)))

    @app.get(
        "/jobs/{id}/knees/{number}/film",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}}, 404: {"model": Problem}},
        summary="Whole film that a knee was cut from, JPEG",
    )
    async def film(id: str, number: int) -> Response:
        shown = shown_of(id, number)
        if shown.film is None:
            raise HTTPException(404, "This row was cut from no film.")
        return Response(shown.film, media_type="image/jpeg")

    def shown_of(id: str, number: int) -> Shown:
        """Return the picture of a row."""
        found = engine().ready()[1].get(id).results
        shown = found[number].shown if 0 <= number < len(found) else None
        if shown is None:
            raise HTTPException(404, "This row has no picture.")
        return shown


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
