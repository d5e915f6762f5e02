"""Dry run: what a config asks of devices, by its compiled step, before any data is touched.

The step is that of training (`training.step`), traced in the forms that suit the platform. For TPUs
it is really compiled: the package `libtpu` describes their topologies and compiles for them without
a chip. For `cuda` it is lowered only, since its compiler wants a card.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from knee_jax import models, targets
from knee_jax.config.load import RunConfig
from knee_jax.data import mesh as meshes
from knee_jax.data.preprocessing import Intensities, Preprocessing
from knee_jax.errors import UserError
from knee_jax.evaluation.predict import make_predictor
from knee_jax.landmarks import NUM_LANDMARKS
from knee_jax.metrics.grade_coherence import CLASSES, Mixture
from knee_jax.models.layers import tracing_for
from knee_jax.models.precision import compute_dtype
from knee_jax.targets.kinds import Classes
from knee_jax.training import hlo
from knee_jax.training import state as states
from knee_jax.training.run import Run, StepConstants
from knee_jax.training.step import make_train_steps
from knee_jax.training.topologies import CHIPS, Chip, Topology

KNEES = 10_000
"""Training knees that a planned run is taken to have; only its schedule depends on them."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """Numbers of a compiled or lowered program, for one device.

    Attributes:
        flops: Floating-point operations of a step or batch.
        traffic: Bytes that its operations read from memory and write (`hlo.traffic`); None if not
            compiled.
        arguments: Bytes of state, constants and batch; None if not compiled.
        temporary: Bytes of intermediate results; None if not compiled.
        collectives: Collectives by kind; None if not compiled.
    """

    flops: float
    traffic: int | None = None
    arguments: int | None = None
    temporary: int | None = None
    collectives: Mapping[str, hlo.Collective] | None = None

    @property
    def memory(self) -> int | None:
        """Bytes of memory that the program needs; None if not compiled."""
        if self.arguments is None or self.temporary is None:
            return None
        return self.arguments + self.temporary

    def seconds(self, chip: Chip, count: int) -> dict[str, float]:
        """Return the least time of each resource (Williams et al. 2009): the longest is the bound.

        A ring moves the bytes of an all-reduce twice over a chip's links. Of a program that is not
        compiled, only the arithmetic is known.
        """
        found = {"arithmetic": self.flops / chip.flops}
        if self.traffic is None or self.collectives is None:
            return found
        moved = sum(each.bytes for each in self.collectives.values())
        return found | {
            "memory": self.traffic / chip.bandwidth,
            "links": 2 * moved * (count - 1) / count / chip.links,
        }


def plan(config: RunConfig, pixels: tuple[int, ...], of: Topology) -> Run:
    """Return a run without knees, which can be traced but not trained.

    Args:
        config: Config of the run.
        pixels: Shape of a prepared knee: height and width, or rows, columns and slices.
        of: Devices.
    """
    predicted = targets.get_all(config.targets)
    for size, name in ((config.batch_size, ""), (config.evaluation.batch_size, "evaluation.")):
        if size % of.number:
            raise UserError(
                f"config.{name}batch_size = {size} does not divide over {of.number} devices"
            )
    if of.number % config.fsdp:
        raise UserError(f"config.fsdp = {config.fsdp} does not divide the {of.number} devices")
    components = 8
    mixture = Mixture(
        np.full(components, 1 / components),
        np.zeros((components, sum(CLASSES))),
        np.stack([np.eye(sum(CLASSES))] * components),
    )
    counts = {t.name: [KNEES] * t.num_outputs for t in predicted if isinstance(t, Classes)}
    task = config.task.make(predicted, counts, {}, config.seed, mixture)
    steps_per_epoch = KNEES / config.batch_size
    return Run(
        config=config,
        targets=predicted,
        mesh=meshes.make_mesh(1, config.fsdp if len(of.devices) > 1 else 1, of.devices),
        subsets={},
        flow={},
        knees=None,  # type: ignore[arg-type]
        notes=(),
        damaged=(),
        statistics=None,  # type: ignore[arg-type]
        constants=StepConstants(
            seed=np.asarray(config.seed, np.uint32),
            intensities=Intensities.of(0.5, 0.25),
            task=task,
        ),
        preprocessing=Preprocessing(config.augmentation, config.input),
        model=models.create(
            config.model.name,
            targets=config.targets,
            dtype=compute_dtype(config.dtype),
            **config.model.options,
        ),
        sampler=lambda step: np.zeros(config.batch_size, np.int64),
        steps_per_epoch=steps_per_epoch,
        optimizer=states.make_optimizer(config.optimizer, steps_per_epoch, config.epochs),
    )


def batch_of(run: Run, pixels: tuple[int, ...], leading: tuple[int, ...]) -> dict[str, Any]:
    """Return the shapes of a batch, divided over the devices of a run.

    Args:
        run: The run.
        pixels: Shape of a prepared knee.
        leading: Axes of the batch: knees, or steps and knees.
    """
    sharding = meshes.batches(run.mesh, len(leading))

    def array(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*leading, *shape), dtype, sharding=sharding)

    batch: dict[str, Any] = {
        "labels": {target.name: array((), target.dtype) for target in run.targets},
        "row": array((), jnp.int32),
        "mask": array((), bool),
    }
    if len(pixels) == 3:
        return batch | {"volume": array(pixels, jnp.uint8)}
    return batch | {
        "image": array(pixels, jnp.uint8),
        "keypoints": array((NUM_LANDMARKS, 2), jnp.float32),
        "keypoints_valid": array((), bool),
    }


def state_of(run: Run) -> Any:
    """Return the shapes of a run's state, placed on its devices."""
    shapes = jax.eval_shape(run.random_state)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        meshes.of_state(run.mesh, shapes),
    )


def lower_training(run: Run, pixels: tuple[int, ...], *platforms: str) -> Any:
    """Lower the training step of a run for platforms, in the forms that suit the first."""
    with tracing_for(platforms[0]):
        batch = batch_of(run, pixels, (1, run.config.batch_size))
        traced = make_train_steps(run).trace(state_of(run), run.constants, batch, 1)
        return traced.lower(lowering_platforms=platforms)


def lower_inference(run: Run, pixels: tuple[int, ...], *platforms: str) -> Any:
    """Lower the prediction of a batch in the same way."""
    with tracing_for(platforms[0]):
        batch = batch_of(run, pixels, (run.config.evaluation.batch_size,))
        predictor: Any = make_predictor(run)
        traced = predictor.trace(state_of(run).variables, run.constants, batch)
        return traced.lower(lowering_platforms=platforms)


def measure(lowered: Any, of: Topology) -> Measured:
    """Count what a lowered program asks of each device; compile it first, but for `cuda`."""
    if of.platform == "cuda":
        return Measured((lowered.cost_analysis() or {}).get("flops", math.nan) / of.number)
    compiled = lowered.compile()
    sizes, text = compiled.memory_analysis(), compiled.as_text()
    return Measured(
        flops=(compiled.cost_analysis() or {}).get("flops", math.nan),
        traffic=hlo.traffic(text),
        arguments=sizes.argument_size_in_bytes
        + sizes.output_size_in_bytes
        - sizes.alias_size_in_bytes,
        temporary=sizes.temp_size_in_bytes,
        collectives=hlo.collectives(text),
    )


def bytes_of_state(run: Run, number: int) -> int:
    """Return the bytes of a run's state on each of some devices, also where they are not there."""
    fsdp = run.config.fsdp
    devices = jax.sharding.AbstractMesh((1, number // fsdp, fsdp), meshes.EVERY)
    shapes = jax.eval_shape(run.random_state)
    shardings = jax.tree.leaves(meshes.of_state(devices, shapes))
    return sum(
        math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf, sharding in zip(jax.tree.leaves(shapes), shardings, strict=True)
    )


def bytes_of(tree: Any) -> int:
    """Return the bytes that arrays, or their shapes, take on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def unexpected(run: Run, found: Mapping[str, hlo.Collective]) -> list[str]:
    """Return what a training step communicates beyond its gradients and batch statistics.

    Gradients have the size of the parameters; batch statistics are a mean and a variance forward
    and two sums backward, for which twice the running statistics is twice their size; a few numbers
    more are the loss and its parts. With `config.fsdp` parameters are gathered as well.
    """
    state = jax.eval_shape(run.random_state)
    parameters = sum(leaf.size * 4 for leaf in jax.tree.leaves(state.params))
    statistics = sum(leaf.size * 4 for leaf in jax.tree.leaves(state.batch_stats))
    numbers = 4 * run.config.batch_size * sum(t.num_outputs for t in run.targets) + 2**16
    kinds = {"all-reduce"}
    if run.config.fsdp > 1:
        kinds |= {"all-gather", "reduce-scatter", "all-to-all", "collective-permute"}
    most = parameters + 4 * statistics + numbers
    faults = [
        f"{each.number} {kind} of {each.bytes:,} bytes"
        for kind, each in found.items()
        if kind not in kinds
    ]
    reduced = found.get("all-reduce", hlo.Collective(0, 0)).bytes
    if reduced > most:
        faults.append(
            f"all-reduce of {reduced:,} bytes, where gradients and batch statistics are {most:,}"
        )
    return faults


def numbers(
    run: Run, pixels: tuple[int, ...], of: Topology, *, inference: bool = True
) -> dict[str, Any]:
    """Return all that is told of a planned run, ready for JSON; numbers are of one device.

    Args:
        run: Planned run (`plan`).
        pixels: Shape of a prepared knee.
        of: Devices that it was planned for.
        inference: Whether the prediction of a batch is looked at as well.
    """
    with tracing_for(of.platform):
        state = state_of(run)
    programs = {"training": (lower_training, run.config.batch_size)}
    if inference:
        programs["inference"] = (lower_inference, run.config.evaluation.batch_size)
    found: dict[str, Any] = {
        "network": run.config.model.name,
        "input": list(run.preprocessing.input_shape),
        "computes_in": str(jnp.dtype(run.model.dtype)),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "state_bytes": bytes_of_state(run, of.number),
        "platform": of.platform,
        "chip": of.chip,
        "devices": of.number,
        "fsdp": run.config.fsdp,
    }
    for name, (lower, batch_size) in programs.items():
        of_program = measure(lower(run, pixels, of.platform), of)
        described: dict[str, Any] = {
            "knees": batch_size // of.number,
            "flops": of_program.flops,
            "traffic_bytes": of_program.traffic,
            "memory_bytes": of_program.memory,
        }
        if of_program.collectives is not None:
            described["collectives"] = {
                kind: each._asdict() for kind, each in of_program.collectives.items()
            }
            if name == "training":
                described["unexpected"] = unexpected(run, of_program.collectives)
        if of.chip:
            chip = CHIPS[of.chip]
            seconds = of_program.seconds(chip, of.number)
            described["seconds"] = seconds
            if of_program.memory is not None:
                described["bound_by"] = max(seconds, key=lambda resource: seconds[resource])
                described["fits"] = of_program.memory < chip.memory
        found[name] = described
    return found


def text(found: Mapping[str, Any]) -> str:
    """Return the numbers of a dry run in words."""
    where = " ".join(filter(None, (found["chip"], found["platform"])))
    lines = [
        f"{found['network']} for {found['devices']} x {where}, in {found['computes_in']}; input "
        f"{' x '.join(map(str, found['input']))}",
        f"{found['parameters']:,} parameters; {_size(found['state_bytes'])} of state a device",
    ]
    for name in ("training", "inference"):
        if name not in found:
            continue
        of = found[name]
        lines += ["", f"{name}: {of['knees']} knees a device"]
        if of["memory_bytes"] is None:
            lines.append(
                f"  {of['flops'] / 1e9:,.1f} GFLOP; lowered, not compiled: no more is known"
            )
        else:
            fits = {True: ", which fits", False: ", which does NOT fit"}.get(of.get("fits"), "")
            lines += [
                f"  {of['flops'] / 1e9:,.1f} GFLOP, {_size(of['traffic_bytes'])} read and written, "
                f"{of['flops'] / of['traffic_bytes']:.1f} FLOP a byte",
                f"  {_size(of['memory_bytes'])} of memory{fits}",
            ]
        for kind, each in of.get("collectives", {}).items():
            lines.append(f"  {each['number']} {kind} of {_size(each['bytes'])} together")
        lines += [f"  NOT EXPECTED: {fault}" for fault in of.get("unexpected", ())]
        if "seconds" in of:
            parts = ", ".join(f"{key} {1e3 * s:.2f} ms" for key, s in of["seconds"].items())
            bound = f": {of['bound_by']} bounds it" if "bound_by" in of else ""
            lines.append(f"  at the peak rates of {found['chip']}: {parts}{bound}")
    return "\n".join(lines)


def _size(number: float) -> str:
    """Return bytes in words."""
    return f"{number / 1e9:,.2f} GB" if number >= 1e8 else f"{number / 1e6:,.2f} MB"
