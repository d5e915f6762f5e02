import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knee_jax.data.sampling import PADDING, in_order, num_batches, shuffled


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 5))
def test_every_pass_shows_every_knee_once(num_rows, batch_size, seed):
    rows = np.arange(num_rows) * 3 + 1
    plan = shuffled(rows, batch_size, seed)
    passes = 3
    stream = np.concatenate([plan(step) for step in range(-(-passes * num_rows // batch_size))])
    for one in range(passes):
        part = stream[one * num_rows : (one + 1) * num_rows]
        np.testing.assert_array_equal(np.sort(part), rows)


def test_a_batch_does_not_depend_on_what_was_asked_before():
    rows = np.arange(100)
    forwards = [shuffled(rows, 16, 7)(step) for step in range(20)]
    plan = shuffled(rows, 16, 7)
    backwards = [plan(step) for step in reversed(range(20))][::-1]
    np.testing.assert_array_equal(forwards, backwards)


def test_passes_and_seeds_differ():
    rows = np.arange(64)
    plan = shuffled(rows, 64, 0)
    assert (plan(0) != plan(1)).any()
    assert (plan(0) != shuffled(rows, 64, 1)(0)).any()


@given(st.integers(1, 40), st.integers(1, 12))
def test_in_order_shows_every_knee_once_and_pads_the_rest(num_rows, batch_size):
    rows = np.arange(num_rows) + 5
    batches = num_batches(num_rows, batch_size)
    stream = np.concatenate([in_order(rows, batch_size)(step) for step in range(batches)])
    assert stream.shape == (batches * batch_size,)
    np.testing.assert_array_equal(stream[:num_rows], rows)
    assert (stream[num_rows:] == PADDING).all()
    assert len(stream) - num_rows < batch_size


@pytest.mark.parametrize("plan", [shuffled(np.arange(5), 3, 0), in_order(np.arange(5), 3)])
def test_rows_are_int64_of_the_batch_size(plan):
    assert plan(1).dtype == np.int64
    assert plan(1).shape == (3,)
