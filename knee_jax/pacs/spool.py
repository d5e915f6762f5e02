"""Films that wait for their answers, and answers that wait to be sent, in a folder.

    films/KEY.dcm        a film as it was received
    answers/KEY/*.dcm    its answer, made and not sent yet; what is sent is renamed to *.sent
    done/KEY.json        how it ended; neither the film nor the answer is kept

KEY is a checksum of the film's UID. Each step replaces names on disk after the contents are on it,
and can be repeated, so that a process that is killed at any point loses nothing. A film that comes
again is not answered again.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from knee_jax.files import hash_of, sync, write_bytes, write_json

FILMS, ANSWERS, DONE = "films", "answers", "done"
_UNFINISHED = ".unfinished_"


class Spool:
    """Folder of films and answers; made if it is missing, and tidied after a process was killed.

    Args:
        root: Folder, used by one process at a time.
    """

    def __init__(self, root: Path):
        self.root = root
        for name in (FILMS, ANSWERS, DONE):
            (root / name).mkdir(parents=True, exist_ok=True)
            for left in (root / name).glob(f"{_UNFINISHED}*"):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        for film in self.films():
            if self._answer(film.stem).is_dir() or self._done(film.stem).is_file():
                film.unlink()
        for answer in self.answers():
            if self._done(answer.name).is_file():
                shutil.rmtree(answer)

    def _film(self, key: str) -> Path:
        return self.root / FILMS / f"{key}.dcm"

    def _answer(self, key: str) -> Path:
        return self.root / ANSWERS / key

    def _done(self, key: str) -> Path:
        return self.root / DONE / f"{key}.json"

    def receive(self, uid: str, content: bytes) -> tuple[str, bool]:
        """Store a film, on the disk when this returns.

        Args:
            uid: SOP instance UID of the film.
            content: The film, as a DICOM file.

        Returns:
            Its key, and whether it is new.
        """
        key = key_of(uid)
        paths = (self._done(key), self._answer(key), self._film(key))
        if any(path.exists() for path in paths):
            return key, False
        write_bytes(self._film(key), content)
        return key, True

    def films(self) -> list[Path]:
        """Return the films without an answer, the oldest first."""
        found = (self.root / FILMS).glob("[!.]*.dcm")
        return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))

    def answer(self, key: str, objects: Mapping[str, Dataset]) -> None:
        """Store the answer to a film, all of its objects or none, and drop the film."""
        unfinished = self.root / ANSWERS / f"{_UNFINISHED}{key}"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        for name, made in objects.items():
            made.save_as(unfinished / name, enforce_file_format=True)
            sync(unfinished / name)
        sync(unfinished)
        unfinished.rename(self._answer(key))
        sync(self.root / ANSWERS)
        self._film(key).unlink()

    def answers(self) -> list[Path]:
        """Return the folders of the answers that are not sent, in the order of their keys."""
        return sorted((self.root / ANSWERS).glob("[!.]*"))

    def unsent(self, answer: Path) -> list[Path]:
        """Return the objects of an answer that are not sent, in order."""
        return sorted(answer.glob("*.dcm"))

    def mark_sent(self, path: Path) -> None:
        """Note that the peer has taken an object."""
        path.rename(path.with_suffix(".sent"))
        sync(path.parent)

    def finish(self, key: str, outcome: Mapping[str, Any]) -> None:
        """Note how a film ended, and drop it and its answer."""
        write_json(self._done(key), dict(outcome))
        self._film(key).unlink(missing_ok=True)
        shutil.rmtree(self._answer(key), ignore_errors=True)

    def outcomes(self) -> dict[str, dict[str, Any]]:
        """Return how each finished film ended, by key."""
        return {
            path.stem: json.loads(path.read_text(encoding="utf-8"))
            for path in sorted((self.root / DONE).glob("[!.]*.json"))
        }


def key_of(uid: str) -> str:
    """Return the key of a film: a checksum, so that names on disk and in logs tell no UID."""
    return hash_of(uid.encode())[:24]
