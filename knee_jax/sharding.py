"""The device mesh, and how state and batches lie on it.

Two axes. Along `data` parameters are replicated and batches are split; `jax.jit` inserts the
collectives, so a step reads the same on one device, on eight and on many processes. Along `member`
lie networks that are trained side by side (the folds of a cross-validation); a plain run has one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from knee_jax.errors import UserError


def make_mesh(members: int = 1) -> Mesh:
    """All devices, [members, devices of each], those of a process side by side.

    `jax.make_mesh` would order a TPU slice by its wiring; then the part of a batch that a process
    loads (`local_slice`) would not be the part that lies on its devices.
    """
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    grid = np.array(devices).reshape(members, -1)
    return Mesh(grid, ("member", "data"), axis_types=(AxisType.Auto, AxisType.Auto))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The leading (batch) axis divided over all devices."""
    return NamedSharding(mesh, PartitionSpec(("member", "data")))


def split_members(mesh: Mesh) -> NamedSharding:
    """For [members, batch, ...]: a member's part on its own devices, divided over them."""
    return NamedSharding(mesh, PartitionSpec("member", "data"))


def side_by_side(step: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Runs `step` for every member on its own devices; arguments and results are stacked.

    `jax.vmap` would make grouped convolutions of the members' convolutions; here each member's
    devices run the plain step, and batches are divided over them as in a plain run.
    """

    def of_one(*stacked: Any) -> Any:
        result = step(*jax.tree.map(lambda leaf: leaf[0], stacked))
        return jax.tree.map(lambda leaf: leaf[None], result)

    spec = PartitionSpec("member")
    return jax.shard_map(
        of_one, mesh=mesh, in_specs=spec, out_specs=spec, axis_names={"member"}, check_vma=False
    )


def stack(trees: Sequence[Any], mesh: Mesh) -> Any:
    """Pytrees of the members as one, a leading axis of members divided over the mesh."""
    stacked = NamedSharding(mesh, PartitionSpec("member"))
    return jax.jit(
        lambda *leaves: jax.tree.map(lambda *each: jnp.stack(each), *leaves), out_shardings=stacked
    )(*trees)


def check_batch_size(batch_size: int, name: str, members: int = 1) -> None:
    """Raises UserError when a batch cannot be divided evenly over a member's devices."""
    devices = jax.device_count() // members
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
