import functools
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from knee_jax.errors import UnusableKnee
from knee_jax.ingest.pool import Failure, run_in_order
from tests.commands import REPOSITORY, lives, wait_for


def jobs(function, values):
    return [functools.partial(function, value) for value in values]


def wait_or_die(what):
    """Sleep, die in some way, or return the argument."""
    if what == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "exit":
        os._exit(0)
    if what == "sleep":
        time.sleep(60)
    if what == "memory":
        return np.ones((3 << 30,), np.uint8).sum()
    return what


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


@pytest.mark.parametrize("workers", [1, 2])
def test_only_the_job_that_harms_its_worker_is_lost(workers):
    values = ["a", "segfault", "b", "sleep", "c", "d", "exit", "memory", "e"]
    begin = time.monotonic()
    found = list(run_in_order(jobs(wait_or_die, values), workers, seconds=1.5))
    assert time.monotonic() - begin < 40
    lost = {v: r.reason for v, r in zip(values, found) if isinstance(r, Failure)}
    assert lost == {
        "segfault": "crashed_reader",
        "sleep": "timed_out",
        "exit": "crashed_reader",
        "memory": "out_of_memory",
    }
    assert [r for r in found if not isinstance(r, Failure)] == ["a", "b", "c", "d", "e"]


def die_once(mark):
    if not mark.exists():
        mark.touch()
        os._exit(1)
    return "done"


def test_a_job_is_tried_again_after_its_process_died(tmp_path):
    """The system may have killed it for another's hunger."""
    assert list(run_in_order([functools.partial(die_once, tmp_path / "mark")], 1)) == ["done"]


def test_the_time_to_start_a_worker_does_not_count():
    # Less than it takes to import the modules.
    assert list(run_in_order(jobs(abs, [-1]), 1, seconds=0.2)) == [1]


def test_a_run_that_is_given_up_stops_its_workers():
    results = run_in_order(jobs(wait_or_die, ["a", "sleep", "sleep"]), 2)
    assert next(results) == "a"
    begin = time.monotonic()
    results.close()
    assert time.monotonic() - begin < 5


def test_workers_say_nothing(capfd):
    command = functools.partial(os.system, "echo Jane Doe; echo Jane Doe >&2")
    assert list(run_in_order([command, functools.partial(os.write, 2, b"Jane Doe")], 1)) == [0, 8]
    assert capfd.readouterr() == ("", "")


def be_busy(folder, what):
    """Leaves the number of its process in a folder."""
    (folder / str(os.getpid())).touch()
    end = time.monotonic() + 60
    while time.monotonic() < end:
        time.sleep(60 if what == "sleeps" else 0)


RUN = """
import functools, pathlib, sys
from knee_jax.ingest.pool import run_in_order
from tests.ingest.test_pool import be_busy

folder = pathlib.Path(sys.argv[1])
list(run_in_order([functools.partial(be_busy, folder, what) for what in sys.argv[2:]], 2))
"""


def test_busy_workers_end_with_a_killed_parent(tmp_path):
    line = [sys.executable, "-c", RUN, str(tmp_path), "sleeps", "computes"]
    process = subprocess.Popen(line, cwd=REPOSITORY)
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2, seconds=60)
    workers = [path.name for path in tmp_path.iterdir()]
    assert all(map(lives, workers))
    process.kill()
    process.wait()
    wait_for(lambda: not any(map(lives, workers)), seconds=10)
