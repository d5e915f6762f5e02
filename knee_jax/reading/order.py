"""Order in which a reader sees the knees: random, its own, and some of them twice."""

import hashlib
import math

import numpy as np


def blind_order(number: int, repeats: float, seed: int, reader: str) -> list[tuple[int, bool]]:
    """Return the places of a reader's list.

    Knees that come again are drawn from the first half of the reader's own order, and come again in
    the second half, at least a quarter of the list later. Nothing tells the reader which they are.

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
    half = math.ceil(number / 2)
    early, late = order[:half], order[half:]
    again = min(math.ceil(repeats * number), number - half)
    for place in rng.choice(half, again, replace=False):
        # What is put in later moves it further away, never nearer.
        nearest = max(0, int(place) + number // 4 - half)
        late.insert(int(rng.integers(nearest, len(late) + 1)), (early[place][0], True))
    return early + late
