"""Training run, from a config to a folder of checkpoints."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from clu import parameter_overview
from tqdm import tqdm

from knee_jax import models
from knee_jax.cohort import selection
from knee_jax.config.load import RunConfig
from knee_jax.data import mesh, sampling
from knee_jax.errors import UserError
from knee_jax.evaluation.predict import predict
from knee_jax.files import write_json
from knee_jax.training import continued
from knee_jax.training import preemption as preemptions
from knee_jax.training.run import Run, set_up
from knee_jax.training.state import TrainState
from knee_jax.training.step import Compiled, Scalars, compile_functions
from knee_jax.training.writers import ScalarWriter
from knee_jax.workdir import folder
from knee_jax.workdir.checkpoint import Checkpoints


def train(config: RunConfig, workdir: Path, data_dir: Path) -> None:
    """Train until `config.epochs`; a second call with the same arguments resumes.

    A batch and its augmentation are functions of (seed, step), and the state holds everything else,
    so a run that is killed and resumed repeats the same computation. On a CPU it ends in the same
    bits; on a GPU if its kernels are deterministic (`XLA_FLAGS=--xla_gpu_deterministic_ops=true`).

    Args:
        config: Config of the run.
        workdir: Folder that receives `config.json`, `environment.json`, `knees.json`,
            `statistics.json`, `coherence.npz` if the task has a mixture, `parameters.txt`,
            `metrics.jsonl`, TensorBoard events and `checkpoints/`.
        data_dir: Folder of prepared sets.

    Raises:
        UserError: A mistake that the user can mend, in one line.
    """
    run = set_up(config, workdir, data_dir)
    train_run(run, workdir, compile_functions(run))


def train_run(run: Run, workdir: Path, compiled: Compiled) -> None:
    """Train a run that has been set up, in its folder."""
    # ---- The steps ----
    config, task, batch_size = run.config, run.task, run.config.batch_size
    num_steps = math.ceil(config.epochs * run.steps_per_epoch)
    ends = epoch_ends(run)

    with contextlib.ExitStack() as stack:
        # ---- The state, and the folder ----
        checkpoints = stack.enter_context(Checkpoints(workdir / "checkpoints"))
        saved = checkpoints.latest_step() or 0
        state = begin(run, workdir, checkpoints, saved, compiled)
        best, start = checkpoints.best_score(), int(state.step)
        if saved:
            print(f"resuming at step {start} of {num_steps}")
        calls = split_into_calls(start, num_steps, ends, config)
        batches = stack.enter_context(
            contextlib.closing(
                run.subsets["train"].source.batches(
                    sampling.in_calls(run.sampler, calls), range(len(calls)), config.data.workers
                )
            )
        )
        stack.enter_context(folder.timed([workdir]))
        writer = stack.enter_context(ScalarWriter(workdir, start))
        progress = stack.enter_context(progress_bar(num_steps, start, batch_size))
        preemption = stack.enter_context(preemptions.watch())

        # ---- The loop ----
        since_log: list[tuple[Scalars, int]] = []
        clock = time.perf_counter()
        for steps, of_call in zip(calls, batches):
            state, scalars = compiled.train_steps(state, run.constants, of_call, len(steps))
            since_log.append((scalars, len(steps)))
            progress.update(len(steps) * batch_size)

            step = steps.stop
            validating = step in ends
            stopping = preemption.requested()
            saving = step % config.checkpoint_every == 0 or step == num_steps or stopping
            if not (validating or saving or step % config.log_every == 0):
                continue
            # Waits for the steps, which have only been launched.
            logged, since_log = join_steps(jax.device_get(since_log)), []
            rate = logged["loss"].shape[-1] * batch_size / (time.perf_counter() - clock)
            means = mean_of_finite(logged, step)
            writer.write(step, in_training(means | {"images_per_s": rate}))
            progress.set_postfix_str(f"loss {means['loss']:.3f}")

            score = None
            if validating:
                table = predict(run, compiled.predictor, state.variables, "validation")
                score = task.score(table)
                state = dataclasses.replace(state, validation_stats=task.validation_stats(table))
                writer.write(step, {f"validation/{task.score_name}": score})
                progress.set_postfix_str(f"loss {means['loss']:.3f}, validation {score:.3f}")
                if score >= best:
                    best, saving = score, True
            if saving:
                checkpoints.save(step, state, score)
            if stopping and step < num_steps:
                checkpoints.close()
                preemption.stop(step, num_steps)
            clock = time.perf_counter()


def epoch_ends(run: Run) -> set[int]:
    """Return the steps after which an epoch is complete."""
    return {math.ceil(n * run.steps_per_epoch) for n in range(1, run.config.epochs + 1)}


def split_into_calls(
    start: int, stop: int, epoch_ends: Collection[int], config: RunConfig
) -> list[range]:
    """Return the steps of each call, which ends where something is logged, validated or saved."""
    calls, step = [], start
    while step < stop:
        every = (config.log_every, config.checkpoint_every)
        ends = [step + config.steps_per_call, stop, *(n * (step // n + 1) for n in every)]
        end = min(ends)
        end = min((e for e in epoch_ends if step < e < end), default=end)
        calls.append(range(step, end))
        step = end
    return calls


def begin(
    run: Run, workdir: Path, checkpoints: Checkpoints, start: int, compiled: Compiled
) -> TrainState:
    """Return the state at step `start`, read or made; the folder then belongs to this run."""
    checkpoints.delete_after(start)
    if not start and (workdir / folder.CONFIG).exists() and jax.process_index() == 0:
        print("no sound checkpoint is there: training starts again at step 0")
    if start:
        like = jax.eval_shape(run.random_state)
        state = checkpoints.restore(start, like, run.mesh)
    else:
        state = initial_state(run, compiled)
    folder.write_config(workdir, run.config, run.files)
    if jax.process_index() == 0:
        write_json(workdir / "knees.json", run.flow)
        print(selection.describe(run.flow))
        for note in run.notes:
            print(f"note: {note}")
        overview = parameter_overview.get_parameter_overview(state.variables, include_stats=False)
        (workdir / "parameters.txt").write_text(overview + "\n", encoding="utf-8")
        print(f"{parameter_overview.count_parameters(state.params):,} parameters")
    return state


def initial_state(run: Run, compiled: Compiled) -> TrainState:
    """Return the state before the first step: random, with weights from a file, or a run's."""
    if run.config.continue_from:
        return continued.first_state(run)
    state = compiled.initial_state(run.constants)
    if source := run.config.init_from:
        model = run.config.model
        source = models.find_weights(model.name, model.options, str(Path(source).expanduser()))
        variables = models.load(model.name, state.variables, source)
        average = variables if state.average else {}
        state = dataclasses.replace(state, **variables, average=average)
    return mesh.place(state, mesh.of_state(run.mesh, state))


def progress_bar(num_steps: int, start: int, images_per_step: int) -> tqdm:
    """Make the bar that shows the progress of training, with rate and remaining time."""
    return tqdm(
        total=num_steps * images_per_step,
        initial=start * images_per_step,
        desc="training",
        unit="img",
        unit_scale=True,
        mininterval=1,
        disable=jax.process_index() > 0,
    )


def join_steps(calls: Sequence[tuple[Scalars, int]]) -> dict[str, np.ndarray]:
    """Join the scalars of the steps of several calls, [..., steps]."""
    return {
        name: np.concatenate([scalars[name][..., :number] for scalars, number in calls], axis=-1)
        for name in calls[0][0]
    }


def mean_of_finite(scalars: Mapping[str, np.ndarray], step: int) -> dict[str, float]:
    """Return the means over the steps since the last call.

    Args:
        scalars: Values by name, [steps].
        step: Last of the steps.

    Raises:
        UserError: A mean is not finite; nothing is saved after it.
    """
    means = {name: float(values.mean()) for name, values in scalars.items()}
    for name, value in means.items():
        if not math.isfinite(value):
            raise UserError(
                f"{name} is {value} between steps {step - len(scalars[name])} and {step}: training "
                "has diverged; lower config.optimizer.learning_rate, or look for bad images"
            )
    return means


def in_training(scalars: Mapping[str, float]) -> dict[str, float]:
    """Return scalars by the names under which they are logged."""
    return {f"train/{name}": value for name, value in scalars.items()}
