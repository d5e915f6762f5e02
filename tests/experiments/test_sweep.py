"""Variants and seeds as runs of one program, and one after another."""

import json

import numpy as np
import pandas as pd
import pytest

from knee_jax.config.load import parse
from knee_jax.configs import siamese_gap
from knee_jax.errors import UserError
from knee_jax.experiments import sweep
from knee_jax.report.sweep import part_table, tidy
from knee_jax.training import side_by_side, train
from knee_jax.training.run import set_up
from tests.commands import SMALL, run_well, train_flags
from tests.folders import losses

pytestmark = pytest.mark.usefixtures("few_optimisations")


def small_config(variant="phantom,resnet18,demo"):
    config = siamese_gap.get_config(variant)
    for flag in SMALL:
        field, value = flag.removeprefix("--config.").split("=")
        config.update_from_flattened_dict({field: type_of(config, field)(value)})
    config.log_every, config.task.hybrid.warmup_epochs = 1, 1.0
    config.data.parts = (2, 1, 1)
    much = {"task": {"hybrid": {"epsilon": 0.5}}, "paper_row": ""}
    config.sweep.variants = {"much": much, "same": {}}
    config.sweep.seeds = 2
    return config


def type_of(config, field):
    for name in field.split("."):
        config = config[name]
    return type(config)


FOLDERS = [f"{variant}/seed_{seed}" for variant in ("much", "same") for seed in (0, 1)]


@pytest.fixture(scope="module")
def in_turn(tmp_path_factory, tiny_data_dir):
    workdir = tmp_path_factory.mktemp("in_turn")
    config = small_config()
    config.epochs = 2
    sweep.sweep(parse(config), workdir, tiny_data_dir)
    return workdir


@pytest.mark.long
def test_runs_of_one_program_learn_what_they_learn_alone(in_turn, tmp_path, tiny_data_dir):
    """Four runs on one device, three steps in a call, against one after another."""
    config = small_config()
    config.epochs, config.steps_per_call, config.sweep.at_once = 2, 3, 4
    sweep.sweep(parse(config), tmp_path, tiny_data_dir)
    for folder in FOLDERS:
        ours, theirs = losses(tmp_path / folder), losses(in_turn / folder)
        assert len(ours) == len(theirs) >= 8
        np.testing.assert_allclose(ours[:4], theirs[:4], atol=2e-3)
    first = [losses(in_turn / folder) for folder in FOLDERS]
    # Seeds differ from the first step on, the variants when the warm-up is over.
    assert abs(first[0][0] - first[1][0]) > 1e-3
    warm = len(first[0]) // 2
    np.testing.assert_allclose(first[0][: warm - 1], first[2][: warm - 1], atol=1e-4)
    assert np.abs(first[0][warm + 1 :] - first[2][warm + 1 :]).max() > 1e-2


@pytest.mark.slow
def test_the_table_has_means_and_spreads(in_turn):
    frame = pd.read_csv(in_turn / "sweep.csv")
    assert set(frame["variant"]) == {"much", "same"}
    assert set(frame["seed"]) == {0, 1}
    for folder in FOLDERS:
        metrics = json.loads((in_turn / folder / "metrics.json").read_text())
        variant, seed = folder.split("/seed_")
        chosen = frame[(frame["variant"] == variant) & (frame["seed"] == int(seed))]
        value = metrics["test"]["kl0_vs_kl2"]["accuracy"]["value"]
        cell = chosen.query("split == 'test' and metric == 'accuracy'")["value"]
        assert cell.item() == pytest.approx(value, rel=1e-5)
    text = (in_turn / "sweep.txt").read_text()
    assert text.index("Validation knees") < text.index("Test knees")
    assert "Test knees" in (in_turn / "sweep.html").read_text()
    # The mean of both seeds' probabilities, by hand.
    seeds = [pd.read_csv(in_turn / f"much/seed_{s}/predictions/test.csv") for s in (0, 1)]
    positive = (seeds[0]["kl0_vs_kl2_p1"] + seeds[1]["kl0_vs_kl2_p1"]) / 2
    accuracy = ((positive > 0.5) == seeds[0]["kl0_vs_kl2"]).mean()
    _, *rows = text.split("Test knees")[1].split("much, averaged")
    assert rows[0].split()[0] == f"{accuracy:.3f}"


@pytest.mark.slow
def test_a_run_of_a_sweep_is_a_run_of_its_own(in_turn, tiny_data_dir):
    """The command of a single run finds nothing left to train in its folder."""
    config = small_config()
    config.epochs, config.task.hybrid.epsilon, config.seed = 2, 0.5, 1
    before = (in_turn / "much/seed_1/metrics.json").read_text()
    train.train(parse(config), in_turn / "much/seed_1", tiny_data_dir)
    assert (in_turn / "much/seed_1/metrics.json").read_text() == before
    config.task.hybrid.epsilon = 0.1
    with pytest.raises(UserError, match=r"it differs in task.hybrid.epsilon"):
        train.train(parse(config), in_turn / "much/seed_1", tiny_data_dir)


def summary(accuracy):
    return {"test": {"kl0_vs_kl2": {"accuracy": {"value": accuracy, "low": 0, "high": 1, "n": 9}}}}


def test_the_cells_are_right_and_stand_beside_the_paper():
    frame = tidy({"a": {0: summary(0.5), 1: summary(0.9)}, "b": {0: summary(0.7)}})
    rows = {"a": "siamese_gap.py:lambda_721_epsilon_015", "b": ""}
    mean = summary(0.8)["test"]
    table = part_table(frame, "test", "kl0_vs_kl2", rows, {"a": mean})
    assert table.header == ("Variant", "Seeds", "Accuracy")
    assert table.rows[0] == ("a", "2", "0.700\nsd 0.283, 0.500 to 0.900\npaper 0.8914")
    assert table.rows[1] == ("a, averaged", "", "0.800\n[0.000, 1.000]")
    assert table.rows[2] == ("b", "1", "0.700")


MISTAKES = {
    "no seed": ({"sweep.seeds": 0}, {}, "config.sweep.seeds = 0: a whole number of 1 or more"),
    "another network": ({}, {"big": {"model": {"width": 99}}}, "big changes model.width"),
    "not a divisor": ({"sweep.at_once": 3}, {}, "at_once = 3 does not divide the 4 runs"),
}


@pytest.mark.parametrize(("fields", "variants", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(fields, variants, message, tmp_path, tiny_data_dir):
    config = small_config()
    config.update_from_flattened_dict(fields)
    with config.unlocked():
        config.sweep.variants.update(variants)
    with pytest.raises(UserError, match=message):
        sweep.sweep(parse(config), tmp_path, tiny_data_dir)
    assert not list(tmp_path.glob("**/checkpoints"))


@pytest.mark.slow
def test_seeds_alone_can_be_swept(tmp_path, tiny_data_dir):
    changes = ("--mode=sweep", "--config.sweep.seeds=2")
    done = run_well(*train_flags(tmp_path, tiny_data_dir, "kpn.py:demo", changes))
    assert "run 2 of 2" in done.stdout
    assert "Sweep: 1 variant, 2 seeds" in done.stdout
    assert {path.name for path in (tmp_path / "base").iterdir()} == {"seed_0", "seed_1"}


@pytest.mark.slow
def test_as_many_are_trained_together_as_memory_holds(tmp_path, tiny_data_dir, monkeypatch):
    experiment = set_up(parse(small_config()), tmp_path, tiny_data_dir)
    assert side_by_side.max_at_once(experiment, 12) == 1  # A CPU.
    each = side_by_side.bytes_of_one(experiment)
    parameters = sum(x.nbytes for x in jax_leaves(experiment))
    assert each > 2 * parameters

    class Device:
        def __init__(self, limit):
            self.limit = limit

        def memory_stats(self):
            return {"bytes_limit": self.limit}

    monkeypatch.setattr(side_by_side.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(side_by_side, "bytes_of_one", lambda _: 100)
    knees = experiment.subsets["train"].shared.bytes_on_device
    for room, together in ((50, 1), (100, 1), (250, 2), (599, 4), (1e6, 12)):
        limit = (room + knees) / side_by_side.SHARE_OF_MEMORY
        monkeypatch.setattr(
            side_by_side.jax, "local_devices", lambda limit=limit: [Device(limit + 1)]
        )
        assert side_by_side.max_at_once(experiment, 12) == together


def jax_leaves(experiment):
    import jax

    return [
        np.empty(leaf.shape, leaf.dtype)
        for leaf in jax.tree.leaves(jax.eval_shape(experiment.random_state).params)
    ]
