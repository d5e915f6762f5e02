"""Samplers of batches: pure functions of (seed, step), so that no state needs to be saved.

A *sampler* maps a step to the rows of the global batch in the prepared set's index, int64 [batch];
`PADDING` stands for no knee. Every process evaluates the same sampler and loads its own part. A
sampler of several steps at a time maps the number of a call to rows [steps, batch], and one of
several runs to rows [runs, steps, batch].
"""

from collections.abc import Callable, Sequence

import numpy as np

from knee_jax.config.schema import FOLDED, Data
from knee_jax.errors import UserError
from knee_jax.targets.kinds import MISSING

Sampler = Callable[[int], np.ndarray]

PADDING = -1


def shuffled(rows: np.ndarray, batch_size: int, seed: int) -> Sampler:
    """Make endless passes over `rows`, each in a new order; a batch may straddle two passes.

    Given labelled and unlabelled rows together, it draws both in their natural ratio.

    Args:
        rows: Rows of the index to train on, int64 [n].
        batch_size: Number of knees in a global batch.
        seed: Random seed of the order of every pass.
    """
    return _shuffled_passes(rows, batch_size, (seed,))


def mixed(
    labelled: np.ndarray, unlabelled: np.ndarray, batch_size: int, num_unlabelled: int, seed: int
) -> Sampler:
    """Make batches with a fixed number of unlabelled knees; each kind passes as in `shuffled`.

    The unlabelled knees are spread evenly: any two devices that share a batch have the same number
    of them, to within one.

    Args:
        labelled: Rows of labelled knees, int64 [n].
        unlabelled: Rows of unlabelled knees, int64 [m].
        batch_size: Number of knees in a global batch.
        num_unlabelled: Number of unlabelled knees in a global batch.
        seed: Random seed of the order of every pass.

    Raises:
        UserError: A batch would have no labelled knee, or there is no unlabelled one.
    """
    if not 0 <= num_unlabelled < batch_size:
        raise UserError(
            f"a batch of {batch_size} knees cannot hold {num_unlabelled} unlabelled ones: some "
            "must be labelled; change config.data.unlabelled_share or config.batch_size"
        )
    if num_unlabelled and not len(unlabelled):
        raise UserError(
            f"{num_unlabelled} knees of a batch are to be unlabelled, and there is no unlabelled "
            "knee among the training subjects: set config.data.unlabelled = 'none'"
        )
    ends = np.arange(1, batch_size + 1) * num_unlabelled // batch_size
    is_unlabelled = np.diff(ends, prepend=0) == 1
    # Without unlabelled knees in a batch there may be none to draw from.
    parts = [(~is_unlabelled, _shuffled_passes(labelled, batch_size - num_unlabelled, (seed, 0)))]
    if num_unlabelled:
        parts.append((is_unlabelled, _shuffled_passes(unlabelled, num_unlabelled, (seed, 1))))

    def sampler(step: int) -> np.ndarray:
        batch = np.empty(batch_size, np.int64)
        for where, part in parts:
            batch[where] = part(step)
        return batch

    return sampler


def oversampled(rows: np.ndarray, classes: np.ndarray, batch_size: int, seed: int) -> Sampler:
    """Make endless passes in which every class is as frequent as the most frequent one.

    A pass has every knee once, plus bootstrap draws of the rarer classes, drawn anew for each pass,
    until all classes have equal numbers; the whole is in a new order. A batch may straddle two
    passes.

    Wang et al., section III-C: "the set of KL-2 was oversampled based on bootstrapping". That all
    knees stay in, and only the additions are drawn, is our reading of "oversampled".

    Args:
        rows: Rows of the index to train on, int64 [n].
        classes: Their classes, int [n]; knees whose class is `MISSING` come once per pass.
        batch_size: Number of knees in a global batch.
        seed: Random seed of the draws and of the order of every pass.
    """
    rows, classes = np.asarray(rows, np.int64), np.asarray(classes)
    extra = _extra_draws(classes)

    def one_pass(number: int) -> np.ndarray:
        rng = np.random.default_rng([seed, number])
        drawn = [rng.choice(rows[classes == c], draws) for c, draws in extra.items()]
        return rng.permutation(np.concatenate([rows, *drawn]))

    return _passes(one_pass, oversampled_length(classes), batch_size)


def oversampled_length(classes: np.ndarray) -> int:
    """Return the number of knees in a pass of `oversampled`, those without a class included."""
    return len(classes) + sum(_extra_draws(classes).values())


def _extra_draws(classes: np.ndarray) -> dict[int, int]:
    """Return the draws that each class lacks to be as frequent as the most frequent one."""
    known, counts = np.unique(classes[classes != MISSING], return_counts=True)
    return {int(c): int(counts.max() - count) for c, count in zip(known, counts)}


def weighted(rows: np.ndarray, weights: np.ndarray, batch_size: int, seed: int) -> Sampler:
    """Draw knees independently with replacement, in proportion to weights.

    Args:
        rows: Rows of the index to train on, int64 [n].
        weights: Weights [n], not negative, not all zero; for instance `inverse_frequency`.
        batch_size: Number of knees in a global batch.
        seed: Random seed of the draws.
    """
    rows, weights = np.asarray(rows, np.int64), np.asarray(weights, np.float64)
    if rows.shape != weights.shape or not (weights >= 0).all() or not weights.sum() > 0:
        raise ValueError(f"{len(weights)} weights of {len(rows)} rows: one each, none negative")
    shares = weights / weights.sum()
    return lambda step: np.random.default_rng([seed, step]).choice(rows, batch_size, p=shares)


def inverse_frequency(classes: np.ndarray) -> np.ndarray:
    """Return weights that draw every class equally often, float64 [n], with mean one.

    Panfilov et al. 2022, section 3.2, for none, fast and slow progression. The code of Tiulpin &
    Saarakkala 2020 has it for KL (`--weighted_sampling`), but the paper does not use it.

    Args:
        classes: Classes, int [n]; knees whose class is `MISSING` keep their share of the draws.
    """
    values, inverse, counts = np.unique(classes, return_inverse=True, return_counts=True)
    known = values != MISSING
    weights = np.where(known, counts[known].sum() / (max(known.sum(), 1) * counts), 1.0)
    return weights[inverse]


def _shuffled_passes(rows: np.ndarray, batch_size: int, seeds: tuple[int, ...]) -> Sampler:
    rows = np.asarray(rows, np.int64)

    def one_pass(number: int) -> np.ndarray:
        return rows[np.random.default_rng([*seeds, number]).permutation(len(rows))]

    return _passes(one_pass, len(rows), batch_size)


def _passes(one_pass: Callable[[int], np.ndarray], length: int, batch_size: int) -> Sampler:
    """Lay passes end to end, and cut them into batches.

    Args:
        one_pass: Function from the number of a pass, from 0, to its rows, int64 [length].
        length: Number of knees in a pass.
        batch_size: Number of knees in a global batch.
    """

    def sampler(step: int) -> np.ndarray:
        positions = step * batch_size + np.arange(batch_size)
        batch = np.empty(batch_size, np.int64)
        for number in np.unique(positions // length):
            inside = positions // length == number
            batch[inside] = one_pass(int(number))[positions[inside] % length]
        return batch

    return sampler


def in_order(rows: np.ndarray, batch_size: int) -> Sampler:
    """Make one pass over `rows`, each exactly once; the last batch is filled up with `PADDING`."""
    rows = np.asarray(rows, np.int64)

    def sampler(step: int) -> np.ndarray:
        batch = rows[step * batch_size : (step + 1) * batch_size]
        return np.pad(batch, (0, batch_size - len(batch)), constant_values=PADDING)

    return sampler


def in_calls(sampler: Sampler, calls: Sequence[range]) -> Sampler:
    """Sample several steps at a time; shorter calls are filled up with `PADDING`.

    Args:
        sampler: Sampler of single steps.
        calls: Steps of each call.
    """
    longest = max(map(len, calls), default=1)

    def sampler_of_calls(number: int) -> np.ndarray:
        rows = np.stack([sampler(step) for step in calls[number]])
        return np.pad(rows, ((0, longest - len(rows)), (0, 0)), constant_values=PADDING)

    return sampler_of_calls


def num_batches(num_rows: int, batch_size: int) -> int:
    """Return the number of batches that `in_order` needs for `num_rows` knees."""
    return -(-num_rows // batch_size)


def make(
    data: Data,
    batch_size: int,
    seed: int,
    train: np.ndarray,
    unlabelled: np.ndarray,
    validation: np.ndarray,
    classes_of: Callable[[np.ndarray], np.ndarray],
) -> tuple[Sampler, float]:
    """Make the sampler of training batches that a config describes.

    The folds of a cross-validation differ by a few knees. Their epochs are made equally long, so
    that they can be trained side by side and by one compiled step.

    Args:
        data: The part `data` of a config.
        batch_size: Number of knees in a global batch.
        seed: Random seed of the draws.
        train: Rows of labelled training knees, int64 [n].
        unlabelled: Rows of unlabelled training knees, int64 [m].
        validation: Rows of validation knees, int64 [k].
        classes_of: Function from rows to classes, for sampling by class.

    Returns:
        The sampler, and the number of knees in an epoch.
    """

    def length(rows: np.ndarray) -> int:
        oversampled_too = data.sampling == "oversampled"
        return oversampled_length(classes_of(rows)) if oversampled_too else len(rows)

    if data.sampling != "shuffled" and len(unlabelled):
        raise UserError(
            f"config.data.sampling = '{data.sampling}' knows no class of unlabelled knees: set "
            "config.data.unlabelled = 'none'"
        )
    natural = data.unlabelled == "natural" or not len(unlabelled)
    if data.sampling == "balanced":
        weights = inverse_frequency(classes_of(train))
        sampler = weighted(train, weights, batch_size, seed)
    elif data.sampling == "oversampled":
        sampler = oversampled(train, classes_of(train), batch_size, seed)
    elif natural:
        sampler = shuffled(np.union1d(train, unlabelled), batch_size, seed)
    else:
        number = round(data.unlabelled_share * batch_size)
        sampler = mixed(train, unlabelled, batch_size, number, seed)
        return sampler, len(train) * batch_size / (batch_size - number)
    if data.split in FOLDED and data.label_fraction == 1.0 and not len(unlabelled):
        together = np.concatenate([train, validation])
        return sampler, round(length(together) * (data.num_folds - 1) / data.num_folds)
    return sampler, length(train) + len(unlabelled)
