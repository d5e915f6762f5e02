"""A training run, from a config to a folder of checkpoints, top to bottom."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from clu import parameter_overview
from tqdm import tqdm

from knee_jax import coherence, models, sharding
from knee_jax import state as states
from knee_jax import workdir as workdirs
from knee_jax.checkpoint import Checkpoints
from knee_jax.data import sampling, statistics
from knee_jax.data.batches import Batch
from knee_jax.errors import UserError
from knee_jax.evaluate import Predictor, make_predictor, predict
from knee_jax.experiment import STATISTICS, Experiment, Facts, set_up
from knee_jax.state import TrainState
from knee_jax.writers import ScalarWriter

Scalars = dict[str, jax.Array]
Step = Callable[[TrainState, Facts, Batch], tuple[TrainState, Scalars]]
Steps = Any
"""Compiled: (state, facts, batches, how many of them) → the state after those steps, and scalars of
each, [steps]."""


class Compiled(NamedTuple):
    """The functions that run on the devices.

    Attributes:
        initial: facts → the state before the first step.
        train_steps: see `Steps`.
        predictor: see `evaluate.Predictor`.
    """

    initial: Callable[[Facts], TrainState]
    train_steps: Steps
    predictor: Predictor


def train(config: ml_collections.ConfigDict, workdir: Path, data_dir: Path) -> None:
    """Trains until `config.epochs`; a second call with the same arguments resumes.

    A batch and its augmentation are functions of (seed, step), and the state holds all else, so a
    run that is killed and resumed repeats the same computation. On a CPU it ends in the same bits,
    on a GPU where its kernels are deterministic (`XLA_FLAGS=--xla_gpu_deterministic_ops=true`).

    Args:
        config: see `configs/`.
        workdir: receives `config.json`, `environment.json`, `knees.json`, `statistics.json`,
            `coherence.npz` where the task has a mixture, `parameters.txt`, `metrics.jsonl`,
            TensorBoard events and `checkpoints/`.
        data_dir: where prepared sets are.

    Raises:
        UserError: whatever the user can mend, in one line.
    """
    check(config)
    workdirs.refuse_other(workdir, config)
    run([set_up(config, workdir, data_dir)], [workdir])


def run(
    experiments: Sequence[Experiment], folders: Sequence[Path], compiled: Compiled | None = None
) -> Compiled:
    """Trains one experiment; or several together that differ in their knees and facts only.

    Together, each group of devices has its own members (`sharding.side_by_side`), and the folder of
    each becomes what it would be had it been trained alone.

    Args:
        experiments: set up for so many members.
        folders: the folder of each.
        compiled: by an earlier run of as many experiments that differ in knees and facts only.

    Returns:
        What was compiled.
    """
    # ---- The steps ----
    first, count = experiments[0], len(experiments)
    config, task = first.config, first.task
    num_steps = math.ceil(config.epochs * first.steps_per_epoch)
    epoch_ends = {math.ceil(n * first.steps_per_epoch) for n in range(1, config.epochs + 1)}
    compiled = compiled or compile_functions(first, count)

    # ---- The states, and the folders ----
    with contextlib.ExitStack() as stack:
        # A kill may fall between the members' saves: then they go on from the step before.
        latest = 1 if count == 1 else 2
        checkpoints = [
            stack.enter_context(Checkpoints(d / "checkpoints", latest=latest)) for d in folders
        ]
        start = max(set.intersection(*(each.steps() for each in checkpoints)), default=0)
        members = [
            begin(experiment, workdir, each, start, compiled)
            for experiment, workdir, each in zip(experiments, folders, checkpoints)
        ]
        best = [each.best_score() for each in checkpoints]
        if start:
            print(f"resuming at step {start} of {num_steps}")
        together = Together(first.mesh, count)
        state, facts = together.join(members), together.join([e.facts for e in experiments])
        calls = divide(start, num_steps, epoch_ends, config)
        stream = first.parts["train"].source.batches(
            together.plan([sampling.in_calls(e.plan, calls) for e in experiments]),
            range(len(calls)),
            config.data.workers,
        )
        stack.enter_context(contextlib.closing(stream))
        writers = [stack.enter_context(ScalarWriter(d, start)) for d in folders]
        progress = stack.enter_context(
            tqdm(
                total=num_steps * config.batch_size * count,
                initial=start * config.batch_size * count,
                desc="training",
                unit="img",
                unit_scale=True,
                mininterval=1,
                disable=jax.process_index() > 0,
            )
        )

        # ---- The loop ----
        since_log: list[tuple[Scalars, int]] = []
        clock = time.perf_counter()
        for steps, batches in zip(calls, stream):
            state, scalars = compiled.train_steps(state, facts, batches, len(steps))
            since_log.append((scalars, len(steps)))
            progress.update(len(steps) * config.batch_size * count)

            step = steps.stop
            validating = step in epoch_ends
            saving = step % config.checkpoint_every == 0 or step == num_steps
            if not (validating or saving or step % config.log_every == 0):
                continue
            # Waits for the steps, which have only been begun.
            logged, since_log = join_steps(jax.device_get(since_log)), []
            rate = logged["loss"].shape[-1] * config.batch_size / (time.perf_counter() - clock)
            for i, writer in enumerate(writers):
                means = mean_of_finite(together.member(logged, i), step)
                rows = {f"train/{n}": v for n, v in (means | {"images_per_s": rate}).items()}
                writer.write(step, rows)
                progress.set_postfix_str(f"loss {means['loss']:.3f}")

            scores: list[float | None] = [None] * count
            if validating:
                memories = []
                for i, (experiment, writer) in enumerate(zip(experiments, writers)):
                    variables = together.member(state, i).variables
                    table = predict(experiment, compiled.predictor, variables, "validation")
                    scores[i] = score = experiment.task.score(table)
                    memories.append(experiment.task.remember(table))
                    writer.write(step, {f"validation/{task.score_name}": score})
                    progress.set_postfix_str(f"loss {means['loss']:.3f}, validation {score:.3f}")
                    if score >= best[i]:
                        best[i], saving = score, True
                state = dataclasses.replace(state, memory=together.join(memories))
            if saving:
                for i, each in enumerate(checkpoints):
                    each.save(step, together.member(state, i), scores[i])
            clock = time.perf_counter()
    return compiled


def divide(
    start: int, stop: int, epoch_ends: Collection[int], config: ml_collections.ConfigDict
) -> list[range]:
    """The steps of each call, which ends where something is logged, validated or saved."""
    calls, step = [], start
    while step < stop:
        every = (config.log_every, config.checkpoint_every)
        ends = [step + config.steps_per_call, stop, *(n * (step // n + 1) for n in every)]
        end = min(ends)
        end = min((e for e in epoch_ends if step < e < end), default=end)
        calls.append(range(step, end))
        step = end
    return calls


def check(config: ml_collections.ConfigDict, members: int = 1) -> None:
    """Raises UserError for a number that no run can be made with."""
    sharding.check_batch_size(config.batch_size, "batch_size", members)
    fields = config.to_dict()
    names = ("epochs", "steps_per_call", "log_every", "checkpoint_every")
    numbers = {name: fields[name] for name in names}
    numbers["input.size"] = config.input.get("size", 1)
    numbers["model.width"] = config.model.get("width", 1)
    numbers["evaluation.num_resamples"] = config.evaluation.num_resamples
    for name, value in numbers.items():
        if value < 1:
            raise UserError(f"config.{name} = {value}: it must be 1 or more")


def begin(
    experiment: Experiment, workdir: Path, checkpoints: Checkpoints, start: int, compiled: Compiled
) -> TrainState:
    """The state at step `start`, read or made; and from now on the folder is of this run."""
    checkpoints.forget_after(start)
    if start:
        like = jax.eval_shape(experiment.random_state)
        state = checkpoints.restore(start, like, experiment.mesh)
    else:
        state = initial_state(experiment, compiled)
    workdirs.claim(workdir, experiment.config)
    statistics.save(experiment.statistics, workdir / STATISTICS)
    if jax.process_index() == 0:
        workdirs.write_json(workdir / "knees.json", experiment.account)
        if experiment.task.mixture is not None:
            coherence.save(experiment.task.mixture, workdir / coherence.FILE)
        print(describe(experiment.account))
    report_parameters(state, workdir)
    return state


def initial_state(experiment: Experiment, compiled: Compiled) -> TrainState:
    """The state before the first step, on the mesh: random, or with weights from a file."""
    state = compiled.initial(experiment.facts)
    if source := experiment.config.init_from:
        variables = models.load(experiment.config.model.name, dict(state.variables), source)
        state = dataclasses.replace(state, **variables)
    return sharding.place(state, sharding.replicated(experiment.mesh))


def describe(account: Mapping[str, Mapping[str, int]]) -> str:
    """The knees of each part in one line, and those that are left out, by reason."""
    parts = []
    for name, counts in account.items():
        reasons = [f"{n:,} {why.replace('_', ' ')}" for why, n in counts.items() if why != "used"]
        left_out = f" (left out: {', '.join(reasons)})" if reasons else ""
        parts.append(f"{counts['used']:,} {name}{left_out}")
    return "knees: " + ", ".join(parts)


def report_parameters(state: TrainState, workdir: Path) -> None:
    """Writes every parameter and its shape to `parameters.txt`, and prints how many there are."""
    if jax.process_index() == 0:
        overview = parameter_overview.get_parameter_overview(state.variables, include_stats=False)
        (workdir / "parameters.txt").write_text(overview + "\n", encoding="utf-8")
        print(f"{parameter_overview.count_parameters(state.params):,} parameters")


def compile_functions(experiment: Experiment, members: int = 1) -> Compiled:
    """The functions on the devices, for one experiment or for several together."""
    return Compiled(
        jax.jit(experiment.random_state),
        make_train_steps(experiment, members),
        make_predictor(experiment),
    )


def make_train_steps(experiment: Experiment, members: int = 1) -> Steps:
    """The compiled training: up to `config.steps_per_call` steps in a call.

    A small network's step takes less time on an accelerator than the host takes to begin it.
    """
    train_step = make_train_step(experiment)

    def train_steps(
        state: TrainState, facts: Facts, batches: Batch, number: jax.Array
    ) -> tuple[TrainState, Scalars]:
        def batch_of(i: jax.typing.ArrayLike) -> Batch:
            return {name: array[i] for name, array in batches.items()}

        def one(i: jax.Array, carry: tuple[TrainState, Scalars]) -> tuple[TrainState, Scalars]:
            state, of_each = carry
            state, scalars = train_step(state, facts, batch_of(i))
            return state, {name: of_each[name].at[i].set(value) for name, value in scalars.items()}

        longest = len(batches["row"])
        if longest == 1:
            state, scalars = train_step(state, facts, batch_of(0))
            return state, {name: value[None] for name, value in scalars.items()}
        _, like = jax.eval_shape(train_step, state, facts, batch_of(0))
        nothing = {name: jnp.zeros(longest, value.dtype) for name, value in like.items()}
        return jax.lax.fori_loop(0, number, one, (state, nothing))

    if members > 1:
        return jax.jit(sharding.side_by_side(train_steps, experiment.mesh), donate_argnums=0)
    return jax.jit(
        train_steps, donate_argnums=0, out_shardings=sharding.replicated(experiment.mesh)
    )


def make_train_step(experiment: Experiment) -> Step:
    """The training step, a pure function: (state, facts, batch) → (next state, scalars)."""
    config, model = experiment.config, experiment.model
    rates = states.learning_rates(config.optimizer, experiment.steps_per_epoch)

    def train_step(
        state: TrainState, facts: Facts, batch: Batch
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(facts.seed), state.step)
        view_key, dropout_key = jax.random.split(key)
        images, keypoints = experiment.views(batch, view_key, facts, train=True)
        epoch = state.step / jnp.float32(experiment.steps_per_epoch)

        def loss_of(params: states.Variables) -> tuple[jax.Array, Any]:
            outputs, updates = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                images,
                keypoints,
                train=True,
                rngs={"dropout": dropout_key},
                mutable=["batch_stats"],
            )
            loss, terms = facts.task.loss(outputs, batch, epoch, state.memory)
            return loss, (terms, updates.get("batch_stats", {}))

        (loss, (terms, batch_stats)), grads = jax.value_and_grad(loss_of, has_aux=True)(
            state.params
        )
        updates, opt_state = experiment.optimizer.update(grads, state.opt_state, state.params)
        scalars = {
            "loss": loss,
            **terms,
            **{f"learning_rate_{group}": rate(state.step) for group, rate in rates.items()},
            "gradient_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
        }
        next_state = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
            memory=state.memory,
        )
        return next_state, {name: jnp.float32(value) for name, value in scalars.items()}

    return train_step


class Together:
    """How members' states, facts and plans become one, and one of them again.

    With a single member nothing is changed.
    """

    def __init__(self, mesh: jax.sharding.Mesh, count: int):
        self._mesh, self._count = mesh, count

    def join(self, trees: Sequence[Any]) -> Any:
        """The members' pytrees, with a leading axis of members."""
        return sharding.stack(trees, self._mesh) if self._count > 1 else trees[0]

    def member(self, tree: Any, index: int) -> Any:
        """What belongs to a member; device arrays come replicated."""
        if self._count == 1:
            return tree
        whole = sharding.replicated(self._mesh)
        return jax.tree.map(
            lambda x: x[index] if isinstance(x, np.ndarray) else jax.device_put(x[index], whole),
            tree,
        )

    def plan(self, plans: Sequence[Any]) -> Any:
        """Call → rows, [steps, batch] or [members, steps, batch]."""
        if self._count == 1:
            return plans[0]
        return lambda call: np.stack([plan(call) for plan in plans])


def join_steps(calls: Sequence[tuple[Scalars, int]]) -> dict[str, np.ndarray]:
    """The scalars of the steps of several calls, [..., steps]."""
    return {
        name: np.concatenate([scalars[name][..., :number] for scalars, number in calls], axis=-1)
        for name in calls[0][0]
    }


def mean_of_finite(scalars: Mapping[str, np.ndarray], step: int) -> dict[str, float]:
    """Means over the steps since the last call.

    Args:
        scalars: name → values, [steps].
        step: the last of them.

    Raises:
        UserError: one of them is not finite; nothing is saved after it.
    """
    means = {name: float(values.mean()) for name, values in scalars.items()}
    for name, value in means.items():
        if not math.isfinite(value):
            raise UserError(
                f"{name} is {value} between steps {step - len(scalars[name])} and {step}: training "
                "has diverged; lower config.optimizer.learning_rate, or look for bad images"
            )
    return means
