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
    rates = state.learning_rates(optimizer_config(), 24.2, 60)
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
    rates = state.learning_rates(optimizer_config(**WARM), steps_per_epoch, 60)
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
    optimizer = state.make_optimizer(config, 2, 60)
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
    plain = state.learning_rates(optimizer_config(), 24.2, 60)["head"]
    off = state.learning_rates(optimizer_config(warmup_epochs=0, warmup_factor=0.1), 24.2, 60)[
        "head"
    ]
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
        dataclasses.replace(settings, weight_decay=0.0), steps_per_epoch, 60
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
    logged = state.learning_rates(settings, steps_per_epoch, 60)
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
    optimizer = state.make_optimizer(config, steps_per_epoch, 60)
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
    optimizer = state.make_optimizer(config, 1, 60)
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
    optimizer = state.make_optimizer(optimizer_config(), 1, 60)
    variables = {"params": {"w": jnp.ones(3)}, "batch_stats": {"mean": jnp.zeros(2)}}
    created = state.create(variables, optimizer)
    assert int(created.step) == 0
    assert jax.tree.all(jax.tree.map(jnp.array_equal, created.variables, variables))


@pytest.mark.parametrize("name", ["one_cycle", "cosine"])
def test_schedules_equal_pytorch(name):
    torch = pytest.importorskip("torch", reason="parity with PyTorch needs the `torch` extra")
    reference = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=6e-4)
    schedule = {
        "one_cycle": lambda: torch.optim.lr_scheduler.OneCycleLR(
            reference, 6e-4, total_steps=90, cycle_momentum=False
        ),
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(reference, 90),
    }[name]()
    rates = []
    for _ in range(90):
        rates.append(reference.param_groups[0]["lr"])
        reference.step()
        schedule.step()
    config = optimizer_config(schedule=name, learning_rate=6e-4, drop_epochs=())
    for rate in state.learning_rates(config, 10.0, 9).values():
        ours = np.array([float(rate(step)) for step in range(90)])
        # PyTorch's cycle reaches its peak and its end a step earlier than optax's.
        np.testing.assert_allclose(ours, rates, rtol=0, atol=4e-5)
        assert ours.max() == pytest.approx(6e-4, rel=1e-3)
        assert ours[-1] < 1e-6


def one_update(config, gradients):
    """Parameters after updates by the gradients, in turn."""
    optimizer = state.make_optimizer(config, 10.0, 2)
    params = {"trunk": jnp.ones(3), "head_kl": jnp.full(2, -2.0)}
    opt_state = optimizer.init(params)
    moved = [params]
    for gradient in gradients:
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        params = jax.tree.map(jnp.add, params, updates)
        moved.append(params)
    return moved


def gradient_of(factor):
    return {"trunk": factor * jnp.array([1.0, -2.0, 0.5]), "head_kl": factor * jnp.ones(2)}


def test_accumulated_gradients_are_one_of_their_mean():
    many = [gradient_of(factor) for factor in (1.0, 3.0, -2.0, 6.0)]
    accumulated = one_update(optimizer_config(accumulation=4), many)
    for before in accumulated[1:4]:
        jax.tree.map(np.testing.assert_array_equal, before, accumulated[0])
    at_once = one_update(optimizer_config(), [gradient_of(2.0)])[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), accumulated[4], at_once)


def test_accumulation_stretches_the_schedule():
    plain = state.learning_rates(optimizer_config(schedule="cosine"), 20.0, 5)["head"]
    accumulated = state.learning_rates(optimizer_config(schedule="cosine", accumulation=4), 20.0, 5)
    for change in range(25):
        assert float(accumulated["head"](change)) == pytest.approx(float(plain(4 * change)))


def test_large_gradients_are_clipped_to_their_norm_and_small_ones_are_not():
    clip = optimizer_config(clip_norm=1.0)
    norm = float(jnp.sqrt(1 + 4 + 0.25 + 2))
    # Adam forgets the scale of a first gradient; of a second it does not.
    clipped = one_update(clip, [gradient_of(0.1), gradient_of(100.0)])[2]
    same = one_update(optimizer_config(), [gradient_of(0.1), gradient_of(1 / norm)])[2]
    other = one_update(optimizer_config(), [gradient_of(0.1), gradient_of(100.0)])[2]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), clipped, same)
    assert not np.allclose(clipped["trunk"], other["trunk"], rtol=1e-5)


def test_the_moving_average_is_that_of_all_variables():
    latest = {"params": {"w": jnp.array([1.0, 2.0])}, "batch_stats": {"m": jnp.array(4.0)}}
    average = jax.tree.map(jnp.zeros_like, latest)
    expected, decay = 0.0, 0.9
    for step in range(200):
        average = state.moving_average(average, latest, decay, jnp.int32(step))
        share = min(decay, (1 + step) / (10 + step))
        expected = share * expected + (1 - share)
    assert expected == pytest.approx(1.0, abs=1e-3)
    for value, found in zip(jax.tree.leaves(latest), jax.tree.leaves(average), strict=True):
        np.testing.assert_allclose(found, np.asarray(value) * expected, rtol=1e-5)
    assert state.moving_average({}, latest, decay, jnp.int32(3)) == {}


def test_the_average_is_what_is_predicted_with():
    optimizer = state.make_optimizer(optimizer_config(), 1, 60)
    variables = {"params": {"w": jnp.ones(3)}, "batch_stats": {"mean": jnp.zeros(2)}}
    created = state.create(variables, optimizer, averaged=True)
    moved = dataclasses.replace(created, params={"w": jnp.full(3, 7.0)})
    jax.tree.map(np.testing.assert_array_equal, moved.variables, variables)
