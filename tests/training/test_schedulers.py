"""Scripts of schedulers that start a run again."""

import os
import subprocess

import pytest
import yaml

from knee_jax.errors import STOPPED
from tests.commands import REPOSITORY, run_here

SCRIPTS = REPOSITORY / "docs/how-to/scripts"


@pytest.mark.parametrize(
    ("status", "restarts", "requeued"),
    [
        (0, 0, False),
        (1, 0, False),
        (130, 0, False),
        (STOPPED, 0, True),
        (137, 0, True),
        (STOPPED, 20, False),
    ],
)
def test_the_slurm_job_is_requeued_where_that_helps(status, restarts, requeued, tmp_path):
    log = tmp_path / "log"
    for name, ending in (("srun", f"exit {status}"), ("scontrol", "")):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {log}\n{ending}\n')
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "SLURM_JOB_ID": "17",
        "SLURM_RESTART_COUNT": str(restarts),
    }
    done = subprocess.run(
        ["bash", SCRIPTS / "slurm.sh", "--config=kpn", "--workdir=a b"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (status, "")
    first, *others = log.read_text().splitlines()
    assert first.endswith("knee-jax train --distributed --config=kpn --workdir=a b")
    assert others == (["scontrol requeue 17"] if requeued else [])


def test_the_jobset_starts_a_command_that_there_is():
    jobset = yaml.safe_load((SCRIPTS / "jobset.yaml").read_text())
    job = jobset["spec"]["replicatedJobs"][0]
    spec = job["template"]["spec"]
    container = spec["template"]["spec"]["containers"][0]
    flags = dict(word.removeprefix("--").split("=") for word in container["args"])
    known = run_here("knee_jax", "train", "--help").stdout
    assert all(f"--{name}" in known for name in flags)
    assert int(flags["num_processes"]) == spec["completions"] == spec["parallelism"]
    # Pods are named JOBSET-JOB-REPLICA-INDEX, in the domain of the JobSet.
    name = jobset["metadata"]["name"]
    assert flags["coordinator"].split(":")[0] == f"{name}-{job['name']}-0-0.{name}"
    never = spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"]
    assert STOPPED not in never
