"""Which knees make up a batch: pure functions of (seed, step), so nothing needs to be saved.

A *plan* maps a step to the global batch's rows of the prepared set's index, int64 [batch]; a row of
`PADDING` stands for no knee. Every process evaluates the same plan and loads its own part.
"""

from collections.abc import Callable

import numpy as np

Plan = Callable[[int], np.ndarray]

PADDING = -1


def shuffled(rows: np.ndarray, batch_size: int, seed: int) -> Plan:
    """Endless passes over `rows`, each in a new order; a batch may straddle two passes.

    Args:
        rows: int64 [n], rows of the index to train on.
        batch_size: knees in a global batch.
        seed: fixes the order of every pass.
    """
    rows = np.asarray(rows, np.int64)

    def plan(step: int) -> np.ndarray:
        positions = step * batch_size + np.arange(batch_size)
        batch = np.empty(batch_size, np.int64)
        for epoch in np.unique(positions // len(rows)):
            inside = positions // len(rows) == epoch
            order = np.random.default_rng([seed, int(epoch)]).permutation(len(rows))
            batch[inside] = rows[order[positions[inside] % len(rows)]]
        return batch

    return plan


def in_order(rows: np.ndarray, batch_size: int) -> Plan:
    """One pass over `rows`, each exactly once; the last batch is filled up with `PADDING`."""
    rows = np.asarray(rows, np.int64)

    def plan(step: int) -> np.ndarray:
        batch = rows[step * batch_size : (step + 1) * batch_size]
        return np.pad(batch, (0, batch_size - len(batch)), constant_values=PADDING)

    return plan


def num_batches(num_rows: int, batch_size: int) -> int:
    """Batches that `in_order` needs for `num_rows` knees."""
    return -(-num_rows // batch_size)
