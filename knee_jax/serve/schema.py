"""What the interface takes and answers, as `/openapi.json` describes it."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from knee_jax.serve.jobs import JobState

FORM = {
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
"""Body of a request that brings files."""


Format = Literal["json", "csv", "html"]


class HowToRead(BaseModel):
    """Parameters of a request that brings files."""

    model_config = ConfigDict(extra="forbid")

    side: Literal["L", "R"] | None = Field(
        None, description="Side of every knee; default: from the file."
    )
    spacing: float | None = Field(
        None, ge=0.02, le=1, description="Pixel size of films that carry none, mm."
    )


class HowToAnswer(HowToRead):
    """Parameters of a request that brings files and waits."""

    format: Format = Field("json", description="Form of the answer.")


class HowToWait(BaseModel):
    """Parameters of a question about a request."""

    model_config = ConfigDict(extra="forbid")

    wait: float = Field(0, ge=0, le=60, description="Seconds to wait for the end of it.")


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
    has_card: bool = Field(description="Whether `GET /card` has a model card.")


class Results(About):
    """Graded knees and refused files."""

    rows: list[dict[str, Any]] = Field(
        description="One per knee, or per refused file with the reason, with the columns of "
        "`predictions.csv` of `knee-jax predict`, whether it has a picture, and whether it is in "
        "doubt."
    )


class Picture(BaseModel):
    """Picture of a graded knee."""

    region: str = Field(description="Region that was read, oriented as a right knee: a PNG as URI.")
    heat: str | None = Field(description="Where the evidence lay, 0 to 255: a PNG as URI.")
    landmarks: list[list[float]] | None = Field(description="74 points, pixels of the region.")
    medial: list[bool] = Field(description="Whether each landmark is medial.")
    spacing_mm: float | None = Field(description="Pixel size, mm.")
    corners: list[list[float]] | None = Field(
        description="Corners of the region on the whole film, clockwise from the region's upper "
        "left one, as shares of the film's width and height; none of a crop."
    )


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
