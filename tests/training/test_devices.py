"""The same numbers on one device, on eight, and on two processes."""

import json
import socket
import subprocess

import numpy as np
import pandas as pd
import pytest

from tests.commands import REPOSITORY, command, run, run_well, train_flags
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


@pytest.mark.parametrize("mode", ["resident", pytest.param("streamed", marks=pytest.mark.long)])
def test_two_processes_give_the_losses_of_one(mode, one_device, tmp_path, tiny_data_dir):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    changes = (
        *CHANGES,
        f"--config.data.mode={mode}",
        "--distributed",
        f"--coordinator=127.0.0.1:{port}",
        "--num_processes=2",
    )
    processes = []
    for process_id in range(2):
        flags = train_flags(tmp_path, tiny_data_dir, "kpn.py:demo", changes)
        line, environment = command(*flags, f"--process_id={process_id}")
        processes.append(
            subprocess.Popen(
                line,
                env=environment,
                cwd=REPOSITORY,
                stderr=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]
    assert json.loads((tmp_path / "environment.json").read_text())["num_processes"] == 2
    assert_same(tmp_path, one_device)


def test_a_batch_that_cannot_be_divided_is_named(tmp_path, tiny_data_dir):
    flags = train_flags(tmp_path, tiny_data_dir, "kpn.py:demo", ("--config.batch_size=6",))
    done = run(*flags, devices=8)
    assert done.returncode == 1
    assert "config.batch_size = 6 does not divide over 8 devices" in done.stderr
