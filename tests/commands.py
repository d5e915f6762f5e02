"""Running the project's commands as a user does, in processes of their own but for `run_here`."""

import contextlib
import importlib
import io
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest import mock

from absl.testing import flagsaver

REPOSITORY = Path(__file__).parents[1]

SMALL = (
    "--config.data.dataset=phantom_xray/tiny",
    "--config.data.split=ratio",
    "--config.input.size=64",
    "--config.model.width=8",
    "--config.batch_size=8",
    "--config.evaluation.batch_size=8",
    "--config.evaluation.num_resamples=50",
    "--config.epochs=1",
)
"""Overrides that make any config a matter of seconds."""


LONGEST = 600
"""Seconds after which a command is taken to hang; more in long tests (`conftest.py`)."""


def command(*arguments: str | Path, devices: int = 1) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment for `subprocess` of `python -m ARGUMENTS`."""
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        # Compiling is most of a tiny run; networks and steps are tested fully optimised elsewhere.
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        # `run` shows where a hanging command stands.
        "PYTHONFAULTHANDLER": "1",
    }
    return [sys.executable, "-m", *map(str, arguments)], environment


def run(*arguments: str | Path, devices: int = 1) -> subprocess.CompletedProcess:
    """Runs `python -m ARGUMENTS` in the repository's root and returns what it printed."""
    line, environment = command(*arguments, devices=devices)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(line, env=environment, cwd=REPOSITORY, **pipes)
    out, err = wait_for_end(process)
    return subprocess.CompletedProcess(line, process.returncode, out, err)


def wait_for_end(process: subprocess.Popen) -> tuple[str, str]:
    """Returns what a process of `command` prints; fails with its threads' stacks if it hangs."""
    try:
        return process.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        errors = "its pipes stay open"
        with contextlib.suppress(subprocess.TimeoutExpired):
            errors = process.communicate(timeout=60)[1] or ""
        raise AssertionError(f"{process.args} hangs: {errors[-9000:]}") from None
    finally:
        process.kill()


def run_well(*arguments: str | Path, devices: int = 1) -> subprocess.CompletedProcess:
    """As `run`, and fails where the command does."""
    done = run(*arguments, devices=devices)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def run_here(module: str, *arguments: str | Path) -> subprocess.CompletedProcess:
    """As `run`, but in this process, which spares what the command imports."""
    # Their flags must stay when those of the command are forgotten.
    import grain  # noqa: F401
    import orbax.checkpoint  # noqa: F401
    import tensorflow_datasets  # noqa: F401

    from knee_jax import cli
    from knee_jax.cli.run import run_command

    words, name = list(map(str, arguments)), module.rpartition(".")[2]
    out, err, status = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.chdir(REPOSITORY),
        flagsaver.flagsaver(),
        mock.patch.object(sys, "argv", words),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        # ml_collections loads config files by an old way.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            if module == "knee_jax":
                cli.main(words)
            else:
                run_command("train" if name == "main" else name, words)
        except SystemExit as ending:
            status = ending.code or 0
    return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())


def run_here_well(*arguments: str | Path) -> subprocess.CompletedProcess:
    """As `run_here`, of a `knee-jax` command, and fails where the command does."""
    done = run_here("knee_jax", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def train_flags(workdir: Path, data_dir: Path, config: str, changes: Sequence[str]) -> list[str]:
    """The module and flags of a small run."""
    return [
        "knee_jax.main",
        f"--config=configs/{config}",
        f"--workdir={workdir}",
        f"--data_dir={data_dir}",
        *SMALL,
        *_few_blocks(config),
        *changes,
    ]


def _few_blocks(config: str) -> Iterator[str]:
    """Overrides that leave a residual network one block a stage."""
    name, _, variant = config.partition(".py:")
    module = importlib.import_module(f"knee_jax.configs.{name.removesuffix('.py')}")
    model = module.get_config(variant).model
    if "blocks" in model and model.name == "senet":
        yield "--config.model.blocks=(1,1,1,1)"
    elif "depth" in model:
        yield "--config.model.depth=10"


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Waits until a condition holds; fails when that takes longer."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def lives(pid: int | str) -> bool:
    """Return whether there is a process of that number that has not ended."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
