"""Selection of the knees that a run uses, and the account of the others."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from knee_jax import targets
from knee_jax.cohort import selection, splits
from knee_jax.config import load
from knee_jax.config.load import parse
from knee_jax.data import prepared, sampling
from knee_jax.errors import UserError
from knee_jax.evaluation import predict
from knee_jax.targets.grades import GRADES, MISSING
from knee_jax.training import run
from knee_jax.training.step import make_train_step

pytestmark = pytest.mark.usefixtures("few_optimisations")


@pytest.fixture
def set_up(config, tmp_path, tiny_data_dir):
    return lambda: run.set_up(parse(config), tmp_path, tiny_data_dir)


@pytest.fixture
def change_index(monkeypatch):
    """Changes the index of the prepared set by a function that is handed it."""
    original = prepared.open_set

    def apply(change):
        def open_set(path, names=()):
            opened = original(path, names)
            index = opened.index.copy()
            change(index)
            return dataclasses.replace(opened, index=index)

        monkeypatch.setattr(prepared, "open_set", open_set)

    return apply


@pytest.fixture
def without_landmarks(change_index, monkeypatch):
    """Every third knee of the prepared set has no landmarks."""

    def change(index):
        index.loc[::3, "keypoints_valid"] = False

    load = prepared.PreparedSet.load

    def blind(self, rows):
        found = load(self, rows)
        valid = self.index["keypoints_valid"].to_numpy()[rows]
        found["keypoints"][~valid] = np.nan
        return found | {"keypoints_valid": valid}

    change_index(change)
    monkeypatch.setattr(prepared.PreparedSet, "load", blind)


def subjects(part):
    return set(part.prepared.index["subject"].to_numpy()[part.rows])


def grades(part):
    return part.prepared.index[list(GRADES)].to_numpy()[part.rows]


def test_unlabelled_knees_are_of_training_subjects_only(set_up):
    parts = set_up().subsets
    assert (grades(parts["unlabelled"]) == MISSING).all()
    for name in ("validation", "test"):
        assert not subjects(parts[name]) & (
            subjects(parts["train"]) | subjects(parts["unlabelled"])
        )
    assert not set(parts["train"].rows) & set(parts["unlabelled"].rows)


def test_an_epoch_passes_over_the_union_in_the_natural_ratio(set_up):
    found = set_up()
    train_rows, others = found.subsets["train"].rows, found.subsets["unlabelled"].rows
    assert found.steps_per_epoch == (len(train_rows) + len(others)) / 8
    drawn = np.concatenate(
        [found.sampler(step) for step in range(math.ceil(found.steps_per_epoch))]
    )
    first_pass = drawn[: len(train_rows) + len(others)]
    assert sorted(first_pass) == sorted([*train_rows, *others])


def test_a_fixed_share_of_every_batch_is_unlabelled(config, set_up):
    config.data.unlabelled = "fixed"
    config.data.unlabelled_share = 0.25
    found = set_up()
    others = found.subsets["unlabelled"].rows
    for step in range(20):
        assert np.isin(found.sampler(step), others).sum() == 2
    # An epoch is a pass over the labelled ones, six of each batch.
    assert found.steps_per_epoch == pytest.approx(len(found.subsets["train"].rows) / 6)


def test_without_unlabelled_knees_training_is_supervised_and_says_so(
    config, set_up, change_index, capsys
):
    def read_all(index):
        index[list(GRADES)] = index[list(GRADES)].clip(lower=0)

    change_index(read_all)
    for kind in ("natural", "fixed"):
        config.data.unlabelled = kind
        found = set_up()
        assert "unlabelled" not in found.subsets
        assert "training is supervised" in capsys.readouterr().out
        assert found.steps_per_epoch == len(found.subsets["train"].rows) / 8


def test_label_fractions_hide_the_labels_of_whole_subjects_and_are_nested(config, set_up):
    labelled, everyone = {}, {}
    for fraction in (0.2, 0.4, 1.0):
        config.data.label_fraction = fraction
        found = set_up()
        labelled[fraction] = subjects(found.subsets["train"])
        everyone[fraction] = len(found.subsets["train"].rows) + len(
            found.subsets["unlabelled"].rows
        )
        assert (
            found.statistics.counts["kl"]
            == np.bincount(grades(found.subsets["train"])[:, 0], minlength=5).tolist()
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
    masked = set_up().subsets
    partial = (grades(masked["train"]) == MISSING).any(axis=1)
    assert partial.any()
    config.data.partially_labelled = "unlabelled"
    whole = set_up().subsets
    np.testing.assert_array_equal(whole["train"].rows, masked["train"].rows[~partial])
    assert set(masked["train"].rows[partial]) <= set(whole["unlabelled"].rows)
    assert len(whole["test"].rows) == len(masked["test"].rows)
    config.data.partially_labelled = "drop"
    dropped = set_up()
    np.testing.assert_array_equal(dropped.subsets["train"].rows, masked["train"].rows[~partial])
    for name in ("train", "validation", "test"):
        known = grades(dropped.subsets[name]) != MISSING
        assert known.all()
        lost = len(masked[name].rows) - len(dropped.subsets[name].rows)
        # Partly read knees of the set that no other grade makes labelled are counted too.
        assert dropped.flow[name]["partially_read"] >= lost > 0
    assert not set(masked["train"].rows[partial]) & set(dropped.subsets["unlabelled"].rows)


def test_knees_without_landmarks_are_dropped_and_counted(set_up, without_landmarks):
    found = set_up()
    assert sum(part.get("without_landmarks", 0) for part in found.flow.values()) == sum(
        ~found.subsets["train"].prepared.index["keypoints_valid"]
    )
    for part in found.subsets.values():
        assert part.prepared.index["keypoints_valid"].to_numpy()[part.rows].all()
    assert "left out: " in selection.describe(found.flow)
    assert "without landmarks" in selection.describe(found.flow)


@pytest.mark.slow
def test_or_read_globally(config, set_up, without_landmarks):
    config.data.without_keypoints = "global"
    found = set_up()
    counted = sum(part.get("read_globally", 0) for part in found.flow.values())
    valid = found.subsets["train"].prepared.index["keypoints_valid"].to_numpy()
    of_parts = [p.rows for name, p in found.subsets.items() if name != "unlabelled"]
    assert counted == (~valid[np.concatenate(of_parts)]).sum() > 0
    valid = found.subsets["train"].prepared.index["keypoints_valid"].to_numpy()
    assert not valid[found.subsets["train"].rows].all()
    state = found.random_state()
    predictor = predict.make_predictor(found)
    table = predict.predict(found, predictor, state.variables, "validation")
    assert not valid[found.subsets["validation"].rows].all()
    assert np.isfinite(table.filter(regex="_p[0-4]$").to_numpy()).all()
    batch = next(iter(found.subsets["train"].source.batches(found.sampler, range(1))))
    assert not np.asarray(batch["keypoints_valid"]).all()
    _, scalars = jax.jit(make_train_step(found))(state, found.constants, batch)
    assert all(np.isfinite(float(value)) for value in scalars.values())


def test_balanced_sampling_draws_the_grades_alike(config, set_up):
    config.data.unlabelled = "none"
    config.data.sampling = "balanced"
    found = set_up()
    kl = found.subsets["train"].prepared.index["kl"].to_numpy()
    counts = np.bincount(kl[np.concatenate([found.sampler(s) for s in range(500)])], minlength=5)
    present = counts > 0
    np.testing.assert_allclose(counts[present] / counts.sum(), 1 / present.sum(), atol=0.03)
    config.data.unlabelled = "natural"
    with pytest.raises(UserError, match=r"set config\.data\.unlabelled = 'none'"):
        set_up()


def select(config, data_dir):
    """The cohort of a config, without its network."""
    parsed = parse(config)
    names = targets.get_all(parsed.targets)
    return selection.select(parsed.data, names, parsed.task, data_dir, reads_landmarks=False)


def sampler_of(config, cohort):
    """The sampler of a cohort's training knees, and the length of an epoch."""
    parsed, (knees, rows) = parse(config), cohort.parts["train"]
    (target,) = targets.get_all(parsed.targets)
    return sampling.make(
        parsed.data,
        parsed.batch_size,
        parsed.seed,
        rows,
        np.empty(0, np.int64),
        cohort.parts["validation"].rows,
        lambda some: target.labels(knees.index.iloc[some]),
    )


@pytest.fixture
def find_progression(config, tiny_data_dir, change_index):
    """The cohort of a run on progression; `classes`: of every row of the index."""
    config.task, config.targets = load.task("progression"), ("progression",)
    config.data.unlabelled, config.data.sampling = "none", "balanced"
    config.data.split, config.data.num_folds = "k_fold", 3

    def find(classes=None):
        def change(index):
            if classes is not None:
                index["progression"] = np.resize(np.asarray(classes, np.int8), len(index))

        change_index(change)
        return select(config, tiny_data_dir)

    return find


def test_balanced_sampling_draws_the_classes_of_progression_alike(config, find_progression):
    """And an epoch has as many draws as a fold has training knees, in the mean."""
    classes = np.random.default_rng(0).choice([0, 1, 2, MISSING], 500, p=[0.6, 0.2, 0.1, 0.1])
    cohort = find_progression(classes)
    sampler, length = sampler_of(config, cohort)
    drawn = np.concatenate([sampler(step) for step in range(400)])
    label = cohort.parts["train"].prepared.index["progression"].to_numpy()
    assert set(drawn) <= set(cohort.parts["train"].rows)
    np.testing.assert_allclose(np.bincount(label[drawn]) / len(drawn), 1 / 3, atol=0.03)
    assert length == round(sum(len(part.rows) for part in cohort.parts.values()) * 2 / 3)
    unread = sum(counts.get("unread", 0) for counts in cohort.flow.values())
    used = sum(counts["used"] for counts in cohort.flow.values())
    assert (unread, used) == ((label == MISSING).sum(), (label != MISSING).sum())


def test_folds_of_progression_are_stratified_by_it(config, find_progression):
    """Of knees whose classes have nothing to do with KL."""
    config.data.num_folds = 2
    cohort = find_progression([0, 0, 0, 0, 1, 1, 2, 2])
    for name in ("train", "validation"):
        knees, rows = cohort.parts[name]
        shares = np.bincount(knees.index["progression"].to_numpy()[rows]) / len(rows)
        np.testing.assert_allclose(shares, [0.5, 0.25, 0.25], atol=0.06)


def test_a_fraction_of_the_labels_of_progression_is_learnt_from(config, find_progression):
    every = find_progression([0, 1, 2]).parts
    config.data.label_fraction = 0.5
    some, flow, *_ = find_progression([0, 1, 2])
    assert set(some["train"].rows) < set(every["train"].rows)
    people = [
        set(knees.index["subject"].to_numpy()[rows])
        for knees, rows in (some["train"], every["train"])
    ]
    assert len(people[0]) == round(0.5 * len(people[1]))
    loaded = some["train"].prepared.load(some["train"].rows)["labels"]
    assert (loaded["progression"] >= 0).all()
    np.testing.assert_array_equal(some["validation"].rows, every["validation"].rows)
    assert flow["train"]["unread"] == len(every["train"].rows) - len(some["train"].rows)


def test_a_set_without_progression_is_named(find_progression):
    with pytest.raises(UserError, match="knees of phantom_xray/tiny have no column progression"):
        find_progression()


@pytest.fixture
def find_early(config, tiny_data_dir, change_index):
    """The cohort of a run on KL 0 against KL 2; `kl`: row → KL grade, other than the set's."""
    config.task, config.targets = load.task("early_detection"), ("kl0_vs_kl2",)
    config.data.unlabelled = "none"

    def find(kl=None):
        if kl is not None:

            def change(index):
                index["kl"] = np.asarray(kl)[np.arange(len(index)) % len(kl)].astype(np.int8)

            change_index(change)
        return select(config, tiny_data_dir)

    return find


def early_labels(knees, rows):
    return targets.get("kl0_vs_kl2").labels(knees.index.iloc[rows])


def test_knees_of_another_grade_are_counted_apart_from_unread_ones(find_early, config):
    found, flow, *_ = find_early([0, 2, 1, 0, 2, 3, MISSING, 0, 2, 4, 0, 2])
    index = found["train"].prepared.index
    parts = splits.ratio(index, {"train": 2, "validation": 1, "test": 1}, config.data.seed)
    for name, (_, rows) in found.items():
        kl = index["kl"].to_numpy()[parts[name]]
        np.testing.assert_array_equal(rows, parts[name][np.isin(kl, (0, 2))])
        expected = {
            "used": np.isin(kl, (0, 2)).sum(),
            "other_grade": np.isin(kl, (1, 3, 4)).sum(),
            "unread": (kl == MISSING).sum(),
        }
        assert flow[name] == {why: n for why, n in expected.items() if n}
    assert "other grade" in selection.describe(flow)
    # A policy for knees that are read in part knows what a target is made of.
    config.data.partially_labelled = "drop"
    again = find_early().parts
    for name, (_, rows) in found.items():
        np.testing.assert_array_equal(rows, again[name].rows)


def test_a_part_without_a_knee_of_the_target_is_named(find_early):
    with pytest.raises(
        UserError,
        match=r"no knee of the train part of phantom_xray/tiny belongs to a class of kl0_vs_kl2 "
        r"\(\d+ have another grade\)",
    ):
        find_early([1, 3, MISSING])
    with pytest.raises(UserError, match=r"no knee of the train part .* has been read for kl: "):
        find_early([MISSING])


def test_a_part_that_lacks_a_class_of_the_target_is_named(find_early, config):
    with pytest.raises(UserError, match=r"the train part has no knee of KL 2, "):
        find_early([0, 1])
    config.targets = ("kl",)
    with pytest.raises(UserError, match=r"the train part has no knee of KL 3 and of KL 4, "):
        find_early([0, 1, 2])


def test_oversampled_epochs_have_every_class_alike(find_early, config):
    cohort = find_early([0, 0, 2, 1])
    config.data.sampling = "oversampled"
    sampler, length = sampler_of(config, cohort)
    knees, rows = cohort.parts["train"]
    classes = early_labels(knees, rows)
    counts = np.bincount(classes)
    assert length == 2 * counts.max() == sampling.oversampled_length(classes)
    seen = np.concatenate([sampler(step) for step in range(math.ceil(length / 8))])[:length]
    assert np.bincount(early_labels(knees, seen)).tolist() == [counts.max()] * 2
    assert set(seen) == set(rows)


def test_oversampled_folds_have_epochs_of_one_length(find_early, config):
    config.data.split, config.data.num_folds = "k_fold", 3
    config.data.sampling = "oversampled"
    lengths, own = set(), set()
    for config.data.fold in range(3):
        cohort = find_early([0, 0, 2, 1] if not lengths else None)
        lengths.add(sampler_of(config, cohort)[1])
        own.add(sampling.oversampled_length(early_labels(*cohort.parts["train"])))
    assert len(lengths) == 1
    assert max(own) - min(own) < 12
    assert min(own) <= lengths.pop() <= max(own)


def test_unlabelled_knees_have_no_class_to_be_oversampled_by(config, set_up):
    config.data.sampling = "oversampled"
    with pytest.raises(UserError, match=r"'oversampled' knows no class .*unlabelled = 'none'"):
        set_up()


def test_a_site_is_held_out(config, set_up):
    """Its knees are tested, and are no part of the folds or of an epoch."""
    config.data.split = "site_hold_out"
    config.data.num_folds = 4
    config.data.unlabelled = "none"
    config.data.test_site = "D"
    found = set_up()
    index = found.subsets["test"].prepared.index
    tested = index["subject"][index["site"] == "D"]
    assert subjects(found.subsets["test"]) == set(tested)
    others = [found.subsets[name] for name in ("train", "validation")]
    assert not set(tested) & set.union(*map(subjects, others))
    knees_of_folds = sum(len(part.rows) for part in others)
    assert found.steps_per_epoch == round(knees_of_folds * 3 / 4) / config.batch_size


def test_the_mixture_of_a_run_is_the_one_it_began_with(config, set_up, tmp_path):
    found = set_up()
    kept = found.task.mixture._replace(means=found.task.mixture.means + 0.01)
    from knee_jax.metrics import grade_coherence

    (tmp_path / grade_coherence.FILE).write_bytes(grade_coherence.content(kept))
    again = set_up()
    np.testing.assert_array_equal(again.task.mixture.means, kept.means)


@pytest.mark.slow
def test_a_frozen_trunk_rests_but_their_running_statistics_follow(config, set_up):
    """As in the code of Tiulpin & Saarakkala 2020, which puts the whole network in train mode."""
    config.optimizer.freeze_epochs = 1
    found = set_up()
    step = jax.jit(make_train_step(found))
    state = found.random_state()
    before = jax.device_get(state.variables)
    batch = next(iter(found.subsets["train"].source.batches(found.sampler, range(1))))
    state, scalars = step(state, found.constants, batch)
    after = jax.device_get(state.variables)
    trunk = before["params"]["trunk"]
    jax.tree.map(np.testing.assert_array_equal, trunk, after["params"]["trunk"])
    same = jax.tree.map(np.array_equal, before["batch_stats"], after["batch_stats"])
    assert not any(jax.tree.leaves(same))
    heads = {name for name in before["params"] if name != "trunk"}
    for name in heads:
        same = jax.tree.map(np.array_equal, before["params"][name], after["params"][name])
        assert not all(jax.tree.leaves(same)), name
    assert float(scalars["learning_rate_trunk"]) == 0
    assert float(scalars["learning_rate_head"]) == pytest.approx(1e-3)


def input_of(found, batch, *, train):
    return found.preprocessing(batch, jax.random.key(0), found.constants.intensities, train=train)


def test_each_image_may_be_normalised_by_its_own_statistics(config, set_up):
    config.input.statistics = "each"
    found = set_up()
    batch = next(iter(found.subsets["train"].source.batches(found.sampler, range(1))))
    for mode in (True, False):
        images, _ = found.preprocessing(
            batch, jax.random.key(0), found.constants.intensities, train=mode
        )
        np.testing.assert_allclose(np.asarray(images).mean((1, 2, 3)), 0, atol=1e-4)
        np.testing.assert_allclose(np.asarray(images).std((1, 2, 3)), 1, atol=1e-3)


@pytest.fixture
def volume_config(config):
    """KL from small MR volumes, by a network of volumes."""
    config.task.coherence.weight = 0.0
    config.data.dataset = "phantom_mri/tiny"
    config.data.unlabelled = "none"
    config.targets = ("kl",)
    config.model = load.model("volumetric", arch="resnext3d_50", width=2, blocks=(1, 1, 1, 1))
    config.input.volume = (20, 18, 16)
    config.augmentation = load.augmentation("volume_crop")
    return config


@pytest.mark.slow
def test_volumes_travel_as_films_do(volume_config, tmp_path, tiny_mri_data_dir):
    found = run.set_up(parse(volume_config), tmp_path, tiny_mri_data_dir)
    assert found.preprocessing.input_shape == (16, 20, 18, 1)
    assert (found.statistics.mean, found.statistics.std) == (0.257, 0.235)
    assert sum(found.statistics.counts["kl"]) == len(found.subsets["train"].rows)
    state = jax.jit(found.random_state)()
    batch = next(iter(found.subsets["train"].source.batches(found.sampler, range(1))))
    images, keypoints = found.preprocessing(
        batch, jax.random.key(0), found.constants.intensities, train=False
    )
    assert images.shape == (8, 16, 20, 18, 1)
    assert keypoints is None
    np.testing.assert_allclose(images.min(axis=(1, 2, 3, 4)), -0.257 / 0.235, rtol=1e-4)
    np.testing.assert_allclose(images.max(axis=(1, 2, 3, 4)), (1 - 0.257) / 0.235, rtol=1e-4)
    after, scalars = jax.jit(make_train_step(found))(state, found.constants, batch)
    assert np.isfinite(scalars["loss"])
    assert after.step == 1


def test_knees_that_the_views_cannot_be_made_of(
    volume_config, tmp_path, tiny_data_dir, tiny_mri_data_dir
):
    films = volume_config.copy_and_resolve_references()
    films.input.update({"size": 16, "volume": ()})
    films.augmentation = load.augmentation("affine")
    with pytest.raises(UserError, match="makes inputs of images, and the set has volumes"):
        run.set_up(parse(films), tmp_path, tiny_mri_data_dir)
    volume_config.input.volume = (25, 18, 16)
    with pytest.raises(UserError, match=r"no crop of \(24, 24, 20\)"):
        run.set_up(parse(volume_config), tmp_path, tiny_mri_data_dir)
    volume_config.data.dataset = "phantom_xray/tiny"
    with pytest.raises(UserError, match="makes inputs of volumes, and the set has images"):
        run.set_up(parse(volume_config), tmp_path, tiny_data_dir)
