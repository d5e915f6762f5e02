"""One file through the whole way: read, knees found, graded, and what is shown of them."""

import dataclasses
import time
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from knee_jax.inference import grade, placing
from knee_jax.inference.grade import Row
from knee_jax.inference.locate import Localiser
from knee_jax.inference.predictor import Predictor
from knee_jax.ingest.knee_files import Knee, KneeFileJob, Reading, Refusal, Unplaced
from knee_jax.ingest.sources import Source
from knee_jax.serve.batching import Batcher
from knee_jax.serve.reader import Reader

GRADER_SIZES, LOCALISER_SIZES = (2, 8, 32), (4, 16, 48)
"""Numbers of knees, and of windows, in a batch."""


@dataclasses.dataclass(frozen=True)
class Shown:
    """Picture of a graded knee.

    Attributes:
        knee: Knee, without its region.
        region: Region that was read, PNG.
        heat: Where the evidence lay, PNG of 0 to 255; None if the network does not show it.
        film: Whole film that the knee was cut from, JPEG; None of a crop.
    """

    knee: Knee
    region: bytes
    heat: bytes | None
    film: bytes | None

    @property
    def size(self) -> int:
        """Bytes that it takes, about."""
        pictures = len(self.region) + len(self.heat or b"") + len(self.film or b"")
        return pictures + self.knee.landmarks.nbytes

    def draw(self, predictor: Predictor, row: Row) -> np.ndarray:
        """Draw it as `knee-jax predict` does, uint8 [rows, columns, 3]."""
        knee = dataclasses.replace(self.knee, image=_decoded(self.region))
        heat = None if self.heat is None else _decoded(self.heat).astype(np.float32) / 255
        return grade.picture(predictor, knee, row, heat)


@dataclasses.dataclass(frozen=True)
class Graded:
    """Row of a knee or refused file, and the picture of a graded one."""

    row: Row
    shown: Shown | None = None


class Grader:
    """The models, loaded once, and the reader.

    Args:
        predictor: Model that grades.
        localiser: Finder of knees.
        reader: Reader of files.
        batcher: Thread that runs the networks.
        observe: Called with the name of a stage and the seconds that it took.
    """

    def __init__(
        self,
        predictor: Predictor,
        localiser: Localiser,
        reader: Reader,
        batcher: Batcher,
        observe: Callable[[str, float], None],
    ):
        self.predictor = batcher.shared(predictor, GRADER_SIZES)
        self.reading = grade.reading_for(predictor, localise=True)
        self.reader = reader
        self._localiser = Localiser(batcher.shared(localiser.predictor, LOCALISER_SIZES))
        self.batcher = batcher
        self._observe = observe

    def warm(self) -> None:
        """Compile, or read from the cache, all that is run."""
        self.batcher.warm(self.predictor, GRADER_SIZES)
        self.batcher.warm(
            # Nobody is shown what the localiser looks at.
            dataclasses.replace(self._localiser.predictor, heat=None),
            LOCALISER_SIZES,
        )
        self.reader.warm()

    def grade(self, source: Source, reading: Reading) -> list[Graded]:
        """Grade the knees of a file, the right one first; each is graded or refused."""
        begin = time.perf_counter()

        def took(stage: str) -> None:
            nonlocal begin
            now = time.perf_counter()
            self._observe(stage, now - begin)
            begin = now

        with self.batcher.caller():
            found = self.reader.read(KneeFileJob(source, reading))
            took("read")
            placed = placing.place(source, found, reading, self._localiser, self.reader.read)
            took("place")
            knees = [each for each in placed if isinstance(each, Knee)]
            rows = grade.rows_of_knees(self.predictor, knees) if knees else []
            took("grade")
            graded = iter(
                self._with_pictures(knees, rows, self._film(source, reading, found, knees))
            )
            took("explain")
        return [
            next(graded) if isinstance(each, Knee) else Graded(grade.refused(self.predictor, each))
            for each in placed
            if not isinstance(each, Unplaced)
        ]

    def _film(
        self,
        source: Source,
        reading: Reading,
        found: Sequence[Knee | Refusal | Unplaced],
        knees: Sequence[Knee],
    ) -> bytes | None:
        """Return the whole film of knees that were cut out of one, JPEG; None of a crop."""
        if all(knee.corners is None for knee in knees):
            return None
        films = [each for each in found if isinstance(each, Unplaced)]
        if not films:
            # It had landmark files, or looked like a crop.
            again = self.reader.read(KneeFileJob(source, reading, as_film=True, whole=True))
            films = [each for each in again if isinstance(each, Unplaced)]
        if not films:
            return None
        inverted = any(placing.INVERTED in knee.notes for knee in knees)
        whole = 255 - films[0].picture if inverted and films[0].is_picture else films[0].picture
        return _encoded(whole, ".jpg")

    def _with_pictures(
        self, knees: Sequence[Knee], rows: Sequence[Row], film: bytes | None
    ) -> list[Graded]:
        """Return the rows of some knees, those that are graded with pictures."""
        kept = [k for k, row in zip(knees, rows, strict=True) if row["status"] == "graded"]
        heats = iter(grade.evidence(self.predictor, kept) if kept else ())
        return [
            Graded(row, _shown(knee, next(heats), film) if row["status"] == "graded" else None)
            for knee, row in zip(knees, rows, strict=True)
        ]


def _shown(knee: Knee, heat: np.ndarray | None, film: bytes | None) -> Shown:
    nothing = np.empty((0, 0), np.uint8)
    seen = None if heat is None else np.rint(255 * np.clip(heat, 0, 1)).astype(np.uint8)
    return Shown(
        dataclasses.replace(knee, image=nothing),
        _encoded(knee.image),
        None if seen is None else _encoded(seen),
        film,
    )


def _encoded(image: np.ndarray, form: str = ".png") -> bytes:
    good, data = cv2.imencode(form, image)
    assert good
    return data.tobytes()


def _decoded(data: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    return image
