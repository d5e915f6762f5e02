import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knee_jax.data.sampling import (
    PADDING,
    in_order,
    inverse_frequency,
    mixed,
    num_batches,
    oversampled,
    oversampled_length,
    shuffled,
    weighted,
)
from knee_jax.errors import UserError

LABELLED, UNLABELLED = np.arange(30), np.arange(100, 117)


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 5))
def test_every_pass_shows_every_knee_once(num_rows, batch_size, seed):
    rows = np.arange(num_rows) * 3 + 1
    sampler = shuffled(rows, batch_size, seed)
    passes = 3
    stream = np.concatenate([sampler(step) for step in range(-(-passes * num_rows // batch_size))])
    for one in range(passes):
        part = stream[one * num_rows : (one + 1) * num_rows]
        np.testing.assert_array_equal(np.sort(part), rows)


def test_a_batch_does_not_depend_on_what_was_asked_before():
    rows = np.arange(100)
    forwards = [shuffled(rows, 16, 7)(step) for step in range(20)]
    sampler = shuffled(rows, 16, 7)
    backwards = [sampler(step) for step in reversed(range(20))][::-1]
    np.testing.assert_array_equal(forwards, backwards)


def test_passes_and_seeds_differ():
    rows = np.arange(64)
    sampler = shuffled(rows, 64, 0)
    assert (sampler(0) != sampler(1)).any()
    assert (sampler(0) != shuffled(rows, 64, 1)(0)).any()


@given(st.integers(1, 40), st.integers(1, 12))
def test_in_order_shows_every_knee_once_and_pads_the_rest(num_rows, batch_size):
    rows = np.arange(num_rows) + 5
    batches = num_batches(num_rows, batch_size)
    stream = np.concatenate([in_order(rows, batch_size)(step) for step in range(batches)])
    assert stream.shape == (batches * batch_size,)
    np.testing.assert_array_equal(stream[:num_rows], rows)
    assert (stream[num_rows:] == PADDING).all()
    assert len(stream) - num_rows < batch_size


@given(st.integers(1, 24), st.integers(0, 23), st.integers(0, 3))
def test_mixed_batches_hold_their_share_of_unlabelled_knees(batch_size, num_unlabelled, seed):
    num_unlabelled = min(num_unlabelled, batch_size - 1)
    sampler = mixed(LABELLED, UNLABELLED, batch_size, num_unlabelled, seed)
    batches = np.stack([sampler(step) for step in range(34)])
    assert ((batches >= 100).sum(axis=1) == num_unlabelled).all()
    # Either kind passes through all its knees before any comes again.
    for kind in (batches[batches < 100], batches[batches >= 100]):
        known = LABELLED if kind.size and kind[0] < 100 else UNLABELLED
        for start in range(0, len(kind) - len(known) + 1, len(known)):
            np.testing.assert_array_equal(np.sort(kind[start : start + len(known)]), known)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 63))
def test_unlabelled_knees_spread_over_the_devices(devices, each, num_unlabelled):
    num_unlabelled = min(num_unlabelled, devices * each - 1)
    batch = mixed(LABELLED, UNLABELLED, devices * each, num_unlabelled, seed=0)(5)
    assert np.ptp((batch.reshape(devices, each) >= 100).sum(axis=1)) <= 1


def test_mixed_batches_depend_on_the_seed_and_the_step_only():
    forwards = [mixed(LABELLED, UNLABELLED, 12, 5, 7)(step) for step in range(9)]
    sampler = mixed(LABELLED, UNLABELLED, 12, 5, 7)
    np.testing.assert_array_equal(forwards, [sampler(s) for s in reversed(range(9))][::-1])
    assert (forwards[0] != mixed(LABELLED, UNLABELLED, 12, 5, 8)(0)).any()
    # The two kinds are not in the same order.
    both = mixed(np.arange(64), np.arange(100, 164), 128, 64, 0)(0)
    assert (both[both < 100] == both[both >= 100] - 100).mean() < 0.2


def test_batches_that_cannot_be_mixed_are_named():
    with pytest.raises(UserError, match=r"no unlabelled knee .* config.data.unlabelled = 'none'"):
        mixed(LABELLED, np.empty(0, np.int64), 8, 2, 0)
    for number in (8, -1):
        with pytest.raises(UserError, match=f"batch of 8 knees cannot hold {number} unlabelled"):
            mixed(LABELLED, UNLABELLED, 8, number, 0)
    assert mixed(LABELLED, np.empty(0, np.int64), 8, 0, 0)(0).max() < 30


def test_weighted_draws_follow_the_weights():
    rows, weights = np.array([3, 5, 8, 9]), np.array([1.0, 0.0, 2.0, 5.0])
    sampler = weighted(rows, weights, 50, seed=0)
    drawn = np.concatenate([sampler(step) for step in range(200)])
    counts = np.array([(drawn == row).sum() for row in rows])
    np.testing.assert_allclose(counts / len(drawn), weights / 8, atol=0.015)
    assert counts[1] == 0


def test_weighted_draws_depend_on_the_seed_and_the_step_only():
    rows, weights = np.arange(50), np.random.default_rng(0).random(50)
    forwards = [weighted(rows, weights, 16, 3)(step) for step in range(6)]
    sampler = weighted(rows, weights, 16, 3)
    np.testing.assert_array_equal(forwards, [sampler(s) for s in reversed(range(6))][::-1])
    assert (forwards[0] != forwards[1]).any()
    assert (forwards[0] != weighted(rows, weights, 16, 4)(0)).any()


@pytest.mark.parametrize("weights", [[1.0, -1.0, 1.0], [0.0] * 3, [1.0] * 4, [np.nan, 1.0, 1.0]])
def test_weights_without_meaning_are_an_error(weights):
    with pytest.raises(ValueError, match="weights of 3 rows"):
        weighted(np.arange(3), np.array(weights), 2, 0)


@given(st.lists(st.integers(-1, 4), min_size=1, max_size=60))
def test_inverse_frequency_gives_every_class_the_same_share(grades):
    grades = np.array(grades, np.int8)
    weights = inverse_frequency(grades)
    assert weights.mean() == pytest.approx(1)
    shares = [weights[grades == grade].sum() for grade in np.unique(grades[grades >= 0])]
    np.testing.assert_allclose(shares, np.full(len(shares), np.sum(shares) / max(len(shares), 1)))
    np.testing.assert_allclose(weights[grades == -1], 1)


def passes_of(sampler, length, batch_size, number):
    """The first passes of a sampler, [number, length]."""
    stream = np.concatenate([sampler(step) for step in range(-(-number * length // batch_size))])
    return stream[: number * length].reshape(number, length)


@given(st.lists(st.integers(-1, 4), min_size=1, max_size=40), st.integers(1, 50), st.integers(0, 5))
def test_every_pass_has_all_knees_and_its_classes_alike(classes, batch_size, seed):
    classes = np.array(classes, np.int8)
    rows = np.arange(len(classes)) * 3 + 1
    class_of = dict(zip(rows.tolist(), classes.tolist()))
    known, counts = np.unique(classes[classes >= 0], return_counts=True)
    length = oversampled_length(classes)
    assert length == len(known) * max(counts, default=0) + (classes == -1).sum()
    sampler = oversampled(rows, classes, batch_size, seed)
    for one in passes_of(sampler, length, batch_size, 2):
        seen = np.array([class_of[row] for row in one.tolist()])
        for c in known:
            assert (seen == c).sum() == counts.max()
        drawn, times = np.unique(one, return_counts=True)
        np.testing.assert_array_equal(drawn, rows)
        # Knees of the most frequent class, and those without a class, come once.
        often = np.isin(classes, known[counts < max(counts, default=0)])
        assert (times[~often] == 1).all()


def test_what_is_added_is_drawn_alike_and_anew():
    classes = np.repeat([0, 1], [40, 10])
    sampler = oversampled(np.arange(50), classes, 16, seed=0)
    times = np.array(
        [np.bincount(one, minlength=50)[40:] for one in passes_of(sampler, 80, 16, 400)]
    )
    assert (times.sum(axis=1) == 40).all()
    extra = times - 1
    # Binomial: 30 draws among ten knees.
    np.testing.assert_allclose(extra.mean(axis=0), 3, atol=0.4)
    np.testing.assert_allclose(extra.var(axis=0), 30 * 0.1 * 0.9, rtol=0.3)
    assert (times[1:] != times[:-1]).any(axis=1).mean() > 0.99


def test_oversampled_batches_depend_on_the_seed_and_the_step_only():
    rows, classes = np.arange(60), np.repeat([0, 1, 2], [30, 20, 10])
    forwards = [oversampled(rows, classes, 16, 3)(step) for step in range(20)]
    sampler = oversampled(rows, classes, 16, 3)
    np.testing.assert_array_equal(forwards, [sampler(s) for s in reversed(range(20))][::-1])
    assert (forwards[0] != oversampled(rows, classes, 16, 4)(0)).any()


@pytest.mark.parametrize(
    "sampler",
    [
        shuffled(np.arange(5), 3, 0),
        in_order(np.arange(5), 3),
        mixed(np.arange(5), np.arange(5, 9), 3, 1, 0),
        weighted(np.arange(5), np.ones(5), 3, 0),
        oversampled(np.arange(5), np.array([0, 0, 0, 1, 2]), 3, 0),
    ],
)
def test_rows_are_int64_of_the_batch_size(sampler):
    assert sampler(1).dtype == np.int64
    assert sampler(1).shape == (3,)
