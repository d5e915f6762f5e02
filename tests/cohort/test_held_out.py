"""Knees of any set that a run may be scored on."""

import dataclasses

import numpy as np
import pytest

from knee_jax import targets
from knee_jax.cohort import held_out, knees
from knee_jax.data.prepared import open_set
from knee_jax.errors import UserError

KL = targets.get_all(("kl",))


@pytest.fixture(scope="module")
def prepared(tiny_data_dir):
    return open_set(tiny_data_dir / "phantom_xray/tiny/1.1.0", ("kl", "osfl"))


def test_subjects_and_pictures_that_were_learnt_from_are_left_out(prepared):
    listed = knees.describe(prepared)
    read = np.flatnonzero(prepared.index["kl"] >= 0)
    people = prepared.index["subject"].iloc[read].unique()
    by_subject = listed[listed["subject"] == people[0]].head(1)
    # The same picture under the name of another study's subject.
    by_pixels = listed[listed["subject"] == people[1]].iloc[[0]].assign(cohort="X", subject="x")
    learnt = knees.pd.concat([by_subject, by_pixels])
    found = held_out.choose(prepared, KL, learnt)
    left = prepared.index.iloc[found.rows]
    assert people[0] not in set(left["subject"])
    out = set(read) - set(found.rows)
    expected = set(read[prepared.index["subject"].iloc[read] == people[0]])
    twin = listed.index[listed["checksum"].isin(by_pixels["checksum"])]
    assert out == expected | (set(twin) & set(read))
    assert found.left_out["subject_trained_on"] == len(expected)
    assert found.left_out["pixels_trained_on"] == len(set(twin) & set(read)) > 0
    assert found.notes[0].startswith(f"{len(out)} of {len(read)} phantom_xray/tiny knees are known")
    # Another cohort's subject of the same id is another person.
    elsewhere = by_subject.assign(cohort="X", checksum="", perceptual_hash="")
    assert len(held_out.choose(prepared, KL, elsewhere).rows) == len(read)


def test_training_knees_are_scored_if_asked_for_and_told(prepared):
    listed = knees.describe(prepared)
    read = np.flatnonzero(prepared.index["kl"] >= 0)
    with pytest.raises(UserError, match=r"none is left to be scored; .* with --training_knees"):
        held_out.choose(prepared, KL, listed)
    found = held_out.choose(prepared, KL, listed, training_knees=True)
    assert found.rows.tolist() == read.tolist()
    assert found.known == len(read)
    assert f"{len(read)} of {len(read)}" in found.notes[0]
    assert "do not tell of new knees" in found.notes[0]
    assert not any(why.endswith("trained_on") for why in found.left_out)
    # Of knees that are all new nothing is marked.
    unknown = held_out.choose(prepared, KL, listed.iloc[:0], training_knees=True)
    assert (unknown.known, unknown.rows.tolist()) == (0, read.tolist())


def test_what_cannot_be_scored_is_left_out_and_said(prepared):
    none = knees.describe(prepared).iloc[:0]
    index = prepared.index.copy()
    index["kl"], index["osfl"] = -1, -1
    index.loc[:3, "kl"] = 2
    index.loc[2:4, "osfl"] = 1
    index["keypoints_valid"] = True
    index.loc[0, "keypoints_valid"] = False
    changed = dataclasses.replace(prepared, index=index)
    both = targets.get_all(("kl", "osfl"))
    assert held_out.choose(changed, both, none).rows.tolist() == [0, 1, 2, 3, 4]
    found = held_out.choose(changed, both, none, with_landmarks=True, wholly_read=True)
    assert found.rows.tolist() == [2, 3]
    unread = len(index) - 5
    assert found.left_out == {"unread": unread, "without_landmarks": 1, "partially_read": 2}
    assert f"{unread} without a label of kl, osfl" in found.notes[0]


def test_none_left_is_refused_and_an_unknown_training_set_is_said(prepared):
    everybody = knees.describe(prepared)
    with pytest.raises(UserError, match=r"so that none is left .* --cohort"):
        held_out.choose(prepared, KL, everybody)
    unread = dataclasses.replace(prepared, index=prepared.index.assign(kl=-1))
    with pytest.raises(UserError, match=r"no knee of the set can be scored: \d+ without a label"):
        held_out.choose(unread, KL, everybody)
    assert "It is not known whom" in held_out.choose(prepared, KL, None).notes[0]


def test_a_damaged_list_is_refused(tmp_path, prepared):
    from knee_jax.workdir import manifest

    assert held_out.learnt_by(tmp_path) is None
    table = knees.describe(prepared).assign(part="test", dataset="x")
    table.loc[0, "part"] = "train"
    content = knees.text_of(table[list(knees.COLUMNS)]).encode()
    manifest.write(tmp_path, {knees.FILE: content}, "config")
    assert len(held_out.learnt_by(tmp_path)) == 1
    (tmp_path / knees.FILE).write_bytes(content.replace(b"train", b"test"))
    with pytest.raises(UserError, match=r"is not as the run wrote it: nobody can tell whom"):
        held_out.learnt_by(tmp_path)
