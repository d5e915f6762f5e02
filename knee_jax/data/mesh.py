"""Device mesh, and the placement of state and batches on it.

The mesh has three axes. Along `data`, parameters are replicated and batches are split; `jax.jit`
inserts the collectives, so a step reads the same on one device, on eight and on many processes.
Along `fsdp` batches are split too, and so are the parameters and the optimiser's state, which are
gathered layer by layer where they are needed (`config.fsdp`). Along `run` lie runs that are trained
side by side (the folds of a cross-validation, the seeds of a sweep).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from knee_jax.errors import UserError

EVERY = ("run", "data", "fsdp")
"""Axes of the mesh."""

WORTH_SPLITTING = 2**12
"""Elements below which an array is kept whole on every device."""


def make_mesh(runs: int = 1, fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arrange devices as [groups of runs, data, fsdp], those of a process being adjacent.

    `jax.make_mesh` would order a TPU slice by its wiring; the part of a batch that a process loads
    (`local_slice`) would then not be the part that lies on its devices.

    Args:
        runs: Number of runs that are trained together. The number of groups is the greatest common
            divisor of it and the number of devices; with fewer groups than runs, a group trains
            several.
        fsdp: Number of devices that share one copy of the state.
        devices: Devices; all that there are if None.

    Raises:
        UserError: The devices cannot be divided so.
    """
    found = jax.devices() if devices is None else devices
    ordered = sorted(found, key=lambda device: (device.process_index, device.id))
    groups = math.gcd(runs, len(ordered))
    if runs > 1 and fsdp > 1:
        raise UserError(
            f"config.fsdp = {fsdp}: runs side by side have a state on each device; set it to 1, or "
            "config.sweep.at_once to 1"
        )
    if len(ordered) // groups % fsdp:
        raise UserError(
            f"config.fsdp = {fsdp} does not divide the {len(ordered) // groups} devices of a run"
        )
    grid = np.array(ordered).reshape(groups, -1, fsdp)
    return Mesh(grid, EVERY, axis_types=(AxisType.Auto,) * len(EVERY))


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Return the sharding of an array that is the same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def of_state(mesh: Mesh | AbstractMesh, tree: Any) -> Any:
    """Return the shardings of a train state, or of a part of it, as a pytree.

    An array is divided along its largest axis that the axis `fsdp` divides; small ones are not.
    """

    def of_leaf(leaf: Any) -> NamedSharding:
        shape, number = np.shape(leaf), mesh.shape["fsdp"]
        axes = [axis for axis, size in enumerate(shape) if size % number == 0]
        if number == 1 or not axes or math.prod(shape) < WORTH_SPLITTING:
            return replicated(mesh)
        axis = max(axes, key=lambda axis: shape[axis])
        return NamedSharding(mesh, PartitionSpec(*axis * [None], "fsdp"))

    return jax.tree.map(of_leaf, tree)


def gathered(mesh: Mesh, tree: Any) -> Any:
    """Return arrays of a compiled function whole on every device, where devices share them.

    Without it XLA would divide some layers' arithmetic as the parameters are, and add up images.
    """
    if mesh.shape["fsdp"] == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, replicated(mesh))


def batches(mesh: Mesh, ndim: int) -> NamedSharding:
    """Return the sharding of [batch], [steps, batch] or [runs, steps, batch].

    The part of each run lies on its own devices, divided over them.
    """
    axes = {1: (EVERY,), 2: (None, EVERY), 3: ("run", None, EVERY[1:])}
    return NamedSharding(mesh, PartitionSpec(*axes[ndim]))


def side_by_side(steps: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Run `steps` for every run; all arguments except the last, and all results, are stacked.

    Each group of devices has its own runs. With one run per group it computes the plain steps,
    without `jax.vmap`, which would turn convolutions into grouped convolutions.
    """

    def of_group(*arguments: Any) -> Any:
        *stacked, shared = arguments
        if len(jax.tree.leaves(stacked)[0]) > 1:
            return jax.vmap(steps, (*len(stacked) * (0,), None))(*stacked, shared)
        result = steps(*jax.tree.map(lambda leaf: leaf[0], stacked), shared)
        return jax.tree.map(lambda leaf: leaf[None], result)

    run = PartitionSpec("run")
    return jax.shard_map(
        of_group,
        mesh=mesh,
        in_specs=(run, run, run, PartitionSpec()),
        out_specs=run,
        axis_names={"run"},
        check_vma=False,
    )


def stack(trees: Sequence[Any], mesh: Mesh) -> Any:
    """Stack the pytrees of several runs along a new leading axis, divided over the mesh."""
    stacked = NamedSharding(mesh, PartitionSpec("run"))
    return jax.jit(
        lambda *leaves: jax.tree.map(lambda *each: jnp.stack(each), *leaves), out_shardings=stacked
    )(*trees)


def check_batch_size(batch_size: int, name: str, runs: int = 1) -> None:
    """Raise UserError if a batch cannot be divided evenly over the devices of a run."""
    devices = jax.device_count() // math.gcd(runs, jax.device_count())
    if batch_size < 1 or batch_size % devices:
        raise UserError(
            f"config.{name} = {batch_size} does not divide over {devices} devices: "
            f"choose a multiple of {devices}"
        )


def local_slice(batch_size: int) -> slice:
    """Return the contiguous part of a global batch that this process loads."""
    size = batch_size // jax.process_count()
    return slice(jax.process_index() * size, (jax.process_index() + 1) * size)


def to_global(local: Any, sharding: NamedSharding) -> Any:
    """Return a pytree of process-local host arrays as global device arrays."""
    return jax.tree.map(
        lambda array: jax.make_array_from_process_local_data(sharding, array), local
    )


def place(tree: Any, shardings: Any) -> Any:
    """Place a pytree that is equal on every process on the devices.

    Args:
        tree: Arrays, each of them whole.
        shardings: One sharding for all, or a pytree of them.
    """

    def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    if isinstance(shardings, NamedSharding):
        return jax.tree.map(lambda leaf: put(leaf, shardings), tree)
    return jax.tree.map(put, tree, shardings)


def wait_for_all(what: str) -> None:
    """Wait until every process of the run has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def agreed(value: int) -> int:
    """Return the first process' value on all processes, where each machine may find another."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))
