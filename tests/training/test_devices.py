"""The same numbers on one device, on eight, and on two processes."""

import json
import shutil
import signal
import socket
import subprocess
import time

import numpy as np
import pandas as pd
import pytest

from knee_jax.errors import STOPPED
from tests.commands import REPOSITORY, command, run, run_well, train_flags, wait_for
from tests.folders import losses

pytestmark = pytest.mark.slow

CHANGES = ("--config.log_every=1", "--config.batch_size=8", "--config.data.mode=resident")


@pytest.fixture(scope="module")
def one_device(tmp_path_factory, tiny_data_dir):
    workdir = tmp_path_factory.mktemp("one")
    run_well(*train_flags(workdir, tiny_data_dir, "kpn.py:demo", CHANGES))
    return workdir


def assert_same(workdir, reference):
    assert len(losses(reference)) >= 5
    np.testing.assert_allclose(losses(workdir)[:5], losses(reference)[:5], atol=1e-4, rtol=0)
    for split in ("validation", "test"):
        ours, theirs = (
            pd.read_csv(folder / "predictions" / f"{split}.csv") for folder in (workdir, reference)
        )
        identity = ["subject", "side", "visit", "kl"]
        pd.testing.assert_frame_equal(ours[identity], theirs[identity])
        probabilities = ours.filter(regex="_p[0-4]$").columns
        assert len(probabilities) == 29
        # Adam's first steps have the size of the rate whatever the gradient, so that rounding may
        # be amplified; another knee's probabilities differ by far more.
        np.testing.assert_allclose(ours[probabilities], theirs[probabilities], atol=0.02)


def test_eight_devices_give_the_losses_of_one(one_device, tmp_path, tiny_data_dir):
    run_well(*train_flags(tmp_path, tiny_data_dir, "kpn.py:demo", CHANGES), devices=8)
    assert len(json.loads((tmp_path / "environment.json").read_text())["devices"]) == 8
    assert_same(tmp_path, one_device)


def start_two(workdir, data_dir, changes):
    """Start two processes of one run, which speak to each other."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    joined = ("--distributed", f"--coordinator=127.0.0.1:{port}", "--num_processes=2")
    flags = train_flags(workdir, data_dir, "kpn.py:demo", (*CHANGES, *changes, *joined))
    processes = []
    for process_id in range(2):
        line, environment = command(*flags, f"--process_id={process_id}")
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(line, env=environment, cwd=REPOSITORY, **pipes))
    return processes


@pytest.mark.parametrize("mode", ["resident", pytest.param("streamed", marks=pytest.mark.long)])
def test_two_processes_give_the_losses_of_one(mode, one_device, tmp_path, tiny_data_dir):
    for process in start_two(tmp_path, tiny_data_dir, (f"--config.data.mode={mode}",)):
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]
    assert json.loads((tmp_path / "environment.json").read_text())["num_processes"] == 2
    assert_same(tmp_path, one_device)


def signal_one(processes, which, number, workdir, lines):
    """Signal one of two processes once so many lines are logged; return statuses and errors."""
    log = workdir / "metrics.jsonl"
    wait_for(lambda: log.exists() and log.read_text().count("\n") >= lines, seconds=200)
    processes[which].send_signal(number)
    signalled = time.monotonic()
    errors = [process.communicate(timeout=100)[1] for process in processes]
    assert time.monotonic() - signalled < 60
    return [process.returncode for process in processes], errors


# Calls of several steps, none of which may be missed when all agree on where to stop.
SEVERAL = ("--config.log_every=2", "--config.steps_per_call=2", "--config.epochs=8")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, tiny_data_dir):
    """The folder of a run of two processes, one of which was sent SIGTERM; and its last step."""
    workdir = tmp_path_factory.mktemp("stopped")
    processes = start_two(workdir, tiny_data_dir, SEVERAL)
    statuses, errors = signal_one(processes, 1, signal.SIGTERM, workdir, 1)
    assert statuses == [STOPPED, STOPPED], errors
    step = max(int(path.name) for path in (workdir / "checkpoints").glob("[0-9]*"))
    for text in errors:
        assert f"stopped by SIGTERM at step {step} of" in text.splitlines()[-1]
        assert "Traceback" not in text
    return workdir, step


def test_where_one_process_is_stopped_or_lost_the_other_says_so(stopped, tmp_path, tiny_data_dir):
    workdir = shutil.copytree(stopped[0], tmp_path / "run")
    logged = (workdir / "metrics.jsonl").read_text().count("\n")
    processes = start_two(workdir, tiny_data_dir, SEVERAL)
    statuses, errors = signal_one(processes, 1, signal.SIGKILL, workdir, logged + 1)
    assert statuses == [STOPPED, -signal.SIGKILL], errors
    assert "another process of the run has ended" in errors[0].splitlines()[-1]
    assert "Traceback" not in errors[0]
    assert "@ 0x" not in errors[0]


@pytest.mark.long
def test_a_stopped_run_goes_on_with_other_devices_and_workers(stopped, tmp_path, tiny_data_dir):
    """With the same knees in the same batches; others differ by far more than rounding."""
    found = []
    elsewhere = ((1, ()), (8, ("--config.data.mode=streamed", "--config.data.workers=1")))
    for devices, changes in elsewhere:
        workdir = shutil.copytree(stopped[0], tmp_path / str(devices))
        before = len(losses(workdir))
        flags = train_flags(workdir, tiny_data_dir, "kpn.py:demo", (*CHANGES, *SEVERAL, *changes))
        done = run_well(*flags, devices=devices)
        assert f"resuming at step {stopped[1]} of" in done.stdout
        found.append(losses(workdir)[before : before + 4])
    assert len(found[0]) == 4
    # Adam then amplifies rounding, whatever the devices.
    np.testing.assert_allclose(found[1][:2], found[0][:2], rtol=1e-4)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-2)


def test_a_batch_that_cannot_be_divided_is_named(tmp_path, tiny_data_dir):
    flags = train_flags(tmp_path, tiny_data_dir, "kpn.py:demo", ("--config.batch_size=6",))
    done = run(*flags, devices=8)
    assert done.returncode == 1
    assert "config.batch_size = 6 does not divide over 8 devices" in done.stderr
