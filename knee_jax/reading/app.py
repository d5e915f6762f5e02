"""The page that readers read at: who reads, what comes next, and every reading as it is given."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, Field

from knee_jax.errors import UserError
from knee_jax.reading.study import Study
from knee_jax.serve.security import LOCAL, Guard

PAGE = Path(__file__).parent / "page"


class Reader(BaseModel):
    """Somebody who reads."""

    name: str = Field(max_length=40)


class Value(BaseModel):
    """A grade that was given."""

    value: int = Field(ge=0, lt=100)


def create(study: Study, *, token: str = "", hosts: Collection[str] = LOCAL) -> FastAPI:
    """Make the application.

    Args:
        study: Study that is read.
        token: Token that requests must bring; '' if none is needed.
        hosts: Names by which the server may be called; empty: any.
    """
    app = FastAPI(title="knee_jax: reading", docs_url=None, redoc_url=None)
    app.add_middleware(Guard, token=token, hosts=hosts)
    for path, file in (("/", "index.html"), ("/page.js", "page.js"), ("/page.css", "page.css")):
        app.get(path, include_in_schema=False)(_sends(PAGE / file))

    @app.exception_handler(UserError)
    async def told(request: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": "the request is not as /openapi.json has it"}, 422)

    @app.post("/readers")
    def join(reader: Reader) -> dict[str, Any]:
        """Draw the order of a reader, or find it, and say what comes next."""
        name = reader.name.strip()
        study.join(name)
        grades = [
            {"name": each.name, "title": each.title, "classes": list(each.class_names)}
            for each in study.grades
        ]
        number = study.readers()[name][1]
        return {"grades": grades, "number": number, "next": study.next(name)}

    @app.get("/readers/{name}/places/{place}")
    def look(name: str, place: int) -> dict[str, Any]:
        """Return what a reader has given at a place."""
        return study.place(name, place)._asdict()

    @app.get("/readers/{name}/places/{place}/picture", response_class=Response)
    def picture(name: str, place: int) -> Response:
        """Return the picture at a place; nothing in it tells file or subject."""
        return Response(study.picture(name, place), media_type="image/png")

    @app.put("/readers/{name}/places/{place}/{grade}", status_code=204)
    def give(name: str, place: int, grade: str, value: Value) -> None:
        """Store a grade; it is on the disk when this answers."""
        study.read(name, place, grade, value.value)

    return app


def _sends(path: Path) -> Any:
    async def send() -> FileResponse:
        return FileResponse(path)

    return send
