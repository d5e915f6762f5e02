"""Knees of a study, from files of any kind: found, cut and turned as `knee-jax predict` does."""

from collections.abc import Callable, Iterable, Iterator

import cv2

from knee_jax.inference import grade
from knee_jax.ingest.knee_files import Knee as Found
from knee_jax.ingest.knee_files import Reading, Refusal
from knee_jax.ingest.sources import Source
from knee_jax.reading.study import Knee, subject_of

PIXELS = 700
"""Side of a picture, pixels: 0.2 mm for a region of 140 mm."""


NOTED = "noted"
"""Reason of what is said of a knee that is kept."""


def read(
    sources: list[Source], workers: int, done: Callable[[], object]
) -> Iterator[Knee | Refusal]:
    """Yield the knees of files, what is refused, and what is strange about a knee, in order.

    Args:
        sources: Files.
        workers: Processes that read them.
        done: Function that is called after each file.
    """
    reading = Reading(pixels=PIXELS, localise=True)
    reads: Iterable[grade.Read] = grade.read_all(sources, reading, workers)
    for each in grade.placed(reads, reading):
        for found in each.found:
            if isinstance(found, Found):
                good, data = cv2.imencode(".png", found.image)
                assert good
                name = found.source
                yield Knee(name, subject_of(name), found.side, 0, data.tobytes())
                if found.notes:
                    yield Refusal(name, found.side, NOTED, "; ".join(found.notes))
            elif isinstance(found, Refusal):
                yield found
        done()
