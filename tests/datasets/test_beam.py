"""The shards made by Apache Beam, in a process of its own: Beam warns of much."""

import importlib.util
import os

import pytest

from knee_jax.datasets.prepare import prepare
from knee_jax.errors import UserError
from tests.commands import run
from tests.folders import contents

NUM_CROPS = 30


@pytest.fixture
def raw(write_crops):
    return write_crops(NUM_CROPS)


@pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None, reason="Apache Beam is not installed"
)
@pytest.mark.parametrize(
    "options",
    [
        "--direct_running_mode=in_memory",
        pytest.param(
            "--direct_num_workers=2,--direct_running_mode=multi_processing", marks=pytest.mark.long
        ),
    ],
)
def test_beam_makes_the_same_set(raw, tmp_path, monkeypatch, options):
    # The command, but with small shards.
    (tmp_path / "small_shards.py").write_text(
        "from knee_jax.cli.run import run_command\n"
        "from knee_jax.datasets.builders import KneeBuilder\n"
        "KneeBuilder.jobs_per_shard = 4\n"
        "if __name__ == '__main__':\n"
        "    run_command('prepare')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    found = []
    for how in (["--workers=1"], ["--beam_runner=DirectRunner", f"--beam_options={options}"]):
        data_dir = tmp_path / how[0]
        flags = ["--dataset=kneekl224", f"--manual_dir={raw}", f"--data_dir={data_dir}"]
        done = run("small_shards", *flags, *how)
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(contents(data_dir / "kneekl224" / "1.0.0"))
    assert found[0] == found[1]
    assert sum("array_record" in name for name in found[0]) == 6 + 3


def test_beam_that_is_not_installed(raw, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == "apache_beam" else find(name),
    )
    with pytest.raises(UserError, match=r"pip install -e '.\[beam\]'"):
        prepare("kneekl224", tmp_path / "data", raw, beam_runner="DirectRunner")
