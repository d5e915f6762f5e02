"""A study file: own orders, readings that last, copies that are joined."""

import sqlite3
import threading

import pytest

from knee_jax.errors import UserError
from knee_jax.reading.order import blind_order
from knee_jax.reading.study import Knee, Study, create, subject_of


def make(path, number=12, grades=("kl",), repeats=0.25, seed=0):
    knees = []
    for i in range(number):
        subject, side = str(9000000 + i // 2), "RL"[i % 2]
        knees.append(Knee(f"folder/{subject}{side}.png", subject, side, 0, bytes([i])))
    return create(path, knees, grades, repeats, seed)


@pytest.mark.parametrize("number", [1, 2, 7, 100])
@pytest.mark.parametrize("repeats", [0.0, 0.1, 0.5, 1.0])
def test_an_order_has_every_knee_once_and_repeats_late(number, repeats):
    order = blind_order(number, repeats, 0, "A")
    first = [knee for knee, again in order if not again]
    assert sorted(first) == list(range(number))
    again = [(place, knee) for place, (knee, repeated) in enumerate(order) if repeated]
    assert len(again) == min(-(-repeats * number // 1), number // 2)
    for place, knee in again:
        assert place >= -(-number // 2) > order.index((knee, False))
        assert place - order.index((knee, False)) >= number // 4


def test_repeats_never_follow_at_once():
    for reader in map(str, range(200)):
        order = blind_order(10, 0.2, 0, reader)
        for place, (knee, repeated) in enumerate(order):
            assert not repeated or place - order.index((knee, False)) >= 2


def test_orders_are_each_reader_s_own_and_the_same_again():
    assert blind_order(50, 0.1, 0, "A") == blind_order(50, 0.1, 0, "A")
    assert blind_order(50, 0.1, 0, "A") != blind_order(50, 0.1, 0, "B")
    assert blind_order(50, 0.1, 0, "A") != blind_order(50, 0.1, 1, "A")


def test_a_reading_lasts_and_a_reader_goes_on(tmp_path):
    study = make(tmp_path / "study.db", grades=("kl", "osfl"))
    study.join("Ann")
    assert study.next("Ann") == 0
    study.read("Ann", 0, "kl", 3)
    assert study.next("Ann") == 0  # Its second grade is not read.
    study.read("Ann", 0, "osfl", 1)
    again = Study(tmp_path / "study.db")
    again.join("Ann")
    assert again.next("Ann") == 1
    assert again.place("Ann", 0).values == {"kl": 3, "osfl": 1}
    assert again.readers() == {"Ann": (1, 15)}
    again.read("Ann", 0, "kl", 2)
    assert again.place("Ann", 0).values["kl"] == 2
    assert len(again.readings()) == 2


def test_pictures_follow_the_reader_s_order(tmp_path):
    study = make(tmp_path / "study.db")
    study.join("Ann")
    order = blind_order(12, 0.25, 0, "Ann")
    assert [study.picture("Ann", at)[0] for at in range(15)] == [knee for knee, _ in order]


def test_readers_at_once_keep_apart(tmp_path):
    study = make(tmp_path / "study.db", number=30, repeats=0)

    def read(reader, value):
        own = Study(tmp_path / "study.db")
        own.join(reader)
        while (place := own.next(reader)) is not None:
            own.read(reader, place, "kl", value)

    threads = [threading.Thread(target=read, args=pair) for pair in (("Ann", 1), ("Ben", 2))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = study.readings()
    assert study.readers() == {"Ann": (30, 30), "Ben": (30, 30)}
    assert set(found.loc[found["reader"] == "Ann", "value"]) == {1}
    assert set(found.loc[found["reader"] == "Ben", "value"]) == {2}
    assert study.next("Ann") is None


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda s: s.read("Ann", 99, "kl", 1), "has no place 99"),
        (lambda s: s.read("Ben", 0, "kl", 1), "Ben has no place 0"),
        (lambda s: s.read("Ann", 0, "kl", 5), "kl = 5: is from 0 to 4"),
        (lambda s: s.read("Ann", 0, "osfl", 1), "osfl: the study reads kl"),
        (lambda s: s.picture("Ann", -1), "has no place -1"),
        (lambda s: s.join("<b>"), "a reader's name"),
        (lambda s: s.join(""), "a reader's name"),
        (lambda s: s.join("x" * 41), "a reader's name"),
    ],
)
def test_what_is_not_of_the_study_is_refused(tmp_path, act, message):
    study = make(tmp_path / "study.db")
    study.join("Ann")
    with pytest.raises(UserError, match=message):
        act(study)
    assert study.readings().empty


def test_what_is_no_study_is_told(tmp_path):
    with pytest.raises(UserError, match="no knee is left"):
        make(tmp_path / "empty.db", number=0)
    assert not list(tmp_path.iterdir())
    (tmp_path / "text.db").write_text("no database at all")
    with pytest.raises(UserError, match="is no reading study"):
        Study(tmp_path / "text.db")
    make(tmp_path / "study.db")
    with pytest.raises(UserError, match="is there already"):
        make(tmp_path / "study.db")
    with pytest.raises(UserError, match="xyz: is no grade; choose from kl"):
        make(tmp_path / "other.db", grades=("xyz",))
    with sqlite3.connect(tmp_path / "study.db") as base:
        base.execute("UPDATE facts SET value = '9' WHERE name = 'version'")
    with pytest.raises(UserError, match="newer knee_jax"):
        Study(tmp_path / "study.db")


def test_copies_are_joined(tmp_path):
    here, there = make(tmp_path / "here.db"), make(tmp_path / "there.db")
    for study, reader in ((here, "Ann"), (there, "Ben"), (there, "Ann")):
        study.join(reader)
        for place in range(15):
            study.read(reader, place, "kl", place % 5)
    assert here.take(there.readings()) == (15, 15)
    found = here.readings()
    assert set(found["reader"]) == {"Ann", "Ben"}
    theirs = there.readings()
    same = ["file", "side", "reader", "place", "again", "grade", "value", "at"]
    assert found[found["reader"] == "Ben"][same].values.tolist() == (
        theirs[theirs["reader"] == "Ben"][same].values.tolist()
    )
    other = make(tmp_path / "other.db", number=2)
    with pytest.raises(UserError, match="is no knee of"):
        other.take(theirs)
    assert other.readings().empty


@pytest.mark.parametrize(
    ("file", "subject"),
    [
        ("a/9000099L.png", "9000099"),
        ("9000099_R.dcm", "9000099"),
        ("film 7.png", "film 7"),
        ("WALL.png", "WALL"),
    ],
)
def test_a_name_tells_its_subject(file, subject):
    assert subject_of(file) == subject
