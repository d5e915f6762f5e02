"""Heat that marks what a network reads costs more than other parts; heat elsewhere is found out."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from knee_jax.evaluation.deletion import is_misleading, losses

ROWS, COLUMNS = 44, 52
"""No multiples of a cell's side."""


@pytest.fixture
def images():
    return np.random.default_rng(0).normal(size=(5, ROWS, COLUMNS, 2)).astype(np.float32)


def reading(weights):
    """A network whose logits are weighted sums of the pixels, [classes, rows, columns, 2]."""
    return lambda images: jnp.einsum("brxc,krxc->bk", images, weights, precision="highest")


def smooth(images):
    """Blurred by SciPy, over the pixels that there are."""
    sigma = (0, COLUMNS / 10, COLUMNS / 10, 0)
    options = {"mode": "constant", "truncate": 20.0}
    over = gaussian_filter(np.ones(images.shape), sigma, **options)
    return gaussian_filter(images.astype(np.float64), sigma, **options) / over


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_losses_are_those_of_a_straightforward_loop(classes, images):
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(classes, ROWS, COLUMNS, 2)).astype(np.float32)
    heat = rng.random((5, ROWS, COLUMNS)).astype(np.float32)
    found = losses(reading(weights), jnp.asarray(images), jnp.asarray(heat))
    blurred, expected = smooth(images), []

    def margin(image, chosen=None):
        logits = np.einsum("rxc,krxc->k", image, weights.astype(np.float64))
        chosen = logits.argmax() if chosen is None else chosen
        others = np.delete(logits, chosen)
        return logits[chosen] - (others.mean() if len(others) else 0), chosen

    for image, soft, warm in zip(images.astype(np.float64), blurred, heat):
        cells = np.array(
            [
                [warm[8 * r : 8 * r + 8, 8 * c : 8 * c + 8].mean() for c in range(6)]
                for r in range(5)
            ]
        )
        hottest = np.argsort(-cells.ravel())[:3]
        before, chosen = margin(image)
        costs = []
        for down, right in ((0, 0), (5 // 4, 3 * 6 // 4), (3 * 5 // 4, 6 // 4)):
            without = image.copy()
            for cell in hottest:
                r, c = (cell // 6 + down) % 5, (cell % 6 + right) % 6
                at = np.s_[8 * r : 8 * r + 8, 8 * c : 8 * c + 8]
                without[at] = soft[at]
            costs.append(before - margin(without, chosen)[0])
        expected.append((costs[0], np.mean(costs[1:])))
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_heat_where_the_network_reads_is_told_from_heat_elsewhere(images):
    read = np.zeros((2, ROWS, COLUMNS, 2), np.float32)
    # It reads how bright a spot is against its surroundings.
    images[:, 16:24, 24:32] += 3
    read[1, 16:24, 24:32] = 1
    right, wrong = np.zeros((2, 5, ROWS, COLUMNS), np.float32)
    right[:, 16:24, 24:32] = 1
    wrong[:, 0:8, 0:8] = 1
    network = reading(read)
    found = np.asarray(losses(network, jnp.asarray(images), jnp.asarray(right)))
    assert (found[:, 0] > 50).all()
    assert not is_misleading(*found.mean(0))
    found = np.asarray(losses(network, jnp.asarray(images), jnp.asarray(wrong)))
    assert is_misleading(*found.mean(0))


def test_of_no_heat_there_is_no_loss(images):
    heat = np.zeros((5, ROWS, COLUMNS), np.float32)
    heat[1] = 1
    read = np.ones((2, ROWS, COLUMNS, 2), np.float32)
    found = losses(reading(read), jnp.asarray(images), jnp.asarray(heat))
    np.testing.assert_array_equal(np.isnan(found).any(1), [True, False, True, True, True])
