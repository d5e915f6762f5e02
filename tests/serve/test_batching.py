"""Batches across callers: everybody gets their own rows, and only compiled sizes are run."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from knee_jax.inference.predictor import Predictor
from knee_jax.serve.batching import Batcher
from knee_jax.targets import get_all


def predictor(calls, heat=None, seconds=0.0):
    def forward(batch):
        time.sleep(seconds)
        image = np.asarray(batch["image"])
        calls.append(len(image))
        weights = np.stack([image[:, 0, 0] == c for c in range(5)], 1)
        return {"kl": weights.astype(np.float32)}

    return Predictor("marks", get_all(("kl",)), False, "image", 4, forward, heat)


def images(*marks):
    return np.stack([np.full((4, 4), mark, np.uint8) for mark in marks])


@pytest.fixture
def batcher():
    made = Batcher(seconds=0.05)
    yield made
    made.stop()


def test_everybody_gets_their_own_rows_from_common_batches(batcher):
    calls, asked = [], np.random.default_rng(0).integers(0, 5, (40, 3))
    shared = batcher.shared(predictor(calls, seconds=0.002), (2, 8, 32))

    def ask(marks):
        with batcher.caller():
            return shared.predict(images(*marks))["kl"].argmax(1)

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(ask, asked))
    np.testing.assert_array_equal(found, asked)
    assert set(calls) <= {2, 8, 32}
    assert len(calls) < 30


def test_a_lone_caller_does_not_wait():
    slow = Batcher(seconds=5)
    calls = []
    shared = slow.shared(predictor(calls), (2, 8))
    begin = time.monotonic()
    with slow.caller():
        shared.predict(images(1, 2, 3))
    assert time.monotonic() - begin < 1
    assert calls == [8]
    slow.stop()


def test_more_rows_than_the_largest_batch_go_in_parts(batcher):
    calls = []
    marks = np.arange(21) % 5
    found = batcher.shared(predictor(calls), (2, 8)).predict(images(*marks))["kl"]
    np.testing.assert_array_equal(found.argmax(1), marks)
    assert calls == [8, 8, 8]


def test_other_functions_are_not_mixed_and_not_forgotten(batcher):
    one, other = [], []
    first = batcher.shared(predictor(one, heat=lambda batch: batch["image"] / 255), (2, 8))
    second = batcher.shared(predictor(other), (4,))
    start = threading.Barrier(12)

    def ask(number):
        start.wait()
        with batcher.caller():
            if number % 3 == 0:
                return first.explain(images(number))[0, 0, 0] * 255
            return (first, second)[number % 2].predict(images(number % 5))["kl"].argmax()

    with ThreadPoolExecutor(12) as threads:
        found = list(threads.map(ask, range(12)))
    expected = [n if n % 3 == 0 else n % 5 for n in range(12)]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert set(other) == {4}


def test_an_error_reaches_all_who_asked_and_ends_nothing(batcher):
    def fail(batch):
        if (np.asarray(batch["image"]) == 9).any():
            raise RuntimeError("no memory")
        return {"kl": np.eye(5, dtype=np.float32)[np.asarray(batch["image"])[:, 0, 0]]}

    shared = batcher.shared(Predictor("x", get_all(("kl",)), False, "image", 4, fail, None), (2,))
    with pytest.raises(RuntimeError, match="no memory"):
        shared.predict(images(9))
    assert shared.predict(images(3))["kl"].argmax() == 3


def test_warming_runs_every_size_once(batcher):
    calls, heats = [], []

    def heat(batch):
        heats.append(len(batch["image"]))
        return batch["image"]

    batcher.warm(batcher.shared(predictor(calls, heat), (2, 8, 32)), (2, 8, 32))
    assert calls == heats == [2, 8, 32]


def test_what_is_dearer_together_is_run_apart(batcher):
    calls, start = [], threading.Barrier(2)
    shared = batcher.shared(predictor(calls), (4, 16))

    def ask(marks):
        with batcher.caller():
            start.wait()
            return shared.predict(images(*marks))["kl"].argmax(1).tolist()

    with ThreadPoolExecutor(2) as threads:
        few = list(threads.map(ask, ([1, 2, 3], [3, 2, 1])))
        one = list(threads.map(ask, ([1, 2], [4])))
    assert (few, one) == ([[1, 2, 3], [3, 2, 1]], [[1, 2], [4]])
    # Six rows would be filled up to 16, and three to 4.
    assert calls == [4, 4, 4]
