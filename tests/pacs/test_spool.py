"""The spool: nothing is lost, and nothing is answered or sent twice, wherever a process dies."""

import shutil
from pathlib import Path

import pydicom
import pytest

from knee_jax.pacs import spool as spools
from knee_jax.pacs.spool import Spool, key_of
from tests.pacs.films import film


class Killed(BaseException):
    pass


@pytest.fixture
def made(tmp_path):
    return {f"{name}.dcm": pydicom.dcmread(film(tmp_path / name)) for name in ("report", "picture")}


def walk(root, made, sent):
    """One process' work on a spool: receive, answer, send, finish; `sent` is what the peer has."""
    spool = Spool(root)
    for uid in ("1.2.3", "1.2.4"):
        spool.receive(uid, b"film " + uid.encode())
    for path in spool.films():
        spool.answer(path.stem, made)
    for answer in spool.answers():
        for path in spool.unsent(answer):
            sent.append((answer.name, path.name))
            spool.mark_sent(path)
        spool.finish(answer.name, {"outcome": "sent"})


def test_a_film_is_received_answered_sent_and_forgotten(tmp_path, made):
    sent = []
    root = tmp_path / "spool"
    walk(root, made, sent)
    keys = sorted([key_of("1.2.3"), key_of("1.2.4")])
    assert sorted(sent) == [(key, name) for key in keys for name in sorted(made)]
    assert sorted(Spool(root).outcomes()) == keys
    left = [path.parent.name for path in root.rglob("*") if path.is_file()]
    assert set(left) == {"done"}
    assert b"1.2.3" not in b"".join(p.read_bytes() for p in root.rglob("*") if p.is_file())


def test_a_film_that_comes_again_is_not_answered_again(tmp_path, made):
    spool = Spool(tmp_path / "spool")
    assert spool.receive("1.2.3", b"film") == (key_of("1.2.3"), True)
    assert not spool.receive("1.2.3", b"film")[1]
    spool.answer(key_of("1.2.3"), made)
    assert not spool.receive("1.2.3", b"film")[1]
    spool.finish(key_of("1.2.3"), {"outcome": "sent"})
    assert not spool.receive("1.2.3", b"film")[1]
    assert not spool.films()
    assert not spool.answers()


def test_films_are_taken_oldest_first(tmp_path):
    import os

    spool = Spool(tmp_path / "spool")
    for age, uid in enumerate(("1.2.5", "1.2.3", "1.2.4")):
        key, _ = spool.receive(uid, b"film")
        os.utime(tmp_path / "spool/films" / f"{key}.dcm", (1000 + age, 1000 + age))
    order = [path.stem for path in spool.films()]
    assert order == [key_of(uid) for uid in ("1.2.5", "1.2.3", "1.2.4")]


def steps(monkeypatch, stop_at):
    """Count what changes names on disk, and die before step `stop_at`."""
    count = [0]

    def counted(function):
        def step(*arguments, **named):
            count[0] += 1
            if count[0] == stop_at:
                raise Killed
            return function(*arguments, **named)

        return step

    for name in ("rename", "unlink", "mkdir"):
        monkeypatch.setattr(Path, name, counted(getattr(Path, name)))
    monkeypatch.setattr(spools, "write_bytes", counted(spools.write_bytes))
    monkeypatch.setattr(spools, "write_json", counted(spools.write_json))
    monkeypatch.setattr(shutil, "rmtree", counted(shutil.rmtree))
    return count


def test_a_process_may_die_at_any_step(tmp_path, made, monkeypatch):
    with monkeypatch.context() as patch:
        count = steps(patch, stop_at=0)
        walk(tmp_path / "whole", made, [])
    assert count[0] > 20
    for stop_at in range(1, count[0] + 1):
        root, sent = tmp_path / f"spool{stop_at}", []
        with monkeypatch.context() as patch:
            steps(patch, stop_at)
            with pytest.raises(Killed):
                walk(root, made, sent)
        before = len(sent)
        walk(root, made, sent)
        keys = sorted([key_of("1.2.3"), key_of("1.2.4")])
        wanted = [(key, name) for key in keys for name in sorted(made)]
        # What the peer took just before its mark is sent again, as the same object.
        assert sorted(set(sent)) == wanted
        assert len(sent) - len(set(sent)) <= (1 if before else 0)
        assert not [p for p in root.rglob("*") if p.is_file() and p.parent.name != "done"]
