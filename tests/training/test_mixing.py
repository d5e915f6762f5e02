import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knee_jax.config.schema import Mixing
from knee_jax.training import mixing

LABELS = {"kl": jnp.array([0, 1, 2, 3])}
MASK = jnp.array([True, True, True, False])


def images():
    """Each of one value, so that mixtures can be read back."""
    return jnp.broadcast_to(
        jnp.array([1.0, 10.0, 100.0, 1000.0])[:, None, None, None], (4, 8, 6, 1)
    )


def test_without_mixing_nothing_changes():
    found = mixing.mix(images(), Mixing(), jax.random.key(0))
    np.testing.assert_array_equal(found.images, images())
    assert found.loss(lambda labels, mask: (labels["kl"].sum(), {}), LABELS, MASK) == (6, {})


@pytest.mark.parametrize("seed", range(5))
def test_mixup_blends_neighbours_by_the_share_of_the_loss(seed):
    found = mixing.mix(images(), Mixing(mixup=0.4), jax.random.key(seed))
    own = np.array([1.0, 10.0, 100.0, 1000.0])
    share = float(found.share)
    assert 0 <= share <= 1
    np.testing.assert_allclose(
        found.images[:, 3, 2, 0], share * own + (1 - share) * np.roll(own, -1), rtol=1e-5
    )


@pytest.mark.parametrize("seed", range(5))
def test_cutmix_pastes_a_rectangle_of_the_share(seed):
    found = mixing.mix(images(), Mixing(cutmix=1.0), jax.random.key(seed))
    own = np.asarray(found.images) == np.asarray(images())
    other = np.asarray(found.images) == np.roll(np.asarray(images()), -1, axis=0)
    assert (own ^ other).all()
    np.testing.assert_allclose(own.mean((1, 2, 3)), float(found.share), rtol=1e-5)
    pasted = other[0, :, :, 0]
    rows, columns = pasted.any(1), pasted.any(0)
    np.testing.assert_array_equal(pasted, rows[:, None] & columns)
    assert (np.diff(rows.astype(int)) != 0).sum() <= 2


def test_shares_follow_their_distribution():
    keys = jax.random.split(jax.random.key(0), 2000)
    shares = jax.vmap(lambda key: mixing.mix(images(), Mixing(mixup=2.0), key).share)(keys)
    # Beta(2, 2) has the variance 1/20.
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(shares.var()) == pytest.approx(0.05, abs=0.005)


def test_with_both_either_is_drawn():
    both = Mixing(mixup=1.0, cutmix=1.0)
    kinds = set()
    for seed in range(12):
        found = np.asarray(mixing.mix(images(), both, jax.random.key(seed)).images)
        kinds.add(bool(np.isin(found, np.asarray(images())).all()))
    assert kinds == {True, False}


def test_the_loss_is_of_both_labels_and_of_pairs_that_count():
    def loss(labels, mask):
        value = (labels["kl"] * mask).sum().astype(jnp.float32)
        return value, {"part": 2 * value}

    found, parts = mixing.Mixture(images(), jnp.float32(0.75)).loss(loss, LABELS, MASK)
    # Own labels 0 + 1 + 2; of the neighbours 1 + 2, since the third's is masked.
    assert float(found) == pytest.approx(0.75 * 3 + 0.25 * 3)
    assert float(parts["part"]) == pytest.approx(2 * found)
    other = {"kl": jnp.array([0, 1, 4, 3])}
    found, _ = mixing.Mixture(images(), jnp.float32(0.75)).loss(loss, other, MASK)
    assert float(found) == pytest.approx(0.75 * 5 + 0.25 * 5)
