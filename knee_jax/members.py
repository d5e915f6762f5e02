"""Several runs that are trained together where the devices have room, else one after another."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections

from knee_jax import train
from knee_jax import workdir as workdirs
from knee_jax.evaluate import Predictor
from knee_jax.experiment import Experiment, set_up

SHARE_OF_MEMORY = 0.8
"""Of a device's memory, that members may fill by the compiler's own account."""


def trained(
    runs: Mapping[Path, ml_collections.ConfigDict], data_dir: Path, at_once: int
) -> Iterator[tuple[Experiment, Path, Predictor]]:
    """Trains runs that differ in their knees and facts only (`experiment.Facts`).

    Args:
        runs: folder → config.
        data_dir: where prepared sets are.
        at_once: how many are trained together; it divides their number.

    Yields:
        Each run's experiment, its folder, and what predicts; in the order of the runs.
    """
    with contextlib.ExitStack() as stack:
        for folder, config in runs.items():
            stack.enter_context(workdirs.hold(folder))
            train.check(config, at_once)
            workdirs.refuse_other(folder, config)
        compiled: train.Compiled | None = None
        like: Experiment | None = None
        folders = list(runs)
        for first in range(0, len(runs), at_once):
            chunk = folders[first : first + at_once]
            epoch = like.steps_per_epoch if like else None
            # Of earlier runs only the last is kept: each may hold its knees on the devices.
            experiments: list[Experiment] = []
            for folder in chunk:
                like = set_up(runs[folder], folder, data_dir, at_once, like)
                experiments.append(like)
            print(describe(first, at_once, len(runs)))
            if epoch != experiments[0].steps_per_epoch:
                compiled = None
            compiled = train.run(experiments, chunk, compiled)
            yield from ((e, d, compiled.predictor) for e, d in zip(experiments, chunk))


def describe(first: int, at_once: int, count: int) -> str:
    """Which of the runs come now."""
    if at_once == 1:
        return f"run {first + 1} of {count}"
    which = f"runs {first + 1} to {first + at_once} of {count}"
    return f"{which} together on {jax.device_count()} devices"


def fitting(experiment: Experiment, count: int) -> int:
    """How many of `count` runs like this one can be trained together; a divisor of `count`.

    On a CPU, and on several processes, one for each group of devices: several in a group would
    take as long as one after another. Elsewhere as many as the devices' memory holds.
    """
    if jax.process_count() > 1:
        return 1
    groups = math.gcd(count, jax.device_count())
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    if jax.default_backend() == "cpu" or not limit:
        return groups
    room = SHARE_OF_MEMORY * limit - experiment.parts["train"].knees.bytes_on_device
    together = max(1, int(room // bytes_of_one(experiment)))
    return groups * max(n for n in range(1, together + 1) if (count // groups) % n == 0)


def bytes_of_one(experiment: Experiment) -> int:
    """Memory that the training of one run takes on a device, by the compiler's account."""
    state = jax.eval_shape(experiment.random_state)
    number = experiment.config.steps_per_call
    rows = jnp.stack([jnp.asarray(experiment.plan(0))] * number)
    knee = experiment.parts["train"].prepared.load(experiment.parts["train"].rows[:1])
    batches = {
        name: jax.ShapeDtypeStruct((*rows.shape, *array.shape[1:]), array.dtype)
        for name, array in knee.items()
    }
    batches |= {
        "row": jax.ShapeDtypeStruct(rows.shape, jnp.int32),
        "mask": jax.ShapeDtypeStruct(rows.shape, bool),
    }
    steps = train.make_train_steps(experiment)
    sizes = steps.lower(state, experiment.facts, batches, number).compile().memory_analysis()
    return (
        sizes.argument_size_in_bytes
        + sizes.output_size_in_bytes
        - sizes.alias_size_in_bytes
        + sizes.temp_size_in_bytes
    )
