"""Limits of what clients may ask; each is a flag of `knee-jax serve`."""

import dataclasses
from typing import TypeVar

MIB = 2**20

T = TypeVar("T", int, float)


def _limit(default: T, what: str) -> T:
    limit: T = dataclasses.field(default=default, metadata={"what": what})
    return limit


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of the server, all above 0; the fields say what of."""

    upload_mb: float = _limit(512.0, "Size of one request, MiB.")
    spool_mb: float = _limit(4096.0, "Size of all uploads that are not graded yet, MiB.")
    files: int = _limit(1000, "Number of files in one request, those in archives included.")
    jobs: int = _limit(128, "Number of requests that are not finished.")
    jobs_of_client: int = _limit(64, "The same of one address.")
    upload_seconds: float = _limit(120.0, "Time for one request to come in, seconds.")
    idle_seconds: float = _limit(15.0, "Time within which a sender must send something, seconds.")
    read_seconds: float = _limit(30.0, "Time for reading one file, seconds.")
    answer_seconds: float = _limit(120.0, "Time for an answer of /predict, seconds.")
    keep_mb: float = _limit(512.0, "Size of the results that are kept, MiB; the oldest go first.")
    keep_minutes: float = _limit(
        60.0, "Time for which results are kept after the last look at them."
    )
