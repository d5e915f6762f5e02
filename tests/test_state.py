import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from knee_jax import state
from knee_jax.errors import UserError


def optimizer_config(**changes):
    return ml_collections.ConfigDict(
        {
            "name": "adamw",
            "learning_rate": 1e-4,
            "weight_decay": 1e-2,
            "drop_epochs": (10, 30),
            "drop_factor": 0.5,
        }
        | changes
    )


def test_schedule_is_that_of_the_paper():
    """Zheng et al. 2021: 1e-4, halved after 10 and 30 of 60 epochs."""
    schedule = state.make_schedule(optimizer_config(), steps_per_epoch=24.2)
    rates = np.array([schedule(step) for step in range(round(60 * 24.2))])
    epochs = np.arange(len(rates)) / 24.2
    np.testing.assert_allclose(rates[epochs < 9.9], 1e-4, rtol=1e-6)
    np.testing.assert_allclose(rates[(epochs > 10.1) & (epochs < 29.9)], 5e-5, rtol=1e-6)
    np.testing.assert_allclose(rates[epochs > 30.1], 2.5e-5, rtol=1e-6)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_optimizer_equals_pytorch(name):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    weights = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    theirs = torch.nn.Parameter(torch.tensor(weights))
    reference = kind([theirs], lr=1e-2, weight_decay=0.1)

    config = optimizer_config(name=name, learning_rate=1e-2, weight_decay=0.1, drop_epochs=())
    optimizer = state.make_optimizer(config, state.make_schedule(config, 1))
    ours = jnp.asarray(weights)
    opt_state = optimizer.init(ours)
    for step in range(20):
        gradient = np.random.default_rng(step).normal(size=(5, 3)).astype(np.float32)
        theirs.grad = torch.tensor(gradient)
        reference.step()
        updates, opt_state = optimizer.update(jnp.asarray(gradient), opt_state, ours)
        ours = ours + updates
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_create_starts_at_step_zero():
    config = optimizer_config()
    optimizer = state.make_optimizer(config, state.make_schedule(config, 1))
    variables = {"params": {"w": jnp.ones(3)}, "batch_stats": {"mean": jnp.zeros(2)}}
    created = state.create(variables, optimizer)
    assert int(created.step) == 0
    assert jax.tree.all(jax.tree.map(jnp.array_equal, created.variables, variables))


def test_an_unknown_optimizer_is_named():
    with pytest.raises(UserError, match="'sgd': choose adamw or adam"):
        state.make_optimizer(optimizer_config(name="sgd"), lambda step: 0.1)
