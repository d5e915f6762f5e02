"""Interruptions of a run, of all kinds and at random: it ends in the bits of an undisturbed one.

    make chaos                                        # twenty of them; about fifteen minutes
    python -m tests.training.chaos --interruptions=20 --seed=0

Every start reads its knees in another way: from the device, or streamed by up to two workers.
"""

import argparse
import collections
import random
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from knee_jax.errors import STOPPED
from tests.commands import REPOSITORY, command, train_flags, wait_for_end

CHANGES = (
    "--config.checkpoint_every=3",
    "--config.log_every=1",
    # More that has to be saved.
    "--config.optimizer.ema_decay=0.9",
    "--config.optimizer.accumulation=2",
    "--config.optimizer.schedule=one_cycle",
)

READERS = (
    ("--config.data.mode=resident",),
    *(("--config.data.mode=streamed", f"--config.data.workers={n}") for n in (0, 1, 2)),
)

LARGEST_FILE = 100_000
"""Bytes of a file beyond which the disk of `fill_the_disk` is full; a checkpoint has more."""


def start(flags: Sequence[str], errors: int = subprocess.DEVNULL) -> subprocess.Popen:
    line, environment = command(*flags)
    return subprocess.Popen(
        line, env=environment, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=errors, text=True
    )


def read_state(workdir: Path):
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


def assert_same_bits(disturbed: Path, whole: Path) -> None:
    (ours_step, ours), (theirs_step, theirs) = read_state(disturbed), read_state(whole)
    assert ours_step == theirs_step
    ours, theirs = dict(flatten(ours)), dict(flatten(theirs))
    assert ours.keys() == theirs.keys()
    assert len(ours) > 100
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], name)
    assert (disturbed / "metrics.json").read_text() == (whole / "metrics.json").read_text()
    assert steps_logged(disturbed) == steps_logged(whole)


def steps_logged(workdir: Path) -> list[str]:
    return [line.split(",")[0] for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def wait_for_lines(process: subprocess.Popen, workdir: Path, number: int) -> None:
    """Wait until so many more lines are logged, or the process ends."""
    log = workdir / "metrics.jsonl"

    def lines():
        return log.read_text().count("\n") if log.exists() else 0

    until = lines() + number
    while process.poll() is None and lines() < until:
        time.sleep(0.0005)


def newest(workdir: Path) -> Path | None:
    """Return the folder of the newest checkpoint."""
    found = [path for path in (workdir / "checkpoints").glob("*") if path.name.isdecimal()]
    return max(found, key=lambda path: int(path.name), default=None)


# Each waits for its moment, interrupts, and says whether the process ended as it should.


def kill(process, workdir, rng) -> bool:
    wait_for_lines(process, workdir, rng.randint(1, 4))
    time.sleep(rng.random() * 0.2)
    process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


def kill_early(process, workdir, rng) -> bool:
    """Kill while the run is being set up, its files read or its programs compiled."""
    time.sleep(rng.random() * 10)
    process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


def kill_while_saving(process, workdir, rng) -> bool:
    """Kill as soon as a checkpoint is seen that is not yet whole."""
    while process.poll() is None:
        if any((workdir / "checkpoints").glob("*orbax-checkpoint-tmp*")):
            process.kill()
        time.sleep(0.0005)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def stop(process, workdir, rng) -> bool:
    """Send SIGTERM, as schedulers do; the step is saved."""
    wait_for_lines(process, workdir, rng.randint(1, 4))
    process.send_signal(signal.SIGTERM)
    errors = wait_for_end(process)[1]
    assert "Traceback" not in errors
    if process.returncode == STOPPED:
        step = newest(workdir).name
        assert f"stopped by SIGTERM at step {step} of" in errors.splitlines()[-1]
    return process.returncode == STOPPED


def interrupt(process, workdir, rng) -> bool:
    """Press Ctrl-C."""
    wait_for_lines(process, workdir, rng.randint(1, 4))
    process.send_signal(signal.SIGINT)
    errors = wait_for_end(process)[1]
    assert "Traceback" not in errors
    if process.returncode == 130:
        assert errors.splitlines()[-1] == "interrupted"
    return process.returncode == 130


def fill_the_disk(process, workdir, rng) -> bool:
    """Let no file grow as large as a checkpoint, which is what a full disk or a quota does."""
    wait_for_lines(process, workdir, rng.randint(1, 4))
    limits = (LARGEST_FILE, resource.RLIM_INFINITY)
    try:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, limits)
    except ProcessLookupError:
        return False
    errors = wait_for_end(process)[1]
    assert "Traceback" not in errors, errors[-3000:]
    if process.returncode == 1:
        assert "the disk is full" in errors.splitlines()[-1]
    return process.returncode == 1


def damage(process, workdir, rng) -> bool:
    """Kill, and damage a file of the newest checkpoint."""
    if not kill(process, workdir, rng) or not (folder := newest(workdir)):
        return False
    files = sorted(path for path in folder.glob("default/**/*") if path.stat().st_size > 1)
    file = rng.choice([path for path in files if path.is_file()])
    content = bytearray(file.read_bytes())
    place = rng.randrange(len(content))
    content[place] ^= 0xFF
    cut = rng.randrange(len(content))
    rng.choice([lambda: file.write_bytes(content), lambda: file.write_bytes(content[:cut])])()
    return True


KINDS: tuple[Callable, ...] = (
    *(kill, kill_early, kill_while_saving, stop, interrupt, fill_the_disk, damage),
)


def disturb(
    workdir: Path, data_dir: Path, changes: Sequence[str], kinds: Sequence[Callable], seed: int
) -> collections.Counter:
    """Interrupt a run once in each of the ways, then let it end; return how often each was done."""
    rng = random.Random(seed)
    done: collections.Counter = collections.Counter()
    for kind in kinds:
        reader = rng.choice(READERS)
        flags = train_flags(workdir, data_dir, "kpn.py:demo", (*CHANGES, *changes, *reader))
        before = newest(workdir)
        happened = kind(start(flags, subprocess.PIPE), workdir, rng)
        done[kind.__name__] += happened
        after = newest(workdir)
        print(
            f"{kind.__name__:18} {'' if happened else 'too late, '}from step "
            f"{before.name if before else 0} to {after.name if after else 0}",
            flush=True,
        )
    flags = train_flags(workdir, data_dir, "kpn.py:demo", (*CHANGES, *changes))
    last = start(flags, subprocess.PIPE)
    errors = wait_for_end(last)[1]
    assert last.returncode == 0, errors[-3000:]
    if done["damage"]:
        assert any((workdir / "set_aside").iterdir())
    return done


def main() -> None:
    from knee_jax.datasets.prepare import prepare

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--interruptions", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    kinds = [KINDS[i % len(KINDS)] for i in range(options.interruptions)]
    rng.shuffle(kinds)
    changes = (f"--config.epochs={options.epochs}",)
    with tempfile.TemporaryDirectory() as folder:
        data_dir, whole, disturbed = (Path(folder) / n for n in ("data", "whole", "disturbed"))
        prepare("phantom_xray/tiny", data_dir)
        flags = train_flags(whole, data_dir, "kpn.py:demo", (*CHANGES, *changes))
        assert start(flags).wait() == 0
        print(f"undisturbed: {read_state(whole)[0]} steps", flush=True)
        done = disturb(disturbed, data_dir, changes, kinds, options.seed)
        assert_same_bits(disturbed, whole)
    print(f"{sum(done.values())} interruptions ({dict(done)}): the same bits in the end")
    assert sum(done.values()) >= 0.9 * options.interruptions, (
        "the run ended too soon: more --epochs"
    )


if __name__ == "__main__":
    main()
