"""How commands tell their users' mistakes: run as a user would run them."""

import errno
import os
import subprocess
import sys

import pytest

from knee_jax.cli import explain
from knee_jax.errors import UserError

SCRIPT = """
import os, signal
from absl import flags
from ml_collections import config_flags
from knee_jax import cli
from knee_jax.errors import UserError

flags.DEFINE_enum("do", "run", ["run", "err", "bug", "stop"], "")
config = config_flags.DEFINE_config_file("config")

def main(argv):
    what = flags.FLAGS.do
    if what == "err":
        raise UserError("film.dcm: no spacing;\\nmeasure it")
    if what == "bug":
        raise RuntimeError("a fault of ours")
    if what == "stop":
        os.kill(os.getpid(), signal.SIGINT)
    print("learning rate", config.value.data.rate)

cli.run(main)
"""
CONFIG = """
from ml_collections import ConfigDict
from knee_jax.errors import UserError

def get_config(variant=""):
    if variant:
        raise UserError(f"no variant {variant!r}; there is: none")
    return ConfigDict({"data": {"rate": 0.5}})
"""


@pytest.fixture
def command(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "config.py").write_text(CONFIG)

    def run(*arguments):
        words = [sys.executable, "script.py", "--config=config.py", *arguments]
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    return run


def test_all_is_well(command):
    done = command("--config.data.rate=0.25")
    assert (done.returncode, done.stdout) == (0, "learning rate 0.25\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--do=err"], "film.dcm: no spacing; measure it"),
        (["--dew=err"], "'dew'"),
        (["--do=nothing"], "--do=nothing"),
        (["--config.data.rat=1"], "no field 'rat'"),
        (["--config.dada.rate=1"], "no field 'dada'"),
        (["--config.data.rate=much"], "'much'"),
        (["--config=config.py:tiny"], "no variant 'tiny'; there is: none"),
        (["--config=none.py"], "none.py: no such file"),
        (["word"], "'word'"),
    ],
)
def test_one_line_and_status_1(command, arguments, told):
    done = command(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert told in done.stderr
    assert not done.stdout


def test_interrupt(command):
    done = command("--do=stop")
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_a_fault_of_ours_keeps_its_traceback(command):
    done = command("--do=bug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_full_disk(code):
    assert "disk is full" in explain(OSError(code, os.strerror(code), "a.txt"))
    # As ArrayRecord and Orbax tell it.
    wrapped = ValueError(f"RESOURCE_EXHAUSTED: write() failed: {os.strerror(code)} [{code}]")
    assert "disk is full" in explain(wrapped)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.EACCES])
def test_places_that_cannot_be_used(code):
    error = OSError(code, os.strerror(code), "data")
    assert explain(error) == f"data: {os.strerror(code).lower()}"


def test_what_lies_beneath():
    error = RuntimeError("while writing the split")
    error.__cause__ = UserError("table.txt: a column is missing")
    assert explain(error) == "table.txt: a column is missing"
    assert explain(RuntimeError("a fault of ours")) is None
