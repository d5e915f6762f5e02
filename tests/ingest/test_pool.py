import functools
import os
import time

import pytest

from knee_jax.errors import UnusableKnee, UserError
from knee_jax.ingest.pool import run_in_order


def jobs(function, values):
    return [functools.partial(function, value) for value in values]


@pytest.mark.parametrize("workers", [1, 2])
def test_order(workers):
    # The first takes longest.
    assert list(run_in_order(jobs(time.sleep, [0.3, 0.0, 0.0]), workers)) == [None] * 3
    assert list(run_in_order(jobs(abs, range(-50, 0)), workers)) == list(range(50, 0, -1))


def test_jobs_are_taken_as_results_are():
    taken = []

    def endless():
        for value in range(10**9):
            taken.append(value)
            yield functools.partial(abs, value)

    results = run_in_order(endless(), 2)
    assert [next(results) for _ in range(5)] == list(range(5))
    results.close()
    assert len(taken) < 50


def test_error_of_a_job_comes_back():
    with pytest.raises(ZeroDivisionError):
        list(run_in_order(jobs(functools.partial(divmod, 1), [1, 0]), 2))


def test_exceptions_of_ours_survive_pickling():
    error = UnusableKnee("no_spacing", "neither tag")
    function, arguments = error.__reduce__()
    assert function(*arguments).reason == "no_spacing"


def test_worker_that_dies():
    with pytest.raises(UserError, match="worker process died"):
        list(run_in_order(jobs(os._exit, [1]), 2))
