"""The train state, and the optimiser and learning-rate schedule that a config names."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import optax

from knee_jax.errors import UserError

Variables = Mapping[str, Any]


@flax.struct.dataclass
class TrainState:
    """All that training changes.

    Attributes:
        step: int32, training steps done.
        params: the network's parameters, float32.
        batch_stats: running statistics of batch normalisation, float32.
        opt_state: the optimiser's state.
    """

    step: jax.Array
    params: Variables
    batch_stats: Variables
    opt_state: optax.OptState

    @property
    def variables(self) -> Variables:
        """What `Module.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def make_schedule(config: ml_collections.ConfigDict, steps_per_epoch: float) -> optax.Schedule:
    """A learning rate that is multiplied by `drop_factor` after each epoch of `drop_epochs`.

    Zheng et al. 2021, Implementation Details: 1e-4, halved after 10 and 30 epochs.
    """
    drops = {round(epoch * steps_per_epoch): config.drop_factor for epoch in config.drop_epochs}
    return optax.piecewise_constant_schedule(config.learning_rate, drops)


def make_optimizer(
    config: ml_collections.ConfigDict, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Adam with the weight decay that the config names.

    `adamw` decays the weights themselves (Loshchilov & Hutter 2019); `adam` adds the decay to the
    gradient before the moments, as `torch.optim.Adam(weight_decay=...)` does.
    """
    if config.name == "adamw":
        return optax.adamw(schedule, weight_decay=config.weight_decay)
    if config.name == "adam":
        return optax.chain(
            optax.add_decayed_weights(config.weight_decay),
            optax.scale_by_adam(),
            optax.scale_by_learning_rate(schedule),
        )
    raise UserError(f"config.optimizer.name = '{config.name}': choose adamw or adam")


def create(variables: Variables, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step.

    Args:
        variables: the network's, as `Module.init` returns them.
        optimizer: the optimiser whose state is to be made.
    """
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(variables["params"]),
    )
