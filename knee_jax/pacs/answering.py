"""Answers to the films of a spool: graded, stored, sent, and each step logged."""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from knee_jax.errors import UnusableKnee
from knee_jax.inference import grade
from knee_jax.inference.predictor import Predictor
from knee_jax.ingest.knee_files import Reading
from knee_jax.ingest.sources import Source
from knee_jax.pacs import node, results
from knee_jax.pacs.spool import Spool

MOST_AT_ONCE = 16
"""Number of films that are graded before their answers are sent."""

FIRST_WAIT, LONGEST_WAIT = 1.0, 300.0
"""Time until a peer that did not answer is tried again, at first and at most, seconds."""

Log = Callable[..., None]


def log(event: str, **values: Any) -> None:
    """Print a line of JSON; films are named by their keys alone."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    print(json.dumps({"time": now, "event": event, **values}), file=sys.stderr, flush=True)


def answer_films(spool: Spool, predictor: Predictor, reading: Reading, workers: int) -> int:
    """Grade the oldest films of a spool, and store their answers; return how many films it took."""
    films = spool.films()[:MOST_AT_ONCE]
    sources = [Source(path, path.stem) for path in films]
    if not sources:
        return 0
    reads = grade.read_all(sources, reading, min(workers, len(sources)))
    reads = grade.placed(reads, reading) if reading.localise else reads
    with tempfile.TemporaryDirectory(prefix=".grading_", dir=spool.root) as folder:
        out = Path(folder)
        for name in (grade.KNEES, grade.PICTURES):
            (out / name).mkdir()
        _store(spool, predictor, grade.rows_of(predictor, reads, out), out)
    return len(films)


def _store(
    spool: Spool,
    predictor: Predictor,
    graded: Iterable[tuple[grade.Read, list[grade.Row]]],
    out: Path,
) -> None:
    for read, rows in graded:
        key = read.source.name
        reasons = sorted({row["reason"] for row in rows if row["status"] == "refused"})
        sides = [row["side"] for row in rows if row["status"] == "graded"]
        if not sides:
            spool.finish(key, {"outcome": "refused", "reasons": reasons})
            log("refused", film=key, reasons=reasons)
            continue
        try:
            made = results.objects(read, rows, predictor.targets, out)
        except UnusableKnee as error:
            spool.finish(key, {"outcome": "refused", "reasons": [error.reason]})
            log("refused", film=key, reasons=[error.reason])
            continue
        spool.answer(key, made)
        log("answered", film=key, knees=len(sides), refused=reasons)


class Sender:
    """Sender of a spool's answers to one peer, which waits longer and longer for a silent one.

    Args:
        spool: Films and answers.
        title: Our application entity title.
        peer: Who receives the answers.
    """

    def __init__(self, spool: Spool, title: str, peer: node.Peer):
        self._spool, self._title, self._peer = spool, title, peer
        self._wait, self._not_before = FIRST_WAIT, 0.0

    def send(self, now: float) -> None:
        """Send what is not sent, unless the peer is to be left alone until later.

        Args:
            now: Time by a clock that never goes back, seconds.
        """
        if now < self._not_before:
            return
        problems = [p for answer in self._spool.answers() if (p := self._send(answer))]
        if problems:
            log("not_sent", answers=len(problems), problem=problems[0], again_in=self._wait)
            self._not_before = now + self._wait
            self._wait = min(2 * self._wait, LONGEST_WAIT)
        else:
            self._wait = FIRST_WAIT

    def _send(self, answer: Path) -> str:
        """Send the rest of an answer, and return '' or what went wrong."""
        problem = ""
        for path, fault in node.send(self._title, self._peer, self._spool.unsent(answer)):
            if fault:
                problem = fault
            else:
                self._spool.mark_sent(path)
        if not problem:
            self._spool.finish(answer.name, {"outcome": "sent", "to": self._peer.title})
            log("sent", film=answer.name)
        return problem
