"""Train state, and the optimiser and learning-rate schedule of a config."""

import math
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.transforms import conditionally_mask

from knee_jax.config.schema import Optimizer

Variables = Mapping[str, Any]


@flax.struct.dataclass
class TrainState:
    """Everything that training changes.

    Attributes:
        step: Number of training steps done, int32.
        params: Parameters of the network, float32.
        batch_stats: Running statistics of batch normalisation, float32.
        opt_state: State of the optimiser.
        validation_stats: Values that the loss uses from the last validation.
        average: Moving averages of `params` and `batch_stats`; empty without them.
    """

    step: jax.Array
    params: Variables
    batch_stats: Variables
    opt_state: optax.OptState
    validation_stats: Mapping[str, jax.Array]
    average: Mapping[str, Variables] = flax.struct.field(default_factory=dict)

    @property
    def variables(self) -> Variables:
        """Params and batch_stats to predict with, as `Module.apply` takes them."""
        return self.average or {"params": self.params, "batch_stats": self.batch_stats}


def group_of(params: Variables) -> dict[str, str]:
    """Return the optimiser's group of each part of a network: trunk or head."""
    return {name: "trunk" if name == "trunk" else "head" for name in params}


def learning_rates(
    config: Optimizer, steps_per_epoch: float, epochs: int
) -> dict[str, optax.Schedule]:
    """Return the learning rate of each group as a function of the change of the weights.

    With the schedule `drops` the rate is multiplied by `drop_factor` after each epoch of
    `drop_epochs` (Zheng et al. 2021, Implementation Details: 1e-4, halved after 10 and 30 epochs).
    During the first `freeze_epochs`
    the trunk is frozen (Tiulpin & Saarakkala 2020, Training strategy). During the first
    `warmup_epochs` the rate starts at `warmup_factor` of what it would be and grows by equal steps,
    one per epoch (Panfilov et al. 2022, section 3.2: 1e-5, and 1e-4 from the sixth epoch on).

    The schedule `cosine` falls from the rate to 0 along half a cosine (Loshchilov & Hutter 2017);
    `one_cycle` rises from a 25th of the rate through the first 30 % of training, and falls to a
    250,000th (Smith & Topin 2018, with PyTorch's numbers).

    Args:
        config: The part `optimizer` of a config.
        steps_per_epoch: Steps in a pass over the knees.
        epochs: Passes over the knees.
    """
    steps_per_epoch = steps_per_epoch / config.accumulation
    head = _course(config, steps_per_epoch, max(1, math.ceil(epochs * steps_per_epoch)))
    if config.warmup_epochs:
        head = _warmed_up(head, config, steps_per_epoch)
    frozen = round(config.freeze_epochs * steps_per_epoch)

    def trunk(step: jax.typing.ArrayLike) -> jax.Array:
        return jnp.where(jnp.asarray(step) < frozen, 0.0, head(step))

    return {"trunk": trunk if frozen else head, "head": head}


def _course(config: Optimizer, steps_per_epoch: float, num_steps: int) -> optax.Schedule:
    """Return the learning rate before any warm-up."""
    if config.schedule == "cosine":
        return optax.cosine_decay_schedule(config.learning_rate, num_steps)
    if config.schedule == "one_cycle":
        return optax.cosine_onecycle_schedule(num_steps, config.learning_rate)
    drops = {round(epoch * steps_per_epoch): config.drop_factor for epoch in config.drop_epochs}
    return optax.piecewise_constant_schedule(config.learning_rate, drops)


def _warmed_up(rate: optax.Schedule, config: Optimizer, steps_per_epoch: float) -> optax.Schedule:
    epochs, factor = config.warmup_epochs, config.warmup_factor
    begins = np.array([round(epoch * steps_per_epoch) for epoch in range(1, epochs + 1)])

    def warmed_up(step: jax.typing.ArrayLike) -> jax.Array:
        epoch = (jnp.asarray(step) >= begins).sum()
        return rate(step) * (factor + (1 - factor) * epoch / epochs)

    return warmed_up


def make_optimizer(
    config: Optimizer, steps_per_epoch: float, epochs: int
) -> optax.GradientTransformation:
    """Make Adam with the weight decay and the learning rates of the config.

    `adamw` decays the weights themselves (Loshchilov & Hutter 2019); `adam` adds the decay to the
    gradient before the moments, as `torch.optim.Adam(weight_decay=...)` does. Adam's moments of a
    frozen trunk start when it is unfrozen, like those of a parameter group that is added then.
    """
    decay = optax.add_decayed_weights(config.weight_decay)
    if config.name == "adamw":
        adam = optax.chain(optax.scale_by_adam(), decay)
    else:
        adam = optax.chain(decay, optax.scale_by_adam())
    trunk = adam
    if frozen := round(config.freeze_epochs * steps_per_epoch / config.accumulation):
        trunk = conditionally_mask(adam, lambda step: step >= frozen)
    parts = [
        optax.partition({"trunk": trunk, "head": adam}, group_of),
        optax.scale_by_learning_rate(learning_rates(config, steps_per_epoch, epochs)["head"]),
    ]
    if config.clip_norm:
        parts.insert(0, optax.clip_by_global_norm(config.clip_norm))
    optimizer = optax.chain(*parts)
    if config.accumulation > 1:
        steps = optax.MultiSteps(optimizer, config.accumulation)
        return optax.GradientTransformation(steps.init, steps.update)
    return optimizer


def moving_average(
    average: Mapping[str, Variables], latest: Mapping[str, Variables], decay: float, step: jax.Array
) -> Mapping[str, Variables]:
    """Return the moving average of variables after a step; empty averages stay empty.

    The decay grows to its value with the number of steps, as (1 + step) / (10 + step), so that the
    random weights at the start are soon forgotten (TensorFlow's `ExponentialMovingAverage`).
    """
    if not average:
        return average
    decay_now = jnp.minimum(decay, (1 + step) / (10 + step))
    return optax.incremental_update(latest, average, 1 - decay_now)


def create(
    variables: Variables,
    optimizer: optax.GradientTransformation,
    validation_stats: Mapping[str, jax.Array] | None = None,
    averaged: bool = False,
) -> TrainState:
    """Make the state before the first step.

    Args:
        variables: Variables of the network, as `Module.init` returns them.
        optimizer: Optimiser whose state is to be made.
        validation_stats: Values that the loss uses before the first validation.
        averaged: Whether moving averages of the variables are kept.
    """
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        validation_stats=validation_stats or {},
        average={"params": params, "batch_stats": batch_stats} if averaged else {},
    )
