"""The device mesh, and how state and batches lie on it.

One axis, `data`: parameters are replicated, batches are split. `jax.jit` inserts the collectives,
so a step reads the same on one device, on eight and on many processes.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from knee_jax.errors import UserError


def make_mesh() -> Mesh:
    """All devices along the axis `data`, those of a process side by side.

    `jax.make_mesh` would order a TPU slice by its wiring; then the part of a batch that a process
    loads (`local_slice`) would not be the part that lies on its devices.
    """
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The leading (batch) axis divided over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def check_batch_size(batch_size: int, name: str) -> None:
    """Raises UserError when a batch cannot be divided evenly over the devices."""
    if batch_size < 1 or batch_size % jax.device_count():
        raise UserError(
            f"config.{name} = {batch_size} does not divide over {jax.device_count()} devices: "
            f"choose a multiple of {jax.device_count()}"
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
