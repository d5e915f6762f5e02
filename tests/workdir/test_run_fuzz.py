"""Run folders with one damaged file: refused in one line, or right, or told to be another's."""

import collections
import logging
import random
import shutil
import time

import numpy as np
import pandas as pd
import pytest

import knee_jax
from knee_jax.config.load import parse
from knee_jax.errors import UserError
from knee_jax.evaluation.evaluate import evaluate_checkpoint
from knee_jax.training import train
from knee_jax.training.run import set_up
from knee_jax.training.step import compile_functions

pytestmark = pytest.mark.usefixtures("few_optimisations")

NOT_STOOD_ON = ("tensorboard", "predictions", "parameters.txt", ".lock")
SECONDS = 60
SMALL = {
    "input.size": 64,
    "model.width": 8,
    "batch_size": 8,
    "evaluation.batch_size": 8,
    "task.coherence.components": 3,
    "epochs": 2,
    "checkpoint_every": 3,
    "log_every": 1,
}


def flip_a_byte(path, rng, _):
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def truncate(path, rng, _):
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def remove(path, *_):
    path.unlink()


def swap(path, rng, others):
    other = rng.choice([each for each in others if each != path])
    first, second = path.read_bytes(), other.read_bytes()
    path.write_bytes(second)
    other.write_bytes(first)


MUTATIONS = (flip_a_byte, truncate, remove, swap)


class Finished:
    """A finished run, and the ways in which its folder is used."""

    def __init__(self, workdir, data_dir):
        from knee_jax.configs import kpn

        config = kpn.get_config("demo")
        config.data.dataset = "phantom_xray/tiny"
        config.update_from_flattened_dict(SMALL)
        self.config, self.workdir, self.data_dir = parse(config), workdir, data_dir
        run = set_up(self.config, workdir, data_dir)
        self.compiled = compile_functions(run)
        train.train_run(run, workdir, self.compiled)
        test = run.subsets["test"]
        self.knees = test.prepared.load(test.rows)
        self.right = {action: getattr(self, action)(workdir)[0] for action in ACTIONS}

    def load(self, folder):
        predictor = knee_jax.load(folder)
        return predictor.predict(self.knees["image"], self.knees["keypoints"])["kl"], ()

    def evaluate(self, folder):
        run = set_up(self.config, folder, self.data_dir, training=False)
        tables = evaluate_checkpoint(run, folder, self.compiled.predictor).tables
        return tables["test"].filter(like="_p").to_numpy(), run.notes

    def resume(self, folder):
        run = set_up(self.config, folder, self.data_dir)
        train.train_run(run, folder, self.compiled)
        tables = evaluate_checkpoint(run, folder, self.compiled.predictor).tables
        return tables["test"].filter(like="_p").to_numpy(), run.notes


ACTIONS = ("load", "evaluate", "resume")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_data_dir):
    return Finished(tmp_path_factory.mktemp("fuzz") / "run", tiny_data_dir)


def outcome(finished, folder, action, caplog):
    """Use a damaged folder; return what came of it, or fail."""
    caplog.clear()
    begun, refusal = time.monotonic(), None
    try:
        found, notes = getattr(finished, action)(folder)
    except UserError as error:
        refusal = str(error)
    assert time.monotonic() - begun < SECONDS
    if refusal is not None:
        assert "\n" not in refusal
        return "refused"
    told = [*notes, *(r.message for r in caplog.records if r.name.startswith("knee_jax"))]
    if np.array_equal(found, finished.right[action]):
        return "right, and told" if told else "right"
    assert told, "another answer, without a word"
    return "another checkpoint's, and told"


@pytest.mark.parametrize(
    "number", [pytest.param(12, marks=pytest.mark.slow), pytest.param(500, marks=pytest.mark.long)]
)
def test_damaged_runs(finished, number, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    counts, failures = collections.Counter(), []
    for seed in range(number):
        rng = random.Random(seed)
        copy = shutil.copytree(finished.workdir, tmp_path / "copy")
        files = sorted(
            path
            for path in copy.rglob("*")
            if path.is_file()
            and path.stat().st_size
            and path.relative_to(copy).parts[0] not in NOT_STOOD_ON
        )
        mutate, file = MUTATIONS[seed % len(MUTATIONS)], rng.choice(files)
        mutate(file, rng, files)
        action = rng.choice(ACTIONS)
        what = f"seed {seed}: {mutate.__name__} {file.relative_to(copy)}, then {action}"
        try:
            counts[mutate.__name__, action, outcome(finished, copy, action, caplog)] += 1
        except BaseException as error:
            failures.append(f"{what}: {type(error).__name__}: {error}")
        shutil.rmtree(copy)
    table = pd.Series(counts)
    print(table.to_string())
    assert not failures, "\n".join(failures)
    assert table.sum() == number
