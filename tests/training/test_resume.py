"""A run that is killed and started again ends in the same bits."""

import contextlib
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from knee_jax.errors import STOPPED
from tests.commands import lives, run_well, train_flags, wait_for
from tests.training import chaos
from tests.training.chaos import flatten, read_state, start, wait_for_lines

pytestmark = pytest.mark.slow

CHANGES = (*chaos.CHANGES, "--config.epochs=4")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_data_dir):
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    assert start(train_flags(folder, tiny_data_dir, "kpn.py:demo", CHANGES)).wait() == 0
    return folder


def test_a_run_that_is_interrupted_in_every_way_ends_in_the_same_bits(
    whole, tmp_path, tiny_data_dir
):
    """`make chaos` does the same with twenty interruptions."""
    kinds = (chaos.kill, chaos.stop, chaos.kill_while_saving, chaos.fill_the_disk)
    kinds += (chaos.damage, chaos.interrupt)
    done = chaos.disturb(tmp_path / "run", tiny_data_dir, CHANGES[-1:], kinds, seed=1)
    assert sum(done.values()) >= 5, done
    chaos.assert_same_bits(tmp_path / "run", whole)


def children(pid):
    """All processes that a process has started, and they in turn."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if stat.read_text().rpartition(")")[2].split()[1] == str(pid):
                found += [int(stat.parent.name), *children(stat.parent.name)]
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="/proc is Linux'")
def test_no_process_outlives_a_killed_run(tmp_path, tiny_data_dir):
    changes = (*CHANGES, "--config.data.mode=streamed", "--config.data.workers=2")
    process = start(train_flags(tmp_path, tiny_data_dir, "kpn.py:demo", changes))
    wait_for_lines(process, tmp_path, 2)
    started = children(process.pid)
    assert len(started) >= 3  # Two workers and what tracks their memory.
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not any(map(lives, started)), seconds=10)


def test_a_second_signal_ends_a_run_at_once(tmp_path, tiny_data_dir):
    process = start(train_flags(tmp_path, tiny_data_dir, "kpn.py:demo", CHANGES))
    wait_for_lines(process, tmp_path, 1)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) in (-signal.SIGTERM, STOPPED)


@pytest.mark.parametrize("seconds", [0.4, 1.0, 2.0, 3.5])
def test_an_interrupted_command_says_so_from_the_start(seconds, tmp_path, tiny_data_dir):
    process = start(train_flags(tmp_path, tiny_data_dir, "kpn.py:demo", CHANGES), subprocess.PIPE)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "interrupted"
    assert "Traceback" not in errors


def test_a_finished_run_is_not_trained_again(whole, tmp_path, tiny_data_dir):
    workdir = shutil.copytree(whole, tmp_path / "run")
    step, before = read_state(workdir)
    again = run_well(*train_flags(workdir, tiny_data_dir, "kpn.py:demo", CHANGES))
    assert f"resuming at step {step} of {step}" in again.stdout
    assert read_state(workdir)[0] == step
    for (name, ours), (_, theirs) in zip(flatten(read_state(workdir)[1]), flatten(before)):
        np.testing.assert_array_equal(ours, theirs, name)
