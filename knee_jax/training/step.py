"""Functions that run on the devices: initial state, training steps, predictions."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from knee_jax.data import mesh
from knee_jax.data.batches import Batch
from knee_jax.evaluation.predict import Predictor, make_predictor
from knee_jax.tasks.protocols import Labels
from knee_jax.training import state as states
from knee_jax.training.mixing import mix
from knee_jax.training.run import Run, StepConstants
from knee_jax.training.state import TrainState

Scalars = dict[str, jax.Array]
Step = Callable[[TrainState, StepConstants, Batch], tuple[TrainState, Scalars]]
Steps = Any
"""Compiled function from (state, constants, batches, number of batches) to the state after those
steps and the scalars of each, [steps].
"""


QUICKLY = {"cpu": {"xla_backend_optimization_level": 1}}
"""Platform → options of the compiler. On a CPU a program of LLVM's first level is as fast as one of
the third (the convolutions are not LLVM's), and takes half as long to compile."""


MIXING = 2**31 - 1
"""Number folded into a step's key for mixing; slots of a batch have smaller ones."""


class Compiled(NamedTuple):
    """Compiled functions of a run.

    Attributes:
        initial_state: Function from constants to the state before the first step.
        train_steps: Training steps; see `Steps`.
        predictor: Prediction; see `evaluation.predict.Predictor`.
    """

    initial_state: Callable[[StepConstants], TrainState]
    train_steps: Steps
    predictor: Predictor


def compile_functions(run: Run, runs: int = 1) -> Compiled:
    """Compile the functions of a run, or of several runs side by side."""
    return Compiled(
        jax.jit(run.random_state, compiler_options=_options(run)),
        make_train_steps(run, runs),
        make_predictor(run),
    )


def make_train_step(run: Run) -> Step:
    """Make the training step, a pure function: (state, constants, batch) → (state, scalars)."""
    model = run.model
    optimizer = run.config.optimizer
    rates = states.learning_rates(optimizer, run.steps_per_epoch, run.config.epochs)

    def train_step(
        state: TrainState, constants: StepConstants, batch: Batch
    ) -> tuple[TrainState, Scalars]:
        key = jax.random.fold_in(jax.random.key(constants.seed), state.step)
        input_key, dropout_key = jax.random.split(key)
        images, keypoints = run.preprocessing(batch, input_key, constants.intensities, train=True)
        labels = run.preprocessing.mirrored_labels(batch["labels"], run.targets, input_key)
        labels |= run.preprocessing.places(keypoints, run.targets)
        mixture = mix(images, run.config.mixing, jax.random.fold_in(input_key, MIXING))
        epoch = state.step / jnp.float32(run.steps_per_epoch)

        def loss_of(params: states.Variables) -> tuple[jax.Array, Any]:
            outputs, updates = model.apply(
                {
                    "params": mesh.gathered(run.mesh, params),
                    "batch_stats": state.batch_stats,
                },
                mixture.images,
                keypoints,
                train=True,
                rngs={"dropout": dropout_key},
                mutable=["batch_stats"],
            )

            def loss_for(labels: Labels, mask: jax.Array) -> tuple[jax.Array, Scalars]:
                return constants.task.loss(outputs, labels, mask, epoch, state.validation_stats)

            loss, terms = mixture.loss(loss_for, labels, batch["mask"])
            return loss, (terms, updates.get("batch_stats", {}))

        (loss, (terms, batch_stats)), grads = jax.value_and_grad(loss_of, has_aux=True)(
            state.params
        )
        updates, opt_state = run.optimizer.update(grads, state.opt_state, state.params)
        change = state.step // optimizer.accumulation
        scalars = {
            "loss": loss,
            **terms,
            **{f"learning_rate_{group}": rate(change) for group, rate in rates.items()},
            "gradient_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
        }
        params = optax.apply_updates(state.params, updates)
        latest = {"params": params, "batch_stats": batch_stats}
        next_state = TrainState(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            validation_stats=state.validation_stats,
            average=states.moving_average(state.average, latest, optimizer.ema_decay, state.step),
        )
        return next_state, {name: jnp.float32(value) for name, value in scalars.items()}

    return train_step


def make_train_steps(run: Run, runs: int = 1) -> Steps:
    """Compile the training steps, up to `config.steps_per_call` in a call.

    A step of a small network takes less time on an accelerator than the host takes to launch it.
    """
    train_step = make_train_step(run)

    def train_steps(
        state: TrainState, constants: StepConstants, batches: Batch, number: jax.Array
    ) -> tuple[TrainState, Scalars]:
        def batch_of(i: jax.typing.ArrayLike) -> Batch:
            return jax.tree.map(lambda array: array[i], batches)

        def one(i: jax.Array, carry: tuple[TrainState, Scalars]) -> tuple[TrainState, Scalars]:
            state, of_each = carry
            state, scalars = train_step(state, constants, batch_of(i))
            return state, {name: of_each[name].at[i].set(value) for name, value in scalars.items()}

        longest = len(batches["row"])
        if longest == 1:
            state, scalars = train_step(state, constants, batch_of(0))
            return state, {name: value[None] for name, value in scalars.items()}
        _, like = jax.eval_shape(train_step, state, constants, batch_of(0))
        empty = {name: jnp.zeros(longest, value.dtype) for name, value in like.items()}
        return jax.lax.fori_loop(0, number, one, (state, empty))

    compiled = partial(jax.jit, donate_argnums=0, compiler_options=_options(run))
    if runs > 1:
        return compiled(mesh.side_by_side(train_steps, run.mesh))
    state = mesh.of_state(run.mesh, jax.eval_shape(run.random_state))
    return compiled(train_steps, out_shardings=(state, mesh.replicated(run.mesh)))


def _options(run: Run) -> dict[str, Any]:
    return QUICKLY.get(run.mesh.devices.flat[0].platform, {})


def bytes_of_one(run: Run) -> int:
    """Return the device memory that training a run takes, bytes, by the compiler's estimate."""
    state = jax.eval_shape(run.random_state)
    number = run.config.steps_per_call
    rows = jnp.stack([jnp.asarray(run.sampler(0))] * number)
    knee = run.subsets["train"].prepared.load(run.subsets["train"].rows[:1])
    batches: Mapping[str, Any] = jax.tree.map(
        lambda array: jax.ShapeDtypeStruct((*rows.shape, *array.shape[1:]), array.dtype), knee
    )
    batches = {
        **batches,
        "row": jax.ShapeDtypeStruct(rows.shape, jnp.int32),
        "mask": jax.ShapeDtypeStruct(rows.shape, bool),
    }
    steps = make_train_steps(run)
    sizes = steps.lower(state, run.constants, batches, number).compile().memory_analysis()
    return (
        sizes.argument_size_in_bytes
        + sizes.output_size_in_bytes
        - sizes.alias_size_in_bytes
        + sizes.temp_size_in_bytes
    )
