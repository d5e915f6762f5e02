"""Device batches of a prepared set, resident or streamed; both give identical bits.

A batch is a dict of global device arrays:
    image: uint8 [batch, height, width], of films
    keypoints: float32 [batch, 74, 2], x and y in pixels, the first pixel's centre at 0.5; of films
    keypoints_valid: bool [batch]; of films
    volume: uint8 [batch, rows, columns, slices], of MR series
    labels: {target: [batch]}, of the run's targets, missing where a knee has none
    row: int32 [batch], the knee's row in the index, -1 where the batch is filled up
    mask: bool [batch], False where the batch is filled up

Samplers of several steps or several runs (`sampling.Sampler`) add leading axes to each array.
"""

import os
import shutil
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any, Protocol

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from knee_jax.data import mesh as meshes
from knee_jax.data.prepared import PreparedSet
from knee_jax.data.sampling import PADDING, Sampler
from knee_jax.errors import UserError
from knee_jax.processes import end_with_parent

Batch = dict[str, Any]


class Source(Protocol):
    """Source that makes the batches of a sampler."""

    def batches(self, sampler: Sampler, steps: range, workers: int = 0) -> Generator[Batch]:
        """Yield the batches of `steps`, in order.

        Args:
            sampler: Function from a step to rows of the index.
            steps: Steps to make batches for.
            workers: Number of processes that read from disk; 0 reads in threads of this process,
                and starts faster. The batches do not depend on it.
        """


class Resident:
    """Source that keeps the chosen knees on every device and gathers batches there.

    Args:
        prepared: Prepared set.
        rows: All rows that a sampler may request, int64 [n].
        mesh: Mesh to place them on.
    """

    def __init__(self, prepared: PreparedSet, rows: np.ndarray, mesh: Mesh):
        self._rows, self._mesh = np.unique(rows), mesh
        self._knees = meshes.place(prepared.load(self._rows), meshes.replicated(mesh))

    def batches(self, sampler: Sampler, steps: range, workers: int = 0) -> Generator[Batch]:
        """Yield the batches of `steps`, in order."""
        batch_sharding = meshes.batches(self._mesh, sampler(steps.start).ndim)
        gather = jax.jit(_gather, out_shardings=batch_sharding)
        for step in steps:
            local = _local(sampler(step))
            slot = np.searchsorted(self._rows, np.where(local == PADDING, self._rows[0], local))
            chosen = {"row": local.astype(np.int32), "slot": slot.astype(np.int32)}
            yield gather(self._knees, meshes.to_global(chosen, batch_sharding))


def _gather(knees: Batch, chosen: Batch) -> Batch:
    batch = jax.tree.map(lambda array: jnp.take(array, chosen["slot"], axis=0), knees)
    return batch | {"row": chosen["row"], "mask": chosen["row"] != PADDING}


class Streamed:
    """Source that reads knees from disk by Grain, ahead of the step that needs them.

    Args:
        prepared: Prepared set.
        mesh: Mesh that batches go to.
    """

    def __init__(self, prepared: PreparedSet, mesh: Mesh):
        self._prepared, self._mesh = prepared, mesh

    def batches(self, sampler: Sampler, steps: range, workers: int = 0) -> Generator[Batch]:
        """Yield the batches of `steps`, in order."""
        prepared = self._prepared
        batch_sharding = meshes.batches(self._mesh, sampler(steps.start).ndim)
        stream = (
            grain.MapDataset.range(steps.start, steps.stop)
            .map(lambda step: prepared.load_batch(_local(sampler(step))))
            .to_iter_dataset(grain.ReadOptions(num_threads=4, prefetch_buffer_size=8))
        )
        if workers:
            # Batches that are ready when a run is stopped are cleaned up there, with a warning.
            sys.warnoptions.append("ignore:resource_tracker")
            _require_shared_memory(workers, prepared.bytes_per_knee * sampler(steps.start).size)
            stream = stream.mp_prefetch(
                grain.MultiprocessingOptions(num_workers=workers), worker_init_fn=_start_worker
            )
        iterator = iter(stream)
        try:
            for local in iterator:
                yield meshes.to_global(local, batch_sharding)
        finally:
            iterator.close()


_SHARED_MEMORY = Path("/dev/shm")
"""Memory that processes share, a file system of its own on Linux."""

_BATCHES_PER_WORKER = 2
"""Batches of a worker that lie in shared memory: one that is ready, and one that is being made."""


def _require_shared_memory(workers: int, bytes_of_batch: int) -> None:
    """Raise UserError if the workers' batches do not fit into shared memory.

    What is written beyond its size ends the process without a word.
    """
    needed = workers * _BATCHES_PER_WORKER * bytes_of_batch
    if _SHARED_MEMORY.is_dir() and (free := shutil.disk_usage(_SHARED_MEMORY).free) < needed:
        raise UserError(
            f"{_SHARED_MEMORY}, the memory that processes share, has {free / 1e6:.1f} MB free, and "
            f"config.data.workers = {workers} needs {needed / 1e6:.1f} MB: make it larger (docker "
            "run --shm-size=2g), lower config.data.workers, or set it to 0"
        )


def _start_worker(*_: int) -> None:
    # A scheduler's SIGTERM is for the run, which saves its state and then ends its workers.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_with_parent()


def _local(rows: np.ndarray) -> np.ndarray:
    """Return the part of a sampler's rows, [..., batch], that this process loads."""
    return rows[..., meshes.local_slice(rows.shape[-1])]


def make_source(prepared: PreparedSet, rows: np.ndarray, mesh: Mesh, mode: str) -> Source:
    """Make the source of a mode: 'resident', 'streamed', or 'auto', which takes what fits."""
    fits = len(rows) * prepared.bytes_per_knee < _device_memory() / 4
    if mode == "resident" or (mode == "auto" and meshes.agreed(fits)):
        return Resident(prepared, rows, mesh)
    return Streamed(prepared, mesh)


def _device_memory() -> int:
    """Return the memory of one device, bytes; on a CPU, its share of the machine's memory."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return machine // jax.local_device_count()
