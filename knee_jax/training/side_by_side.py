"""Training of several runs, side by side if the devices have room, otherwise one after another.

Runs side by side differ only in their knees and constants: their states, constants and batches are
stacked, and each group of devices has its own (`data.mesh.side_by_side`). The folder of each is the
same as if it had been trained alone (`training.train`).
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from knee_jax.config.load import RunConfig
from knee_jax.data import mesh, sampling
from knee_jax.errors import UserError
from knee_jax.evaluation.predict import Predictor, predict
from knee_jax.training import preemption as preemptions
from knee_jax.training.run import Run, set_up
from knee_jax.training.step import Compiled, Scalars, bytes_of_one, compile_functions
from knee_jax.training.train import (
    begin,
    epoch_ends,
    in_training,
    join_steps,
    mean_of_finite,
    progress_bar,
    split_into_calls,
    train_run,
)
from knee_jax.training.writers import ScalarWriter
from knee_jax.workdir import folder
from knee_jax.workdir.checkpoint import Checkpoints

SHARE_OF_MEMORY = 0.8
"""Share of a device's memory that runs may fill by the compiler's estimate."""


def train_all(
    configs: Mapping[Path, RunConfig], data_dir: Path, at_once: int
) -> Iterator[tuple[Run, Path, Predictor]]:
    """Train runs that differ only in their knees and constants.

    Args:
        configs: Config of each folder.
        data_dir: Folder of prepared sets.
        at_once: Number of runs that are trained side by side; it divides their total number.

    Yields:
        Each run, its folder and its predictor, in the order of `configs`.
    """
    with contextlib.ExitStack() as stack:
        for workdir, config in configs.items():
            if config.continue_from:
                raise UserError("config.continue_from: runs are continued one by one")
            stack.enter_context(folder.lock(workdir))
            mesh.check_batch_size(config.batch_size, "batch_size", at_once)
            folder.check_same_config(workdir, config)
        compiled: Compiled | None = None
        last: Run | None = None
        folders = list(configs)
        for first in range(0, len(configs), at_once):
            chunk = folders[first : first + at_once]
            steps_per_epoch = last.steps_per_epoch if last else None
            # Of earlier runs only the last is kept: each may hold its knees on the devices.
            runs: list[Run] = []
            for workdir in chunk:
                last = set_up(configs[workdir], workdir, data_dir, at_once, last)
                runs.append(last)
            print(_describe(first, at_once, len(configs)))
            if compiled is None or steps_per_epoch != runs[0].steps_per_epoch:
                compiled = compile_functions(runs[0], at_once)
            if at_once == 1:
                train_run(runs[0], chunk[0], compiled)
            else:
                train_side_by_side(runs, chunk, compiled)
            yield from ((run, workdir, compiled.predictor) for run, workdir in zip(runs, chunk))


def train_side_by_side(runs: Sequence[Run], folders: Sequence[Path], compiled: Compiled) -> None:
    """Train several runs together, each in its folder, as `train.train_run` trains one."""
    first, count = runs[0], len(runs)
    config, batch_size = first.config, first.config.batch_size
    num_steps = math.ceil(config.epochs * first.steps_per_epoch)
    ends = epoch_ends(first)

    with contextlib.ExitStack() as stack:
        # A kill may fall between the saves of the runs, which then resume from the step before.
        checkpoints = [
            stack.enter_context(Checkpoints(d / "checkpoints", latest=3)) for d in folders
        ]
        start = max(set.intersection(*(each.steps() for each in checkpoints)), default=0)
        states = [
            begin(run, workdir, each, start, compiled)
            for run, workdir, each in zip(runs, folders, checkpoints)
        ]
        best = [each.best_score() for each in checkpoints]
        if start:
            print(f"resuming at step {start} of {num_steps}")
        state = mesh.stack(states, first.mesh)
        constants = mesh.stack([run.constants for run in runs], first.mesh)
        calls = split_into_calls(start, num_steps, ends, config)
        samplers = [sampling.in_calls(run.sampler, calls) for run in runs]
        batches = stack.enter_context(
            contextlib.closing(
                first.subsets["train"].source.batches(
                    lambda call: np.stack([sampler(call) for sampler in samplers]),
                    range(len(calls)),
                    config.data.workers,
                )
            )
        )
        stack.enter_context(folder.timed(folders))
        writers = [stack.enter_context(ScalarWriter(d, start)) for d in folders]
        progress = stack.enter_context(progress_bar(num_steps, start, batch_size * count))
        preemption = stack.enter_context(preemptions.watch())

        since_log: list[tuple[Scalars, int]] = []
        clock = time.perf_counter()
        for steps, of_call in zip(calls, batches):
            state, scalars = compiled.train_steps(state, constants, of_call, len(steps))
            since_log.append((scalars, len(steps)))
            progress.update(len(steps) * batch_size * count)

            step = steps.stop
            validating = step in ends
            stopping = preemption.requested()
            saving = step % config.checkpoint_every == 0 or step == num_steps or stopping
            if not (validating or saving or step % config.log_every == 0):
                continue
            logged, since_log = join_steps(jax.device_get(since_log)), []
            rate = logged["loss"].shape[-1] * batch_size / (time.perf_counter() - clock)
            for i, writer in enumerate(writers):
                means = mean_of_finite(_one_of(logged, i, first.mesh), step)
                writer.write(step, in_training(means | {"images_per_s": rate}))
                progress.set_postfix_str(f"loss {means['loss']:.3f}")

            scores: list[float | None] = [None] * count
            if validating:
                stats = []
                for i, (run, writer) in enumerate(zip(runs, writers)):
                    variables = _one_of(state, i, first.mesh).variables
                    table = predict(run, compiled.predictor, variables, "validation")
                    scores[i] = score = run.task.score(table)
                    stats.append(run.task.validation_stats(table))
                    writer.write(step, {f"validation/{run.task.score_name}": score})
                    if score >= best[i]:
                        best[i], saving = score, True
                state = dataclasses.replace(state, validation_stats=mesh.stack(stats, first.mesh))
            if saving:
                for i, each in enumerate(checkpoints):
                    each.save(step, _one_of(state, i, first.mesh), scores[i])
            if stopping and step < num_steps:
                for each in checkpoints:
                    each.close()
                preemption.stop(step, num_steps)
            clock = time.perf_counter()


def max_at_once(run: Run, count: int) -> int:
    """Return how many of `count` runs like this one fit side by side; a divisor of `count`.

    On several processes, and where devices share a run's state, it is one. On a CPU it is one per
    group of devices: several in a group would take as long as one after another. Elsewhere it is as
    many as fit in the devices' memory.
    """
    if jax.process_count() > 1 or run.config.fsdp > 1:
        return 1
    groups = math.gcd(count, jax.device_count())
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    if jax.default_backend() == "cpu" or not limit:
        return groups
    room = SHARE_OF_MEMORY * limit - run.subsets["train"].shared.bytes_on_device
    together = max(1, int(room // bytes_of_one(run)))
    return groups * max(n for n in range(1, together + 1) if (count // groups) % n == 0)


def _one_of(tree: Any, index: int, devices: jax.sharding.Mesh) -> Any:
    """Return the part of one run; device arrays come replicated."""
    replicated = mesh.replicated(devices)
    return jax.tree.map(
        lambda x: x[index] if isinstance(x, np.ndarray) else jax.device_put(x[index], replicated),
        tree,
    )


def _describe(first: int, at_once: int, count: int) -> str:
    """Describe which of the runs come now."""
    if at_once == 1:
        return f"run {first + 1} of {count}"
    which = f"runs {first + 1} to {first + at_once} of {count}"
    return f"{which} together on {jax.device_count()} devices"
