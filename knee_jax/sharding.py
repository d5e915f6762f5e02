"""The device mesh, and how state and batches lie on it.

Two axes. Along `data` parameters are replicated and batches are split; `jax.jit` inserts the
collectives, so a step reads the same on one device, on eight and on many processes. Along `member`
lie networks that are trained side by side (the folds of a cross-validation, the seeds of a sweep);
a plain run has one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from knee_jax.errors import UserError


def make_mesh(members: int = 1) -> Mesh:
    """All devices, [member groups, devices of each], those of a process side by side.

    `jax.make_mesh` would order a TPU slice by its wiring; then the part of a batch that a process
    loads (`local_slice`) would not be the part that lies on its devices.

    Args:
        members: networks that are trained together. The devices are divided into as many groups as
            divide both; where there are fewer groups than members, a group trains several.
    """
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    grid = np.array(devices).reshape(math.gcd(members, len(devices)), -1)
    return Mesh(grid, ("member", "data"), axis_types=(AxisType.Auto, AxisType.Auto))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batches(mesh: Mesh, ndim: int) -> NamedSharding:
    """Of [batch], of several steps [steps, batch], or of members [members, steps, batch].

    A member's part lies on its own devices, divided over them.
    """
    axes = {1: (("member", "data"),), 2: (None, ("member", "data")), 3: ("member", None, "data")}
    return NamedSharding(mesh, PartitionSpec(*axes[ndim]))


def side_by_side(steps: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Runs `steps` for every member; all arguments but the last, and all results, are stacked.

    Each group of devices runs its own members. With one member in each it runs the plain steps,
    without `jax.vmap`, which would make grouped convolutions of the members' convolutions.
    """

    def of_some(*arguments: Any) -> Any:
        *stacked, shared = arguments
        if len(jax.tree.leaves(stacked)[0]) > 1:
            return jax.vmap(steps, (*len(stacked) * (0,), None))(*stacked, shared)
        result = steps(*jax.tree.map(lambda leaf: leaf[0], stacked), shared)
        return jax.tree.map(lambda leaf: leaf[None], result)

    member = PartitionSpec("member")
    return jax.shard_map(
        of_some,
        mesh=mesh,
        in_specs=(member, member, member, PartitionSpec()),
        out_specs=member,
        axis_names={"member"},
        check_vma=False,
    )


def stack(trees: Sequence[Any], mesh: Mesh) -> Any:
    """Pytrees of the members as one, a leading axis of members divided over the mesh."""
    stacked = NamedSharding(mesh, PartitionSpec("member"))
    return jax.jit(
        lambda *leaves: jax.tree.map(lambda *each: jnp.stack(each), *leaves), out_shardings=stacked
    )(*trees)


def check_batch_size(batch_size: int, name: str, members: int = 1) -> None:
    """Raises UserError when a batch cannot be divided evenly over a member's devices."""
    devices = jax.device_count() // math.gcd(members, jax.device_count())
    if batch_size < 1 or batch_size % devices:
        raise UserError(
            f"config.{name} = {batch_size} does not divide over {devices} devices: "
            f"choose a multiple of {devices}"
        )


def local_slice(batch_size: int) -> slice:
    """The contiguous part of a global batch that this process loads."""
    size = batch_size // jax.process_count()
    return slice(jax.process_index() * size, (jax.process_index() + 1) * size)


def to_global(local: Mapping[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """Process-local host arrays as global device arrays."""
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in local.items()
    }


def place(tree: Any, sharding: NamedSharding) -> Any:
    """Puts a pytree that is equal on every process on the devices."""
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), tree
    )


def agreed(value: int) -> int:
    """The first process' value, on all of them: what each finds on its own machine may differ."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))
