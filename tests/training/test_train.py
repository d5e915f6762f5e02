"""The step, the loop and the evaluation, piece by piece, on a small experiment."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from knee_jax.config.load import parse
from knee_jax.data import augment, mesh, sampling
from knee_jax.errors import UserError
from knee_jax.evaluation import evaluate, predict
from knee_jax.targets.grades import GRADES, NUM_CLASSES
from knee_jax.training import state as states
from knee_jax.training import step as steps
from knee_jax.training import train
from knee_jax.training.run import set_up

pytestmark = pytest.mark.usefixtures("few_optimisations")


@pytest.fixture
def experiment(config, tmp_path, tiny_data_dir):
    return set_up(parse(config), tmp_path, tiny_data_dir)


def first_batch(experiment):
    return next(iter(experiment.subsets["train"].source.batches(experiment.sampler, range(1))))


def initial_state(experiment):
    return train.initial_state(experiment, steps.compile_functions(experiment))


def make_step(experiment):
    return jax.jit(steps.make_train_step(experiment))


def arrays(tree):
    return {name: np.array(value) for name, value in flatten_dict(tree).items()}


def test_a_step_changes_parameters_and_running_statistics(experiment):
    state = initial_state(experiment)
    before = arrays(state.variables)
    step = make_step(experiment)
    after, scalars = step(state, experiment.constants, first_batch(experiment))
    assert int(after.step) == 1
    assert np.isfinite([float(value) for value in scalars.values()]).all()
    for name, value in arrays(after.variables).items():
        if name[0] == "batch_stats" or name[-1] in ("kernel", "scale"):
            assert (value != before[name]).any(), name


def test_augmentation_is_drawn_anew_each_step(experiment):
    """With a rate of zero only the augmentation can change the loss of the same batch."""
    rests = dataclasses.replace(experiment.config.optimizer, learning_rate=0.0)
    config = dataclasses.replace(experiment.config, optimizer=rests)
    experiment = dataclasses.replace(
        experiment, config=config, optimizer=states.make_optimizer(rests, 10.0, 1)
    )
    step, batch = make_step(experiment), first_batch(experiment)

    def loss_at(number):
        state = initial_state(experiment).replace(step=jnp.int32(number))
        return float(step(state, experiment.constants, batch)[1]["loss"])

    losses = [loss_at(number) for number in (0, 0, 1, 2)]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3


def test_training_augments_as_configured_and_evaluation_does_not(experiment, monkeypatch):
    drawn = []
    original = augment.make_inputs

    def spy(batch, key, size, statistics, augmentation, *, train, channels):
        drawn.append((augmentation, train))
        return original(batch, key, size, statistics, augmentation, train=train, channels=channels)

    monkeypatch.setattr(augment, "make_inputs", spy)
    state, batch = initial_state(experiment), first_batch(experiment)
    variables = jax.tree.map(jnp.copy, state.variables)
    make_step(experiment)(state, experiment.constants, batch)
    predict.make_predictor(experiment)(variables, experiment.constants, batch)
    configured = experiment.config.augmentation
    assert drawn == [(configured, True), (configured, False)]
    assert configured.rotation == 5.0
    assert configured.translation == 10 / 320


def test_the_optimizer_follows_the_schedule(config, tmp_path, tiny_data_dir):
    """A rate that drops to zero after the first epoch stops the parameters."""
    config.optimizer.drop_epochs = (1,)
    config.optimizer.drop_factor = 0.0
    experiment = set_up(parse(config), tmp_path, tiny_data_dir)
    last = round(experiment.steps_per_epoch)
    step, batch = make_step(experiment), first_batch(experiment)
    state = initial_state(experiment)
    for _ in range(last):
        state, scalars = step(state, experiment.constants, batch)
        assert float(scalars["update_norm"]) > 0
    before = arrays(state.params)
    state, scalars = step(state, experiment.constants, batch)
    assert float(scalars["learning_rate_head"]) == float(scalars["learning_rate_trunk"]) == 0
    for name, value in arrays(state.params).items():
        np.testing.assert_array_equal(value, before[name], str(name))


def test_statistics_are_those_of_the_training_knees(experiment):
    part = experiment.subsets["train"]
    for grade in GRADES:
        values = part.prepared.index[grade].to_numpy()[part.rows]
        counts = np.bincount(values[values >= 0], minlength=NUM_CLASSES[grade])
        np.testing.assert_array_equal(experiment.statistics.counts[grade], counts)


def test_weights_from_a_file_are_used(config, tmp_path, tiny_data_dir):
    torch_names = {"kernel": "weight", "scale": "weight", "mean": "running_mean"}
    torch_names |= {"var": "running_var", "bias": "bias"}
    plain = set_up(parse(config), tmp_path, tiny_data_dir)
    weights = {}
    for path, value in flatten_dict(jax.device_get(initial_state(plain).variables)).items():
        if path[1] == "trunk":
            *modules, leaf = path[2:]
            name = ".".join([*modules, torch_names[leaf]]).replace(
                "downsample_conv", "downsample.0"
            )
            name = name.replace("downsample_bn", "downsample.1")
            for stage in range(1, 5):
                name = name.replace(f"layer{stage}_", f"layer{stage}.")
            weights[name] = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value + 0.5
    np.savez(tmp_path / "weights.npz", **weights)
    config.init_from = str(tmp_path / "weights.npz")
    config.seed = 1
    state = initial_state(set_up(parse(config), tmp_path, tiny_data_dir))
    ours = np.asarray(state.params["trunk"]["conv1"]["kernel"])
    np.testing.assert_array_equal(ours.transpose(3, 2, 0, 1), weights["conv1.weight"])
    np.testing.assert_array_equal(
        state.batch_stats["trunk"]["bn1"]["mean"], weights["bn1.running_mean"]
    )


def oracle(experiment):
    """Predicts every knee's own grades, from the batch."""

    def predictor(variables, constants, batch):
        labels = jax.device_get(batch["labels"])
        return np.asarray(batch["row"]), {
            grade: np.eye(NUM_CLASSES[grade])[np.maximum(labels[grade], 0)] for grade in GRADES
        }

    return predictor


@pytest.mark.parametrize("split", ["validation", "test"])
def test_every_prediction_stays_with_its_knee(split, experiment):
    part = experiment.subsets[split]
    assert len(part.rows) % experiment.config.evaluation.batch_size
    table = predict.predict(experiment, oracle(experiment), {}, split)
    assert len(table) == len(part.rows)
    for grade in GRADES:
        read = table[grade] >= 0
        assert (table[grade] == table[f"{grade}_pred"])[read].all()
    subjects = part.prepared.index["subject"].to_numpy()[part.rows]
    np.testing.assert_array_equal(table["subject"], subjects)


def test_predictions_out_of_order_are_refused(experiment):
    def shuffled(variables, constants, batch):
        row, probabilities = oracle(experiment)(variables, constants, batch)
        return row[::-1], {grade: values[::-1] for grade, values in probabilities.items()}

    with pytest.raises(RuntimeError, match="another order"):
        predict.predict(experiment, shuffled, {}, "test")


@pytest.mark.slow
def test_the_best_checkpoint_is_chosen_on_validation_and_evaluated(
    config, tmp_path, tiny_data_dir, monkeypatch, capsys
):
    config.epochs = 3
    scores = iter([0.2, 0.9, 0.1])
    asked = []

    def fake_predict(experiment, predictor, variables, split):
        asked.append(split)
        return predict.predict(experiment, oracle(experiment), variables, split)

    from knee_jax.tasks.grading import Grading

    monkeypatch.setattr(train, "predict", fake_predict)
    monkeypatch.setattr(Grading, "score", lambda self, table: next(scores))
    train.train(parse(config), tmp_path, tiny_data_dir)
    assert asked == ["validation"] * 3
    steps_per_epoch = set_up(parse(config), tmp_path, tiny_data_dir).steps_per_epoch
    capsys.readouterr()
    evaluate.evaluate(parse(config), tmp_path, tiny_data_dir)
    assert f"checkpoint of step {math.ceil(2 * steps_per_epoch)}," in capsys.readouterr().out


def test_the_step_is_compiled_once(config, tmp_path, tiny_data_dir):
    """Not again after the warm-up, between labelled and unlabelled knees, or between epochs."""
    config.task.coherence.components = 3
    config.task.coherence.warmup_epochs = 1
    config.steps_per_call, config.log_every = 3, 4
    experiment = set_up(parse(config), tmp_path, tiny_data_dir)
    part = experiment.subsets["train"]
    assert len(experiment.subsets["unlabelled"].rows)
    train_steps, state = steps.make_train_steps(experiment), initial_state(experiment)
    calls = train.split_into_calls(0, math.ceil(2.5 * experiment.steps_per_epoch), (), config)
    assert {len(call) for call in calls} == {1, 3}
    sampler = sampling.in_calls(experiment.sampler, calls)
    added, unlabelled = [], 0
    for call, batches in zip(calls, part.source.batches(sampler, range(len(calls)))):
        state, scalars = train_steps(state, experiment.constants, batches, len(call))
        added += (scalars["loss"] - scalars["classification"])[: len(call)].tolist()
        unread = np.all([np.asarray(of) < 0 for of in batches["labels"].values()], axis=0)
        unlabelled += int((unread & np.asarray(batches["mask"])).sum())
    assert unlabelled > 0
    assert len(added) == int(state.step) == calls[-1].stop
    warm = math.ceil(experiment.steps_per_epoch)
    assert not any(added[:warm])
    assert all(added[warm:])
    assert train_steps._cache_size() == 1


@pytest.mark.slow
def test_several_steps_in_a_call_are_the_same_steps(config, tmp_path, tiny_data_dir):
    states, losses = [], []
    for number in (1, 4):
        config.steps_per_call = number
        experiment = set_up(parse(config), tmp_path / str(number), tiny_data_dir)
        train_steps, state = steps.make_train_steps(experiment), initial_state(experiment)
        calls = train.split_into_calls(0, 6, (5,), config)
        assert [len(call) for call in calls] == ([1] * 6 if number == 1 else [4, 1, 1])
        sampler = sampling.in_calls(experiment.sampler, calls)
        source, seen = experiment.subsets["train"].source, []
        for call, batches in zip(calls, source.batches(sampler, range(len(calls)))):
            state, scalars = train_steps(state, experiment.constants, batches, len(call))
            seen.append((jax.device_get(scalars), len(call)))
        states.append(arrays(state.variables))
        losses.append(train.join_steps(seen)["loss"])
    assert len(losses[0]) == 6
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    for name, value in states[0].items():
        np.testing.assert_allclose(states[1][name], value, atol=2e-3, err_msg=str(name))


def test_calls_end_where_something_is_to_be_done(config):
    config.steps_per_call, config.log_every, config.checkpoint_every = 8, 10, 12
    calls = train.split_into_calls(3, 40, {7, 21}, config)
    assert [step for call in calls for step in call] == list(range(3, 40))
    ends = {call.stop for call in calls}
    assert ends >= {7, 21, 10, 20, 30, 12, 24, 36, 40}
    assert max(map(len, calls)) <= 8


def test_devices_of_a_process_lie_side_by_side():
    devices = mesh.make_mesh().devices.flat
    processes = [device.process_index for device in devices]
    assert processes == sorted(processes)


def test_a_value_that_is_not_finite_stops_the_run():
    assert train.mean_of_finite({"loss": np.array([1.0, 3.0])}, 2) == {"loss": 2.0}
    with pytest.raises(UserError, match="loss is nan between steps 3 and 5"):
        train.mean_of_finite({"loss": np.array([1.0, np.nan])}, 5)
