import json

import numpy as np
import pytest

from knee_jax.metrics.summary import summarise, write_metrics
from knee_jax.report.examples import Example
from knee_jax.targets.grades import GRADES
from tests.factories import random_predictions


@pytest.fixture
def table():
    return random_predictions(30)


@pytest.fixture
def early():
    """Knees of KL 0 and 2 alone, told apart."""
    return random_predictions(20, names=("kl0_vs_kl2",))


@pytest.fixture
def make_workdir(tmp_path):
    """Makes a work directory as an evaluation leaves it."""

    def make(name="run", names=GRADES, splits=("validation", "test")):
        workdir = tmp_path / name
        (workdir / "predictions").mkdir(parents=True)
        metrics = {}
        for seed, split in enumerate(splits):
            predictions = random_predictions(12, seed, names)
            predictions.to_csv(workdir / "predictions" / f"{split}.csv", index=False)
            metrics[split] = summarise(predictions, num_resamples=20)
        write_metrics(workdir / "metrics.json", metrics)
        rows = [{"step": s, "wall_s": s / 2, "train/loss": 1 / s, "lr": 1e-4} for s in (1, 2, 3)]
        rows.append({"step": 3, "wall_s": 2.0, "validation/loss": 0.5})
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (workdir / "metrics.jsonl").write_text(lines)
        (workdir / "config.json").write_text('{"model": {"name": "kpn"}, "seed": 3}')
        (workdir / "environment.json").write_text('{"python": "3.11.7"}')
        return workdir

    return make


@pytest.fixture
def examples():
    rng = np.random.default_rng(0)
    image = rng.integers(256, size=(64, 64), dtype=np.uint8)
    keypoints = rng.uniform(5, 59, size=(74, 2)).astype(np.float32)
    return [
        Example(image, {"kl": 2, "jsm": 1}, {"kl": 2, "jsm": 0}, "a & <b>", keypoints),
        Example(image, {"kl": 0, "jsm": 1}, {"kl": 3, "jsm": 1}, "wrong knee"),
        Example(image, {"kl": -1, "jsm": -1}, {"kl": 1, "jsm": 1}, "unread knee"),
    ]
