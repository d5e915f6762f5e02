"""The step, the loop and the evaluation, piece by piece, on a small experiment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from knee_jax import evaluate, sharding, train
from knee_jax import state as states
from knee_jax.configs import kpn
from knee_jax.data import augment, sampling
from knee_jax.errors import UserError
from knee_jax.experiment import set_up
from knee_jax.grades import GRADES, NUM_CLASSES


@pytest.fixture
def config():
    config = kpn.get_config("demo")
    config.data.dataset = "phantom_xray/tiny"
    config.input.size = 64
    config.model.width = 8
    config.batch_size = 8
    config.evaluation.batch_size = 8
    return config


@pytest.fixture
def experiment(config, tmp_path, tiny_data_dir):
    return set_up(config, tmp_path, tiny_data_dir)


def first_batch(experiment):
    plan = sampling.shuffled(experiment.split["train"], experiment.config.batch_size, 0)
    return next(iter(experiment.source.batches(plan, range(1))))


def arrays(tree):
    return {name: np.array(value) for name, value in flatten_dict(tree).items()}


def test_a_step_changes_parameters_and_running_statistics(experiment):
    state = train.initial_state(experiment)
    before = arrays(state.variables)
    after, scalars = train.make_train_step(experiment)(state, first_batch(experiment))
    assert int(after.step) == 1
    assert np.isfinite([float(value) for value in scalars.values()]).all()
    for name, value in arrays(after.variables).items():
        if name[0] == "batch_stats" or name[-1] in ("kernel", "scale"):
            assert (value != before[name]).any(), name


def test_augmentation_is_drawn_anew_each_step(experiment):
    """With a rate of zero only the augmentation can change the loss of the same batch."""
    experiment.config.optimizer.learning_rate = 0.0
    step, batch = train.make_train_step(experiment), first_batch(experiment)
    losses = [
        float(step(train.initial_state(experiment).replace(step=jnp.int32(n)), batch)[1]["loss"])
        for n in (0, 0, 1, 2)
    ]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3


def test_training_augments_as_configured_and_evaluation_does_not(experiment, monkeypatch):
    drawn = []
    original = augment.views

    def spy(batch, key, size, statistics, augmentation):
        drawn.append(augmentation)
        return original(batch, key, size, statistics, augmentation)

    monkeypatch.setattr(augment, "views", spy)
    state, batch = train.initial_state(experiment), first_batch(experiment)
    variables = jax.tree.map(jnp.copy, state.variables)
    train.make_train_step(experiment)(state, batch)
    evaluate.make_predictor(experiment)(variables, batch)
    configured = augment.Augmentation(**experiment.config.augmentation)
    assert drawn == [configured, augment.Augmentation()]
    assert configured.rotation == 5.0
    assert configured.translation == 10 / 320


def test_the_optimizer_follows_the_schedule(config, tmp_path, tiny_data_dir):
    """A rate that drops to zero after the first epoch stops the parameters."""
    config.optimizer.drop_epochs = (1,)
    config.optimizer.drop_factor = 0.0
    experiment = set_up(config, tmp_path, tiny_data_dir)
    last = round(len(experiment.split["train"]) / config.batch_size)
    step, batch = train.make_train_step(experiment), first_batch(experiment)
    state = train.initial_state(experiment)
    for _ in range(last):
        state, scalars = step(state, batch)
        assert float(scalars["update_norm"]) > 0
    before = arrays(state.params)
    state, scalars = step(state, batch)
    assert float(scalars["learning_rate"]) == 0
    for name, value in arrays(state.params).items():
        np.testing.assert_array_equal(value, before[name], str(name))


def test_statistics_are_those_of_the_training_knees(experiment):
    rows = experiment.split["train"]
    for grade in GRADES:
        values = experiment.prepared.index[grade].to_numpy()[rows]
        counts = np.bincount(values[values >= 0], minlength=NUM_CLASSES[grade])
        np.testing.assert_array_equal(experiment.statistics.counts[grade], counts)


def test_weights_from_a_file_are_used(config, tmp_path, tiny_data_dir):
    torch_names = {"kernel": "weight", "scale": "weight", "mean": "running_mean"}
    torch_names |= {"var": "running_var", "bias": "bias"}
    plain = set_up(config, tmp_path, tiny_data_dir)
    weights = {}
    for path, value in flatten_dict(jax.device_get(train.initial_state(plain).variables)).items():
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
    state = train.initial_state(set_up(config, tmp_path, tiny_data_dir))
    ours = np.asarray(state.params["trunk"]["conv1"]["kernel"])
    np.testing.assert_array_equal(ours.transpose(3, 2, 0, 1), weights["conv1.weight"])
    np.testing.assert_array_equal(
        state.batch_stats["trunk"]["bn1"]["mean"], weights["bn1.running_mean"]
    )


def oracle(experiment):
    """Predicts every knee's own grades, from the batch."""

    def predictor(variables, batch):
        grades = np.asarray(batch["grades"])
        return np.asarray(batch["row"]), {
            grade: np.eye(classes)[np.maximum(grades[:, i], 0)]
            for i, (grade, classes) in enumerate(NUM_CLASSES.items())
        }

    return predictor


@pytest.mark.parametrize("split", ["validation", "test"])
def test_every_prediction_stays_with_its_knee(split, experiment):
    assert len(experiment.split[split]) % experiment.config.evaluation.batch_size
    table = evaluate.predict(experiment, oracle(experiment), {}, split)
    assert len(table) == len(experiment.split[split])
    for grade in GRADES:
        read = table[grade] >= 0
        assert (table[grade] == table[f"{grade}_pred"])[read].all()
    subjects = experiment.prepared.index["subject"].to_numpy()[experiment.split[split]]
    np.testing.assert_array_equal(table["subject"], subjects)


def test_predictions_out_of_order_are_refused(experiment):
    def shuffled(variables, batch):
        row, probabilities = oracle(experiment)(variables, batch)
        return row[::-1], {grade: values[::-1] for grade, values in probabilities.items()}

    with pytest.raises(RuntimeError, match="another order"):
        evaluate.predict(experiment, shuffled, {}, "test")


def test_the_best_checkpoint_is_chosen_on_validation_and_evaluated(
    config, tmp_path, tiny_data_dir, monkeypatch, capsys
):
    config.epochs = 3
    scores = iter([0.2, 0.9, 0.1])
    asked = []

    def fake_predict(experiment, predictor, variables, split):
        asked.append(split)
        return evaluate.predict(experiment, oracle(experiment), variables, split)

    from knee_jax.tasks.grading import Grading

    monkeypatch.setattr(train, "predict", fake_predict)
    monkeypatch.setattr(Grading, "score", lambda self, table: next(scores))
    train.train(config, tmp_path, tiny_data_dir)
    assert asked == ["validation"] * 3
    steps_per_epoch = len(set_up(config, tmp_path, tiny_data_dir).split["train"]) / 8
    capsys.readouterr()
    evaluate.evaluate(config, tmp_path, tiny_data_dir)
    assert f"checkpoint of step {int(np.ceil(2 * steps_per_epoch))}," in capsys.readouterr().out


def test_the_step_is_compiled_once(experiment):
    step = train.make_train_step(experiment)
    state = train.initial_state(experiment)
    plan = sampling.shuffled(experiment.split["train"], 8, 0)
    for batch in experiment.source.batches(plan, range(12)):
        state, _ = step(state, batch)
    assert step._cache_size() == 1


def test_devices_of_a_process_lie_side_by_side():
    mesh = sharding.make_mesh()
    processes = [device.process_index for device in mesh.devices.flat]
    assert processes == sorted(processes)


@pytest.mark.parametrize(
    "field",
    [
        "epochs",
        "log_every",
        "checkpoint_every",
        "input.size",
        "model.width",
        "evaluation.num_resamples",
    ],
)
def test_a_number_below_one_is_named(field, config):
    with config.unlocked():
        config.update_from_flattened_dict({field: 0})
    with pytest.raises(UserError, match=f"config.{field} = 0: it must be 1 or more"):
        train.check(config)


def test_a_value_that_is_not_finite_stops_the_run():
    good, bad = {"loss": jnp.float32(1)}, {"loss": jnp.float32(np.nan)}
    assert train.mean_of_finite([good, good], 2) == {"loss": 1.0}
    with pytest.raises(UserError, match="loss is nan between steps 3 and 5"):
        train.mean_of_finite([good, bad], 5)


def test_the_schedule_drops_at_its_step():
    settings = kpn.get_config().optimizer
    schedule = states.make_schedule(settings, steps_per_epoch=24)
    assert float(schedule(10 * 24 - 1)) == pytest.approx(1e-4)
    assert float(schedule(10 * 24)) == pytest.approx(5e-5)
    assert float(schedule(30 * 24 - 1)) == pytest.approx(5e-5)
    assert float(schedule(30 * 24)) == pytest.approx(2.5e-5)
