import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from knee_jax.config.load import parse
from knee_jax.config.schema import Optimizer
from knee_jax.configs import oarsi
from knee_jax.training import state


def optimizer_config(**changes):
    fields = {"learning_rate": 1e-4, "drop_epochs": (10, 30), "drop_factor": 0.5}
    return Optimizer(**fields | changes)


def test_learning_rates_of_kpn_are_those_of_the_paper():
    """Zheng et al. 2021: 1e-4, halved after 10 and 30 of 60 epochs."""
    rates = state.learning_rates(optimizer_config(), steps_per_epoch=24.2)
    epochs = np.arange(round(60 * 24.2)) / 24.2
    for schedule in rates.values():
        values = np.array([schedule(step) for step in range(len(epochs))])
        np.testing.assert_allclose(values[epochs < 9.9], 1e-4, rtol=1e-6)
        np.testing.assert_allclose(values[(epochs > 10.1) & (epochs < 29.9)], 5e-5, rtol=1e-6)
        np.testing.assert_allclose(values[epochs > 30.1], 2.5e-5, rtol=1e-6)


WARM = {"warmup_epochs": 5, "warmup_factor": 0.1, "drop_epochs": ()}


@pytest.mark.parametrize("steps_per_epoch", [3, 24.2])
def test_the_warm_up_is_that_of_the_paper_in_every_epoch(steps_per_epoch):
    """Panfilov et al. 2022: the factor 0.1 + 0.9 e/5 up to epoch 5, of a rate of 1e-4."""
    rates = state.learning_rates(optimizer_config(**WARM), steps_per_epoch)
    for schedule in rates.values():
        for epoch in range(9):
            first = round(epoch * steps_per_epoch)
            steps = range(first, round((epoch + 1) * steps_per_epoch))
            factor = 0.1 + 0.9 * epoch / 5 if epoch <= 5 else 1.0
            values = [float(jax.jit(schedule)(step)) for step in steps]
            np.testing.assert_allclose(values, 1e-4 * factor, rtol=1e-6)
        assert float(schedule(0)) == pytest.approx(1e-5)


def test_parameters_move_by_the_warm_up_and_drops_come_on_top():
    """Under a constant gradient Adam moves a parameter by the rate itself, step after step."""
    config = optimizer_config(
        **WARM | {"drop_epochs": (2, 7), "warmup_epochs": 3, "weight_decay": 0.0}
    )
    optimizer = state.make_optimizer(config, 2)
    params = {"trunk": {"w": jnp.zeros(2)}, "head": {"w": jnp.zeros(2)}}
    gradient, opt_state = jax.tree.map(jnp.ones_like, params), optimizer.init(params)
    step = jax.jit(optimizer.update)
    moved = []
    for _ in range(18):
        updates, opt_state = step(gradient, opt_state, params)
        moved.append(-float(updates["head"]["w"][0]))
    factors = [0.1, 0.4, 0.7 / 2, 1 / 2, 1 / 2, 1 / 2, 1 / 2, 1 / 4, 1 / 4]
    np.testing.assert_allclose(moved, 1e-4 * np.repeat(factors, 2), rtol=1e-4)


def test_without_a_warm_up_rates_are_the_same_bits():
    plain = state.learning_rates(optimizer_config(), 24.2)["head"]
    off = state.learning_rates(optimizer_config(warmup_epochs=0, warmup_factor=0.1), 24.2)["head"]
    for step in (0, 100, 242, 726, 1000):
        assert float(plain(step)) == float(off(step))


PUBLISHED = {
    # Group → learning rate of each of the 20 epochs; 0 where it rests (Tiulpin & Saarakkala 2020:
    # the first two from the code's arguments and its text, the last from its scripts).
    "se_resnext50": {
        "head": [1e-2] + 2 * [1e-3] + 17 * [1e-4],
        "trunk": [0.0] + 2 * [1e-3] + 17 * [1e-4],
    },
    "se_resnext50,text_schedule": {
        "head": 2 * [1e-2] + [1e-3] + 17 * [1e-4],
        "trunk": 2 * [0.0] + [1e-3] + 17 * [1e-4],
    },
    "se_resnext50_scratch": {
        "head": 10 * [1e-4] + 5 * [1e-5] + 5 * [1e-6],
        "trunk": 10 * [1e-4] + 5 * [1e-5] + 5 * [1e-6],
    },
}


@pytest.mark.parametrize("variant", PUBLISHED)
def test_every_group_moves_by_its_published_rate_in_every_epoch(variant):
    """Under a constant gradient Adam moves a parameter by the rate itself, step after step."""
    config = oarsi.get_config(variant)
    steps_per_epoch = 3
    settings = parse(config).optimizer
    optimizer = state.make_optimizer(
        dataclasses.replace(settings, weight_decay=0.0), steps_per_epoch
    )
    params = {"trunk": {"w": jnp.zeros(2)}, "head_kl": {"w": jnp.zeros(2)}}
    gradient = jax.tree.map(jnp.ones_like, params)

    @jax.jit
    def step(params, opt_state):
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, updates

    opt_state = optimizer.init(params)
    moved = {"trunk": [], "head": []}
    for _ in range(config.epochs * steps_per_epoch):
        params, opt_state, updates = step(params, opt_state)
        moved["trunk"].append(-float(updates["trunk"]["w"][0]))
        moved["head"].append(-float(updates["head_kl"]["w"][0]))
    logged = state.learning_rates(settings, steps_per_epoch)
    for group, rates in PUBLISHED[variant].items():
        expected = np.repeat(rates, steps_per_epoch)
        np.testing.assert_allclose(moved[group], expected, rtol=1e-4)
        np.testing.assert_allclose(
            [logged[group](n) for n in range(len(expected))], expected, rtol=1e-5
        )


def test_the_decay_of_oarsi_is_coupled_and_a_frozen_trunk_neither_move_nor_remember():
    """Equal to PyTorch's Adam to which the trunk is added when it is unfrozen."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    published = parse(oarsi.get_config("se_resnext50")).optimizer
    config, steps_per_epoch = dataclasses.replace(published, weight_decay=0.05), 4
    rng = np.random.default_rng(0)
    start = {name: rng.normal(size=(4, 3)).astype("f4") for name in ("trunk", "head_kl")}
    theirs = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in start.items()}
    reference = torch.optim.Adam([theirs["head_kl"]], lr=1e-2, weight_decay=0.05)
    optimizer = state.make_optimizer(config, steps_per_epoch)
    ours = jax.tree.map(jnp.asarray, start)
    opt_state = optimizer.init(ours)
    for step in range(16):
        if step == steps_per_epoch:
            reference.add_param_group({"params": [theirs["trunk"]]})
        for group in reference.param_groups:
            group["lr"] = 1e-2 if step < 4 else 1e-3 if step < 12 else 1e-4
        gradients = {name: rng.normal(size=(4, 3)).astype("f4") for name in start}
        for name, parameter in theirs.items():
            parameter.grad = torch.tensor(gradients[name])
        reference.step()
        updates, opt_state = optimizer.update(gradients, opt_state, ours)
        ours = optax.apply_updates(ours, updates)
        if step < steps_per_epoch:
            np.testing.assert_array_equal(ours["trunk"], start["trunk"])
    for name in start:
        np.testing.assert_allclose(ours[name], theirs[name].detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_optimizer_equals_pytorch(name):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    weights = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    theirs = torch.nn.Parameter(torch.tensor(weights))
    reference = kind([theirs], lr=1e-2, weight_decay=0.1)

    config = optimizer_config(name=name, learning_rate=1e-2, weight_decay=0.1, drop_epochs=())
    optimizer = state.make_optimizer(config, 1)
    ours = {"trunk": jnp.asarray(weights)}
    opt_state = optimizer.init(ours)
    for step in range(20):
        gradient = np.random.default_rng(step).normal(size=(5, 3)).astype(np.float32)
        theirs.grad = torch.tensor(gradient)
        reference.step()
        updates, opt_state = optimizer.update({"trunk": jnp.asarray(gradient)}, opt_state, ours)
        ours = optax.apply_updates(ours, updates)
    np.testing.assert_allclose(ours["trunk"], theirs.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_create_starts_at_step_zero():
    optimizer = state.make_optimizer(optimizer_config(), 1)
    variables = {"params": {"w": jnp.ones(3)}, "batch_stats": {"mean": jnp.zeros(2)}}
    created = state.create(variables, optimizer)
    assert int(created.step) == 0
    assert jax.tree.all(jax.tree.map(jnp.array_equal, created.variables, variables))
