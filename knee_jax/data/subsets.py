"""Knees of a prepared set in use by a run: on devices, by rows of the set's index."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from knee_jax.data import batches, prepared, sampling


class Selected(NamedTuple):
    """Some knees of a prepared set.

    Attributes:
        prepared: The set, with the labels that the run may see.
        rows: Rows of its index, int64 [n], ascending.
    """

    prepared: prepared.PreparedSet
    rows: np.ndarray


@dataclasses.dataclass(frozen=True)
class SharedSource:
    """All knees of one prepared set that a run uses; its subsets share their batches.

    Attributes:
        prepared: The set, with the labels that the run may see.
        rows: Rows of its index, int64 [n], ascending.
        mesh: Mesh that batches go to.
        mode: Mode of `batches.make_source`.
    """

    prepared: prepared.PreparedSet
    rows: np.ndarray
    mesh: jax.sharding.Mesh
    mode: str

    @functools.cached_property
    def batches(self) -> batches.Source:
        """Source of device batches; reads the knees on first access."""
        return batches.make_source(self.prepared, self.rows, self.mesh, self.mode)

    @property
    def bytes_on_device(self) -> int:
        """Memory that the knees take on each device if they are resident, bytes."""
        return len(self.rows) * self.prepared.bytes_per_knee

    def same(self, other: "SharedSource") -> bool:
        """Return whether the batches of the two are the same."""
        return (
            self.prepared.path == other.prepared.path
            and self.prepared.targets == other.prepared.targets
            and np.array_equal(self.rows, other.rows)
            and self.prepared.index.equals(other.prepared.index)
            and self.mesh == other.mesh
        )


@dataclasses.dataclass(frozen=True)
class Subset:
    """Knees of a part of a run: train, validation, test or unlabelled.

    Attributes:
        shared: Source of their batches.
        rows: Rows of the index, int64 [n].
    """

    shared: SharedSource
    rows: np.ndarray

    @property
    def prepared(self) -> prepared.PreparedSet:
        """Prepared set."""
        return self.shared.prepared

    @property
    def source(self) -> batches.Source:
        """Source of device batches of the set."""
        return self.shared.batches

    def map(
        self,
        function: Callable[[batches.Batch], tuple[jax.Array, Any]],
        rows: np.ndarray,
        batch_size: int,
    ) -> Any:
        """Apply a compiled function to some of the knees, each exactly once.

        Every process takes part, with the same rows.

        Args:
            function: Function from a batch to its rows of the index and a pytree of [batch, ...],
                both complete on every process.
            rows: Rows of the index, int64 [n], at least one.
            batch_size: Number of knees in a batch.

        Returns:
            The pytree, with NumPy arrays [n, ...] in the order of `rows`.
        """
        steps = range(sampling.num_batches(len(rows), batch_size))
        sampler = sampling.in_order(rows, batch_size)
        results = jax.device_get([function(batch) for batch in self.source.batches(sampler, steps)])
        # Rows come back with the results, so that each result stays with its knee on any device.
        at = np.concatenate([of_batch for of_batch, _ in results])
        known = at != sampling.PADDING
        if not np.array_equal(at[known], rows):
            raise RuntimeError("the knees came back in another order, or not once each")
        values = [of_batch for _, of_batch in results]
        return jax.tree.map(lambda *each: np.concatenate(each)[known], *values)


def make_subsets(
    selected: Mapping[str, Selected],
    mesh: jax.sharding.Mesh,
    mode: str,
    known: Iterable[SharedSource] = (),
) -> dict[str, Subset]:
    """Make the subsets of a run; those of one prepared set share a source of batches.

    Args:
        selected: Knees of each part.
        mesh: Mesh that batches go to.
        mode: Mode of `batches.make_source`.
        known: Sources of another run, reused where they are the same.
    """
    known, subsets = list(known), {}
    for name, (knees, rows) in selected.items():
        every = np.unique(
            np.concatenate([other.rows for other in selected.values() if other.prepared is knees])
        )
        own = SharedSource(knees, every, mesh, mode)
        shared = next((each for each in known if each.same(own)), own)
        known.append(shared)
        subsets[name] = Subset(shared, rows)
    return subsets
