"""Order in which a reader sees the knees: random, its own, and some of them twice."""

import hashlib
import math

import numpy as np


def blind_order(number: int, repeats: float, seed: int, reader: str) -> list[tuple[int, bool]]:
    """Return the places of a reader's list.

    Knees that come again are drawn from the first half of the reader's own order, and come again in
    the second half, so that some time has passed. Nothing tells the reader which they are.

    Args:
        number: Number of knees.
        repeats: Share of them that come again, 0 to 1.
        seed: Random seed of the study.
        reader: Name of the reader.

    Returns:
        For each place, the number of the knee from 0, and whether it comes again.
    """
    digest = hashlib.sha256(f"{seed}/{reader}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    order = [(int(knee), False) for knee in rng.permutation(number)]
    early, late = order[: math.ceil(number / 2)], order[math.ceil(number / 2) :]
    again = min(math.ceil(repeats * number), len(early))
    for place in rng.choice(len(early), again, replace=False):
        late.insert(int(rng.integers(len(late) + 1)), (early[place][0], True))
    return early + late
