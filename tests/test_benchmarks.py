"""The programmes of benchmarks, run with a Python that only writes down its commands."""

import shutil
import subprocess

from tests.commands import REPOSITORY

PYTHON = """#!/bin/bash
echo "$@" >> {log}
case "$*" in
    *siamese_gap*) exit 3 ;;
    *se_resnext*) sleep 30 ;;
esac
echo "date,net" > benchmarks/results/train_step.csv
"""


def assert_there(commands):
    """Every script that is named is there, with every flag."""
    for command in commands:
        name, *flags = command.split()
        if name.endswith(".py"):
            source = (REPOSITORY / name).read_text()
            assert all(f'"{flag.partition("=")[0]}"' in source for flag in flags), command


def test_a_part_that_fails_or_hangs_costs_only_itself(tmp_path):
    folder = tmp_path / "benchmarks"
    (folder / "results").mkdir(parents=True)
    script = shutil.copy(REPOSITORY / "benchmarks/accelerator.sh", folder)
    text = folder.joinpath("accelerator.sh").read_text().replace('"step_$1" 75', '"step_$1" 0.3')
    folder.joinpath("accelerator.sh").write_text(text)
    python, log, out = tmp_path / "python", tmp_path / "log", tmp_path / "out"
    python.write_text(PYTHON.format(log=log))
    python.chmod(0o755)
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name in ("a.whl", "b.whl"):
        (wheels / name).touch()
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(python), "WHEELS": "wheels"}
    subprocess.run(["bash", script, str(out)], env=environment, cwd=tmp_path, check=True)
    install, itself, *parts = log.read_text().splitlines()
    assert install == "-m pip install --quiet --no-deps wheels/a.whl wheels/b.whl"
    assert itself == "-m pip install --quiet --no-deps --no-build-isolation -e ."
    assert_there(parts)
    told = (out / "parts.txt").read_text().splitlines()
    assert len(told) == len(parts) == 7
    assert [line.split()[2] for line in told[:4]] == ["0", "3", "124", "0"]
    assert (out / "train_step.csv").read_text() == "date,net\n"


def test_a_processor_is_measured_by_scripts_that_there_are(tmp_path):
    python, log = tmp_path / "python", tmp_path / "log"
    python.write_text(f'#!/bin/bash\necho "$@" >> {log}\n')
    python.chmod(0o755)
    script = REPOSITORY / "benchmarks/processor.sh"
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(python)}
    subprocess.run(["bash", script], env=environment, cwd=tmp_path, check=True)
    commands = log.read_text().splitlines()
    assert len(commands) == 24
    assert commands[-1] == "benchmarks/plot.py"
    assert_there(commands)
