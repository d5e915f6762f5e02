"""Ends of processes that wait for one another; `tests/training/test_devices.py` starts them."""

import os
import signal
import subprocess
import sys

import jax
import pytest

from knee_jax.cli import joined
from knee_jax.errors import STOPPED, Stopped, UserError


@pytest.mark.parametrize("flag", ["--distributed", "-distributed", "--distributed=true"])
def test_the_log_of_xla_is_hidden_where_processes_join(flag, monkeypatch):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    joined.without_native_logs(["--config=kpn", "--nodistributed", "--workdir=distributed"])
    assert "TF_CPP_MIN_LOG_LEVEL" not in os.environ
    joined.without_native_logs(["--config=kpn", flag])
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "4"
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    joined.without_native_logs([flag])
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0"


@pytest.mark.parametrize(
    ("message", "lost"),
    [
        ("UNKNOWN: Gloo all-reduce failed: Connection reset by peer", True),
        ("INTERNAL: NCCL operation ncclGroupEnd() failed", True),
        ("DEADLINE_EXCEEDED: Barrier timed out", True),
        ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8 bytes", False),
    ],
)
def test_the_loss_of_another_process_is_told_from_faults_of_our_own(message, lost):
    error = jax.errors.JaxRuntimeError(message)
    assert joined._is_of_another(error) == lost
    wrapped = RuntimeError("while saving")
    wrapped.__cause__ = error
    assert joined._is_of_another(wrapped) == lost
    assert not joined._is_of_another(ValueError(message))


def test_statuses_are_those_of_a_single_process():
    endings = (Stopped("x"), KeyboardInterrupt(), UserError("x"), RuntimeError("x"))
    assert [joined._status_of(each) for each in endings] == [STOPPED, 130, 1, 1]


def test_an_abort_is_one_line_and_a_status():
    code = f"import os; from knee_jax.cli import joined; joined._on_abort('lost', {STOPPED}); "
    done = subprocess.run(
        [sys.executable, "-c", f"{code} os.abort()"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.strip()) == (STOPPED, "lost")
    done = subprocess.run([sys.executable, "-c", "import os; os.abort()"], capture_output=True)
    assert done.returncode == -signal.SIGABRT
