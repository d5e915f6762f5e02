"""The list of a run's knees, and that none that was trained on is ever scored."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knee_jax import targets
from knee_jax.cohort import knees, selection
from knee_jax.config import load
from knee_jax.data import prepared
from knee_jax.errors import UserError
from knee_jax.ingest.fingerprint import NEAR
from knee_jax.ingest.report import INDEX_COLUMNS
from knee_jax.targets.grades import GRADES

CONFIG = load.parse(load.base())


def make_index(subjects, seed=0, **changes):
    """An index of both knees of some subjects, every knee with pixels of its own."""
    rng = np.random.default_rng(seed)
    rows = []
    for record, (subject, side) in enumerate((s, side) for s in subjects for side in "LR"):
        own = np.random.default_rng([int(subject), side == "L"])
        rows.append(
            {
                "split": "study",
                "record": record,
                "subject": f"{subject:04d}",
                "side": side,
                "visit": 0,
                "cohort": "OAI",
                "site": "",
                "source": f"{subject}{side}",
                "spacing_mm": 0.4,
                "keypoints_valid": True,
                "checksum": own.bytes(8).hex(),
                "perceptual_hash": own.bytes(64).hex(),
                **dict.fromkeys(GRADES, -1),
                "kl": int(own.integers(0, 5)),
            }
            | changes
        )
    table = pd.DataFrame(rows, columns=INDEX_COLUMNS)
    return table.sample(frac=1, random_state=int(rng.integers(1000)), ignore_index=True)


@pytest.fixture(scope="module")
def open_set(tmp_path_factory):
    """Opens an index as a prepared set."""

    def opened(index):
        folder = tmp_path_factory.mktemp("set")
        index.to_csv(folder / "index.csv", index=False)
        return prepared.open_set(folder, ["kl"])

    return opened


def select(sets, monkeypatch=None, *, recorded=None, initial=None, training=False, **changes):
    """Selects knees of sets that are given by name."""
    data = dataclasses.replace(CONFIG.data, dataset="one", **changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "_open", lambda name, *_: sets[name])
        return selection.select(
            data,
            targets.get_all(("kl",)),
            CONFIG.task,
            None,
            reads_landmarks=False,
            recorded=recorded,
            initial=initial,
            training=training,
        )


def people(cohort, name):
    part = cohort.parts[name]
    return set(part.prepared.index["subject"].iloc[part.rows])


def test_the_list_holds_every_knee_of_the_set_with_its_part(open_set):
    of_set = open_set(make_index(range(20)))
    cohort = select({"one": of_set})
    listed = cohort.knees
    assert len(listed) == 40
    assert set(listed["prepared"]) == {of_set.fingerprint}
    for name, part in cohort.parts.items():
        here = listed[listed["part"] == name]
        expected = of_set.index.iloc[part.rows]
        assert set(here["checksum"]) == set(expected["checksum"])


def test_a_list_survives_its_file(open_set, tmp_path):
    listed = select({"one": open_set(make_index(range(20)))}).knees
    (tmp_path / "knees.csv").write_text(knees.text_of(listed))
    pd.testing.assert_frame_equal(knees.read(tmp_path / "knees.csv"), listed)
    (tmp_path / "knees.csv").write_text("part,dataset\n")
    with pytest.raises(UserError, match="no list of knees"):
        knees.read(tmp_path / "knees.csv")


SUBJECTS = st.sets(st.integers(0, 60), min_size=12, max_size=40)


@pytest.mark.parametrize(
    "examples",
    [8, pytest.param(100, marks=pytest.mark.slow), pytest.param(1000, marks=pytest.mark.long)],
)
def test_no_training_subject_is_ever_scored_as_test(open_set, examples):
    settings(deadline=None, max_examples=examples)(
        given(SUBJECTS, SUBJECTS, st.integers(0, 3))(
            lambda before, after, seed: check_parts_are_kept(open_set, before, after, seed)
        )
    )()


def check_parts_are_kept(open_set, before, after, seed):
    """Whoever left the set or came to it: every part keeps its people, and newcomers have none."""
    begun = select({"one": open_set(make_index(sorted(before)))}, seed=seed)
    now = open_set(make_index(sorted(after), seed=seed))
    if not all(people(begun, name) & after_names(after) for name in ("train", "validation")):
        with pytest.raises(UserError, match="knee of the run is left"):
            select({"one": now}, recorded=begun.knees, seed=seed)
        return
    found = select({"one": now}, recorded=begun.knees, seed=seed)
    for name in found.parts:
        assert people(found, name) == people(begun, name) & after_names(after)
    learnt = people(begun, "train") | people(begun, "validation")
    if "test" in found.parts:
        assert not people(found, "test") & learnt
    if before != after:
        (note,) = found.notes
        assert f"{2 * len(after - before)} knees appeared" in note
        assert f"{2 * len(before - after)} vanished" in note


def after_names(subjects):
    return {f"{subject:04d}" for subject in subjects}


def test_a_run_does_not_go_on_with_other_training_knees(open_set):
    begun = select({"one": open_set(make_index(range(20)))})
    gone = int(min(people(begun, "train")))
    now = {"one": open_set(make_index(set(range(20)) - {gone}))}
    with pytest.raises(UserError, match=r"2 vanished \(2 train\).*cannot go on"):
        select(now, recorded=begun.knees, training=True)
    assert people(select(now, recorded=begun.knees), "test") == people(begun, "test")
    # Whoever is only tested may leave.
    tested = int(min(people(begun, "test")))
    now = {"one": open_set(make_index(set(range(20)) - {tested}))}
    found = select(now, recorded=begun.knees, training=True)
    assert people(found, "test") == people(begun, "test") - {f"{tested:04d}"}


def test_changed_pixels_are_told(open_set):
    index = make_index(range(20))
    begun = select({"one": open_set(index)})
    tested = index["subject"] == min(people(begun, "test"))
    index.loc[tested, "checksum"] = "0" * 16
    found = select({"one": open_set(index)}, recorded=begun.knees)
    assert "2 changed (2 test)" in found.notes[0]


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("subject", "of 1 subjects that it has learnt from"),
        ("checksum", "whose pixels it has learnt from"),
        ("perceptual_hash", "whose picture, slightly changed"),
    ],
)
def test_another_set_is_compared_by_subject_and_by_pixels(open_set, column, words):
    index, others = make_index(range(20)), make_index(range(100, 110))
    trained = select({"one": open_set(index)}, split="k_fold").parts["train"].rows[0]
    value = index[column].iloc[trained]
    if column == "perceptual_hash":
        value = flip(value, 20)
    others.loc[0, column] = value
    sets = {"one": open_set(index), "two": open_set(others)}
    with pytest.raises(UserError, match=f"1 of 20 test knees are known.*1 {words}"):
        select(sets, split="k_fold", test_dataset="two")
    found = select(sets, split="k_fold", test_dataset="two", leaks="leave_out")
    assert list(found.parts["test"].rows) == list(range(1, 20))
    assert found.flow["test"]["used"] == 19
    assert "1 of 20 test knees are known" in found.notes[0]
    assert (found.knees["part"] == "known").sum() == 1
    again = select(
        sets, split="k_fold", test_dataset="two", leaks="leave_out", recorded=found.knees
    )
    assert again.notes == found.notes
    assert again.flow == found.flow


def flip(hexadecimal, number):
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(hexadecimal), np.uint8))
    bits[:number] ^= 1
    return np.packbits(bits).tobytes().hex()


def test_knees_behind_the_initial_weights_are_known_too(open_set):
    first = select({"one": open_set(make_index(range(20)))})
    initial = knees.learnt_from(first.knees)
    of_set = {"one": open_set(make_index(range(10, 40)))}
    with pytest.raises(UserError, match="validation knees are known to the network"):
        select(of_set, initial=initial)
    found = select(of_set, initial=initial, leaks="leave_out")
    known = set(initial["subject"])
    for name in ("validation", "test"):
        assert not people(found, name) & known
    assert (found.knees["part"] == knees.INITIAL).sum() == len(initial)
    assert set(initial["subject"]) <= set(knees.learnt_from(found.knees)["subject"])


def test_subjects_are_known_again_by_their_pseudonyms(open_set):
    first = select({"one": open_set(make_index(range(20)))})
    hidden = knees.under_pseudonyms(knees.learnt_from(first.knees))
    text = knees.text_of(hidden)
    assert not any(f",{subject}," in text for subject in first.knees["subject"])
    assert set(hidden["side"]) | set(hidden["visit"]) | set(hidden["cohort"]) == {""}
    pd.testing.assert_frame_equal(knees.under_pseudonyms(hidden), hidden)
    others = knees.describe(open_set(make_index(range(10, 40))))
    plain = knees.leaks(knees.learnt_from(first.knees), others)
    assert set(plain) == {"", "subject"}
    np.testing.assert_array_equal(knees.leaks(knees.parse(text, "a list"), others), plain)
    elsewhere = others.assign(cohort="MOST", checksum="", perceptual_hash="")
    assert set(knees.leaks(hidden, elsewhere)) == {""}


@pytest.mark.parametrize("hidden", [False, True])
def test_a_split_by_image_does_not_excuse_the_initial_weights(open_set, hidden):
    first = select({"one": open_set(make_index(range(20)))})
    initial = knees.learnt_from(first.knees)
    initial = knees.under_pseudonyms(initial) if hidden else initial
    of_set = {"one": open_set(make_index(range(10, 40)))}
    with pytest.raises(UserError, match="are known to the network"):
        select(of_set, initial=initial, split="image_ratio")


def test_a_split_by_image_says_that_subjects_cross(open_set):
    found = select({"one": open_set(make_index(range(40)))}, split="image_ratio")
    assert any("leaks subjects" in note for note in found.notes)
    crossing = people(found, "test") & people(found, "train")
    assert crossing


def test_a_knee_that_a_set_holds_twice_is_named(open_set):
    index = make_index(range(20))
    with pytest.raises(UserError, match="holds 2 knees more than once, such as 0003 L 0"):
        select({"one": open_set(pd.concat([index, index[index["source"] == "3L"]]))})


def test_a_published_test_split_is_not_dealt(open_set):
    index = make_index(range(60))
    published = index["subject"].astype(int) < 12
    index["split"] = np.where(published, "test", "train")
    of_set = {"one": open_set(index)}
    tested = set(index["subject"][published])
    for split in ("ratio", "image_ratio", "k_fold", "group_k_fold"):
        found = select(of_set, split=split)
        assert people(found, "test") == tested
        assert not tested & (people(found, "train") | people(found, "validation"))
    dealt = select(of_set, split="ratio", published_test="dealt")
    assert tested & people(dealt, "train")


def test_near_pictures_are_those_of_the_whole_comparison():
    """Some differ in a few bits, wherever these are, and others in nearly enough."""
    rng = np.random.default_rng(0)
    known = rng.integers(0, 256, (300, 64), np.uint8)
    others = rng.integers(0, 256, (60, 64), np.uint8)
    for i, number in enumerate(range(0, 150, 5)):
        bits = np.unpackbits(known[i])
        where = np.arange(512) if i % 2 else np.arange(0, 512)[::-1]
        flipped = where[:number] if i % 3 else rng.choice(512, number, replace=False)
        bits[flipped] ^= 1
        others[i] = np.packbits(bits)
    distances = [np.unpackbits(known ^ each, axis=1).sum(axis=1).min() for each in others]
    expected = np.array(distances) <= NEAR
    assert 10 < expected.sum() < 20
    first, second = (pd.Series([each.tobytes().hex() for each in of]) for of in (known, others))
    np.testing.assert_array_equal(knees._near(first, second), expected)
    second[0] = ""
    assert not knees._near(first, second)[0]
    # Opposite pictures, whose differing bits overflow the sum of a half.
    assert not knees._near(pd.Series(["00" * 64]), pd.Series(["ff" * 64])).any()
