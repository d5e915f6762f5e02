"""A run that is killed and started again ends in the same bits."""

import contextlib
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from knee_jax.errors import STOPPED
from tests.commands import REPOSITORY, command, lives, run_well, train_flags, wait_for

pytestmark = pytest.mark.slow

CHANGES = (
    "--config.epochs=4",
    "--config.checkpoint_every=3",
    "--config.log_every=1",
    # More that has to be saved.
    "--config.optimizer.ema_decay=0.9",
    "--config.optimizer.accumulation=2",
    "--config.optimizer.schedule=one_cycle",
)
NUM_KILLS = 6


def start(flags, errors=subprocess.DEVNULL):
    line, environment = command(*flags)
    return subprocess.Popen(
        line, env=environment, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=errors, text=True
    )


def read_state(workdir):
    """Step and arrays of the latest checkpoint, by an independent reading."""
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(
        (workdir / "checkpoints").absolute(), item_handlers=ocp.StandardCheckpointHandler()
    ) as manager:
        step = manager.latest_step()
        return step, manager.restore(step)


def flatten(tree, prefix=""):
    if isinstance(tree, dict | list | tuple):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        for name, value in items:
            yield from flatten(value, f"{prefix}/{name}")
    elif tree is not None:
        yield prefix, np.asarray(tree)


def kill_while_saving(process, workdir):
    """Kills as soon as a checkpoint is seen that is not yet whole."""
    while process.poll() is None:
        if any((workdir / "checkpoints").glob("*orbax-checkpoint-tmp*")):
            process.send_signal(signal.SIGKILL)
            return
        time.sleep(0.0005)


def kill_at_a_random_step(process, workdir, rng, number=signal.SIGKILL):
    """Kills when so many more lines have been logged."""
    wait_for_lines(process, workdir, rng.randint(1, 5))
    time.sleep(rng.random() * 0.2)
    process.send_signal(number)


def wait_for_lines(process, workdir, number):
    log = workdir / "metrics.jsonl"

    def lines():
        return log.read_text().count("\n") if log.exists() else 0

    until = lines() + number
    while process.poll() is None and lines() < until:
        time.sleep(0.0005)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_data_dir):
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    assert start(train_flags(folder, tiny_data_dir, "kpn.py:demo", CHANGES)).wait() == 0
    return folder


def test_killed_runs_end_in_the_same_bits(whole, tmp_path, tiny_data_dir):
    killed = tmp_path / "killed"
    rng = random.Random(0)
    flags = train_flags(killed, tiny_data_dir, "kpn.py:demo", CHANGES)
    kills = torn = 0
    for attempt in range(NUM_KILLS):
        process = start(flags)
        if attempt % 2:
            kill_while_saving(process, killed)
        else:
            kill_at_a_random_step(process, killed, rng)
        kills += process.wait() == -signal.SIGKILL
        torn += any((killed / "checkpoints").glob("*orbax-checkpoint-tmp*"))
    assert kills >= 5
    assert torn >= 1, "no kill fell into the writing of a checkpoint"
    assert start(flags).wait() == 0
    assert_same_bits(killed, whole)
    steps = [line.split(",")[0] for line in (killed / "metrics.jsonl").read_text().splitlines()]
    assert steps == [
        line.split(",")[0] for line in (whole / "metrics.jsonl").read_text().splitlines()
    ]


def assert_same_bits(killed, whole):
    (ours_step, ours), (theirs_step, theirs) = read_state(killed), read_state(whole)
    assert ours_step == theirs_step
    ours, theirs = dict(flatten(ours)), dict(flatten(theirs))
    assert ours.keys() == theirs.keys()
    assert len(ours) > 100
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], name)
    assert (killed / "metrics.json").read_text() == (whole / "metrics.json").read_text()


def test_a_run_that_is_asked_to_stop_saves_its_step_and_ends_in_the_same_bits(
    whole, tmp_path, tiny_data_dir
):
    stopped, rng = tmp_path / "stopped", random.Random(1)
    changes = (*CHANGES, "--config.checkpoint_every=1000")
    streamed = ("--config.data.mode=streamed", "--config.data.workers=2")
    for attempt in range(2):
        flags = train_flags(stopped, tiny_data_dir, "kpn.py:demo", (*changes, *streamed * attempt))
        process = start(flags, subprocess.PIPE)
        kill_at_a_random_step(process, stopped, rng, signal.SIGTERM)
        errors = process.communicate()[1]
        assert process.returncode == STOPPED, errors[-2000:]
        last = errors.splitlines()[-1]
        assert "Traceback" not in errors
        step = read_state(stopped)[0]
        assert f"stopped by SIGTERM at step {step} of" in last
    flags = train_flags(stopped, tiny_data_dir, "kpn.py:demo", changes)
    assert start(flags).wait() == 0
    assert_same_bits(stopped, whole)


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
