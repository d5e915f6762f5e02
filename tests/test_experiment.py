"""Which knees a run trains on, and what becomes of the others."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from knee_jax import evaluate, experiment, knees, train
from knee_jax.errors import UserError
from knee_jax.grades import GRADES, MISSING


@pytest.fixture
def set_up(config, tmp_path, tiny_data_dir):
    return lambda: experiment.set_up(config, tmp_path, tiny_data_dir)


@pytest.fixture
def change_index(monkeypatch):
    """Changes the index of the prepared set by a function that is handed it."""
    original = knees.prepared.open_set

    def apply(change):
        def open_set(path):
            opened = original(path)
            index = opened.index.copy()
            change(index)
            return dataclasses.replace(opened, index=index)

        monkeypatch.setattr(knees.prepared, "open_set", open_set)

    return apply


@pytest.fixture
def without_landmarks(change_index, monkeypatch):
    """Every third knee of the prepared set has no landmarks."""

    def change(index):
        index.loc[::3, "keypoints_valid"] = False

    load = knees.prepared.PreparedSet.load

    def blind(self, rows):
        found = load(self, rows)
        valid = self.index["keypoints_valid"].to_numpy()[rows]
        found["keypoints"][~valid] = np.nan
        return found | {"keypoints_valid": valid}

    change_index(change)
    monkeypatch.setattr(knees.prepared.PreparedSet, "load", blind)


def subjects(part):
    return set(part.prepared.index["subject"].to_numpy()[part.rows])


def grades(part):
    return part.prepared.index[list(GRADES)].to_numpy()[part.rows]


def test_unlabelled_knees_are_of_training_subjects_only(set_up):
    parts = set_up().parts
    assert (grades(parts["unlabelled"]) == MISSING).all()
    for name in ("validation", "test"):
        assert not subjects(parts[name]) & (
            subjects(parts["train"]) | subjects(parts["unlabelled"])
        )
    assert not set(parts["train"].rows) & set(parts["unlabelled"].rows)


def test_an_epoch_passes_over_the_union_in_the_natural_ratio(set_up):
    found = set_up()
    train_rows, others = found.parts["train"].rows, found.parts["unlabelled"].rows
    assert found.steps_per_epoch == (len(train_rows) + len(others)) / 8
    drawn = np.concatenate([found.plan(step) for step in range(math.ceil(found.steps_per_epoch))])
    first_pass = drawn[: len(train_rows) + len(others)]
    assert sorted(first_pass) == sorted([*train_rows, *others])


def test_a_fixed_share_of_every_batch_is_unlabelled(config, set_up):
    config.data.unlabelled = "fixed"
    config.data.unlabelled_share = 0.25
    found = set_up()
    others = found.parts["unlabelled"].rows
    for step in range(20):
        assert np.isin(found.plan(step), others).sum() == 2
    # An epoch is a pass over the labelled ones, six of each batch.
    assert found.steps_per_epoch == pytest.approx(len(found.parts["train"].rows) / 6)


def test_without_unlabelled_knees_training_is_supervised_and_says_so(
    config, set_up, change_index, capsys
):
    def read_all(index):
        index[list(GRADES)] = index[list(GRADES)].clip(lower=0)

    change_index(read_all)
    for kind in ("natural", "fixed"):
        config.data.unlabelled = kind
        found = set_up()
        assert "unlabelled" not in found.parts
        assert "training is supervised" in capsys.readouterr().out
        assert found.steps_per_epoch == len(found.parts["train"].rows) / 8


def test_label_fractions_hide_the_labels_of_whole_subjects_and_are_nested(config, set_up):
    labelled, everyone = {}, {}
    for fraction in (0.2, 0.4, 1.0):
        config.data.label_fraction = fraction
        found = set_up()
        labelled[fraction] = subjects(found.parts["train"])
        everyone[fraction] = len(found.parts["train"].rows) + len(found.parts["unlabelled"].rows)
        assert (
            found.statistics.counts["kl"]
            == np.bincount(grades(found.parts["train"])[:, 0], minlength=5).tolist()
        )
    assert labelled[0.2] < labelled[0.4] < labelled[1.0]
    assert len(labelled[0.4]) == round(0.4 * len(labelled[1.0]))
    # The others' knees join the unlabelled ones.
    assert len(set(everyone.values())) == 1


@pytest.fixture
def partly_read(change_index):
    """Every fourth knee of the prepared set lacks a grade."""

    def change(index):
        index.loc[::4, "ostm"] = MISSING

    change_index(change)


def test_partially_labelled_knees_are_masked_or_unlabelled(config, set_up, partly_read):
    masked = set_up().parts
    partial = (grades(masked["train"]) == MISSING).any(axis=1)
    assert partial.any()
    config.data.partially_labelled = "unlabelled"
    whole = set_up().parts
    np.testing.assert_array_equal(whole["train"].rows, masked["train"].rows[~partial])
    assert set(masked["train"].rows[partial]) <= set(whole["unlabelled"].rows)
    assert len(whole["test"].rows) == len(masked["test"].rows)
    config.data.partially_labelled = "drop"
    dropped = set_up()
    np.testing.assert_array_equal(dropped.parts["train"].rows, masked["train"].rows[~partial])
    for name in ("train", "validation", "test"):
        known = grades(dropped.parts[name]) != MISSING
        assert known.all()
        lost = len(masked[name].rows) - len(dropped.parts[name].rows)
        # Partly read knees of the set that no other grade makes labelled are counted too.
        assert dropped.account[name]["partially_read"] >= lost > 0
    assert not set(masked["train"].rows[partial]) & set(dropped.parts["unlabelled"].rows)


def test_knees_without_landmarks_are_dropped_and_counted(set_up, without_landmarks):
    found = set_up()
    assert sum(part.get("without_landmarks", 0) for part in found.account.values()) == sum(
        ~found.parts["train"].prepared.index["keypoints_valid"]
    )
    for part in found.parts.values():
        assert part.prepared.index["keypoints_valid"].to_numpy()[part.rows].all()
    assert "left out: " in train.describe(found.account)
    assert "without landmarks" in train.describe(found.account)


def test_or_read_globally(config, set_up, without_landmarks):
    config.data.without_keypoints = "global"
    found = set_up()
    counted = sum(part.get("read_globally", 0) for part in found.account.values())
    valid = found.parts["train"].prepared.index["keypoints_valid"].to_numpy()
    of_parts = [p.rows for name, p in found.parts.items() if name != "unlabelled"]
    assert counted == (~valid[np.concatenate(of_parts)]).sum() > 0
    valid = found.parts["train"].prepared.index["keypoints_valid"].to_numpy()
    assert not valid[found.parts["train"].rows].all()
    state = train.initial_state(found)
    predictor = evaluate.make_predictor(found)
    table = evaluate.predict(found, predictor, state.variables, "validation")
    assert not valid[found.parts["validation"].rows].all()
    assert np.isfinite(table.filter(regex="_p[0-4]$").to_numpy()).all()
    batch = next(iter(found.parts["train"].source.batches(found.plan, range(1))))
    assert not np.asarray(batch["keypoints_valid"]).all()
    _, scalars = train.make_train_step(found)(state, found.facts, batch)
    assert all(np.isfinite(float(value)) for value in scalars.values())


def test_balanced_sampling_draws_the_grades_alike(config, set_up):
    config.data.unlabelled = "none"
    config.data.sampling = "balanced_kl"
    found = set_up()
    kl = found.parts["train"].prepared.index["kl"].to_numpy()
    counts = np.bincount(kl[np.concatenate([found.plan(s) for s in range(500)])], minlength=5)
    present = counts > 0
    np.testing.assert_allclose(counts[present] / counts.sum(), 1 / present.sum(), atol=0.03)
    config.data.unlabelled = "natural"
    with pytest.raises(UserError, match=r"set config\.data\.unlabelled = 'none'"):
        set_up()


def test_a_site_is_held_out(config, set_up):
    """Its knees are tested, and are no part of the folds or of an epoch."""
    config.data.split = "site_hold_out"
    config.data.num_folds = 4
    config.data.unlabelled = "none"
    with config.unlocked():
        config.data.test_site = "D"
    found = set_up()
    index = found.parts["test"].prepared.index
    tested = index["subject"][index["site"] == "D"]
    assert subjects(found.parts["test"]) == set(tested)
    others = [found.parts[name] for name in ("train", "validation")]
    assert not set(tested) & set.union(*map(subjects, others))
    knees_of_folds = sum(len(part.rows) for part in others)
    assert found.steps_per_epoch == round(knees_of_folds * 3 / 4) / config.batch_size


def test_the_mixture_of_a_run_is_the_one_it_began_with(config, set_up, tmp_path):
    found = set_up()
    kept = dataclasses.replace(found.task.mixture, means=found.task.mixture.means + 0.01)
    from knee_jax import coherence

    coherence.save(kept, tmp_path / coherence.FILE)
    again = set_up()
    np.testing.assert_array_equal(again.task.mixture.means, kept.means)


def test_frozen_encoders_rest_but_their_running_statistics_follow(config, set_up):
    """As in the code of Tiulpin & Saarakkala 2020, which puts the whole network in train mode."""
    config.optimizer.freeze_epochs = 1
    found = set_up()
    step, state = train.make_train_step(found), train.initial_state(found)
    before = jax.device_get(state.variables)
    batch = next(iter(found.parts["train"].source.batches(found.plan, range(1))))
    state, scalars = step(state, found.facts, batch)
    after = jax.device_get(state.variables)
    trunk = before["params"]["trunk"]
    jax.tree.map(np.testing.assert_array_equal, trunk, after["params"]["trunk"])
    same = jax.tree.map(np.array_equal, before["batch_stats"], after["batch_stats"])
    assert not any(jax.tree.leaves(same))
    heads = {name for name in before["params"] if name != "trunk"}
    for name in heads:
        same = jax.tree.map(np.array_equal, before["params"][name], after["params"][name])
        assert not all(jax.tree.leaves(same)), name
    assert float(scalars["learning_rate_encoder"]) == 0
    assert float(scalars["learning_rate_head"]) == pytest.approx(1e-3)


@pytest.mark.parametrize("field", knees.CHOICES)
def test_an_unknown_policy_is_named(field, config, set_up):
    config.data[field] = "perhaps"
    with pytest.raises(UserError, match=rf"config\.data\.{field} = 'perhaps': choose "):
        set_up()
