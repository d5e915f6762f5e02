"""Chips and their topologies, by name, whether or not this machine has any."""

import os
from typing import NamedTuple

import jax

from knee_jax.errors import UserError


class Chip(NamedTuple):
    """Public peak rates of a chip.

    Attributes:
        flops: Multiplications and additions a second, bfloat16, dense.
        bandwidth: Bytes a second from and to its memory.
        memory: Bytes of memory.
        links: Bytes a second to other chips, all links of a chip together, one way.
    """

    flops: float
    bandwidth: float
    memory: float
    links: float


CHIPS = {
    "v4": Chip(275e12, 1228e9, 32e9, 150e9),
    "v5e": Chip(197e12, 819e9, 16e9, 100e9),
    "v5p": Chip(459e12, 2765e9, 95e9, 300e9),
    "v6e": Chip(918e12, 1640e9, 32e9, 224e9),
    "h100": Chip(989e12, 3350e9, 80e9, 450e9),
    "h200": Chip(989e12, 4800e9, 141e9, 450e9),
}
"""Name → peak rates, from the pages of Cloud TPU and the data sheets of NVIDIA."""


class Topology(NamedTuple):
    """Devices that a program is made for.

    Attributes:
        platform: 'cpu', 'cuda' or 'tpu'.
        chip: Key of `CHIPS`; '' for a CPU.
        devices: Descriptions of the devices; of `cuda`, CPU devices that stand for one card.
        number: Number of devices.
    """

    platform: str
    chip: str
    devices: tuple[jax.Device, ...]
    number: int


def of(name: str) -> Topology:
    """Describe devices by name: 'v5e:2x4', 'v5p:2x2x1', 'cuda', 'cuda:8', 'cpu', 'cpu:8'.

    Raises:
        UserError: There is no such topology, or what describes it is not installed.
    """
    kind, _, shape = name.partition(":")
    if kind in ("cpu", "cuda", *(chip for chip in CHIPS if chip.startswith("h"))):
        count = int(shape) if shape.isdecimal() else 1
        if shape and not (shape.isdecimal() and count):
            raise UserError(f"--topology={name}: a number of devices follows the colon")
        if kind != "cpu":
            chip = "h200" if kind == "cuda" else kind
            return Topology("cuda", chip, tuple(jax.devices("cpu")[:1]), count)
        devices = jax.devices("cpu")
        if len(devices) < count:
            raise UserError(
                f"--topology={name}: this machine shows {len(devices)} CPU devices; "
                f"XLA_FLAGS=--xla_force_host_platform_device_count={count} makes it show {count}"
            )
        return Topology("cpu", "", tuple(devices[:count]), count)
    if kind not in CHIPS:
        raise UserError(
            f"--topology={name}: cpu, cuda, or one of {', '.join(CHIPS)}; of TPUs with the shape "
            "of the slice, as v5e:2x4"
        )
    return _of_tpus(name, kind)


def _of_tpus(name: str, chip: str) -> Topology:
    from jax.experimental import topologies

    # Otherwise it asks the network for a TPU of this machine.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    try:
        devices = tuple(topologies.get_topology_desc(name, "tpu").devices)
    except Exception as error:
        # It raises whatever its plug-in does.
        try:
            import libtpu  # noqa: F401
        except ImportError:
            raise UserError(
                f"--topology={name} needs the package libtpu, which compiles for TPUs without one: "
                "pip install 'knee_jax[tpu]', or choose --topology=cuda or cpu"
            ) from error
        raise UserError(
            f"--topology={name} is none that libtpu knows ({str(error).splitlines()[0]}): name a "
            "slice of whole hosts, as v5e:2x4 or v5p:2x2x1"
        ) from error
    return Topology("tpu", chip, devices, len(devices))
