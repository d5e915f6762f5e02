"""The train state, and the optimiser and learning-rate schedule that a config names."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from optax.transforms import conditionally_mask

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
        memory: what the task keeps of the last validation.
    """

    step: jax.Array
    params: Variables
    batch_stats: Variables
    opt_state: optax.OptState
    memory: Mapping[str, jax.Array]

    @property
    def variables(self) -> Variables:
        """What `Module.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def group_of(params: Variables) -> dict[str, str]:
    """The optimiser's group of each part of a network: its trunk is the encoder, the rest heads."""
    return {name: "encoder" if name == "trunk" else "head" for name in params}


def learning_rates(
    config: ml_collections.ConfigDict, steps_per_epoch: float
) -> dict[str, optax.Schedule]:
    """Group → learning rate, as functions of the step.

    The rate is multiplied by `drop_factor` after each epoch of `drop_epochs` (Zheng et al. 2021,
    Implementation Details: 1e-4, halved after 10 and 30 epochs). Through the first `freeze_epochs`
    the encoder rests (Tiulpin & Saarakkala 2020, Training strategy). Through the first
    `warmup_epochs`, where the config has them, the rate begins at `warmup_factor` of what it would
    be and grows by equal steps, one an epoch (Panfilov et al. 2022, section 3.2: 1e-5, and 1e-4
    from the sixth epoch on).

    Raises:
        UserError: a warm-up without meaning.
    """
    drops = {round(epoch * steps_per_epoch): config.drop_factor for epoch in config.drop_epochs}
    head = optax.piecewise_constant_schedule(config.learning_rate, drops)
    if config.get("warmup_epochs", 0):
        head = _warmed_up(head, config, steps_per_epoch)
    frozen = round(config.freeze_epochs * steps_per_epoch)

    def encoder(step: jax.typing.ArrayLike) -> jax.Array:
        return jnp.where(step < frozen, 0.0, head(step))

    return {"encoder": encoder if frozen else head, "head": head}


def _warmed_up(
    rate: optax.Schedule, config: ml_collections.ConfigDict, steps_per_epoch: float
) -> optax.Schedule:
    epochs, factor = config.warmup_epochs, config.warmup_factor
    if int(epochs) != epochs or epochs < 0 or not 0 <= factor <= 1:
        raise UserError(
            f"config.optimizer: warmup_epochs = {epochs} and warmup_factor = {factor}; the first "
            "must be a whole number of epochs, the second from 0 to 1"
        )
    begins = np.array([round(epoch * steps_per_epoch) for epoch in range(1, int(epochs) + 1)])

    def warmed_up(step: jax.typing.ArrayLike) -> jax.Array:
        epoch = (jnp.asarray(step) >= begins).sum()
        return rate(step) * (factor + (1 - factor) * epoch / epochs)

    return warmed_up


def make_optimizer(
    config: ml_collections.ConfigDict, steps_per_epoch: float
) -> optax.GradientTransformation:
    """Adam with the weight decay and the learning rates that the config names.

    `adamw` decays the weights themselves (Loshchilov & Hutter 2019); `adam` adds the decay to the
    gradient before the moments, as `torch.optim.Adam(weight_decay=...)` does. Adam's moments of a
    frozen encoder begin when it is unfrozen, as those of a parameter group that is added then.
    """
    decay = optax.add_decayed_weights(config.weight_decay)
    if config.name == "adamw":
        adam = optax.chain(optax.scale_by_adam(), decay)
    elif config.name == "adam":
        adam = optax.chain(decay, optax.scale_by_adam())
    else:
        raise UserError(f"config.optimizer.name = '{config.name}': choose adamw or adam")
    encoder = adam
    if frozen := round(config.freeze_epochs * steps_per_epoch):
        encoder = conditionally_mask(adam, lambda step: step >= frozen)
    return optax.chain(
        optax.partition({"encoder": encoder, "head": adam}, group_of),
        optax.scale_by_learning_rate(learning_rates(config, steps_per_epoch)["head"]),
    )


def create(
    variables: Variables,
    optimizer: optax.GradientTransformation,
    memory: Mapping[str, jax.Array] | None = None,
) -> TrainState:
    """The state before the first step.

    Args:
        variables: the network's, as `Module.init` returns them.
        optimizer: the optimiser whose state is to be made.
        memory: the task's, before the first validation.
    """
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(variables["params"]),
        memory=memory or {},
    )
