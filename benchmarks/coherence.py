"""Cost of the incoherence loss as a share of a training step.

    python benchmarks/coherence.py --batch=8 --rounds=3   # the step; the loss always at 48

The loss is timed forward and backward, from the logits of 48 knees to their gradient, and so is the
classification loss alone; the difference is the cost of coherence. The step is keypoint pooling on
ResNet-50 at 320 px (`train_step.py`), with a batch that fits the machine, scaled in proportion to
48 knees. A row is appended to `benchmarks/results/coherence.csv`.
"""

import argparse
import datetime
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from train_step import hardware, ours

from knee_jax.metrics import grade_coherence
from knee_jax.targets.grades import GRADES, NUM_CLASSES
from knee_jax.tasks.grading import Grading, uniform_weights

RESULTS = Path(__file__).parent / "results" / "coherence.csv"
BATCH = 48


def median_seconds(run, rounds: int) -> float:
    """Return the median over the rounds, after one that compiles."""
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[1:]))


def loss_seconds(mixture: grade_coherence.Mixture | None, grades, rounds: int) -> float:
    """Return the time of the loss of 48 knees, and of its gradient with respect to their logits."""
    rng = np.random.default_rng(0)
    weights = {g: uniform_weights(range(c)) for g, c in NUM_CLASSES.items()}
    task = Grading(weights, mixture, coherence_weight=float(mixture is not None))
    outputs = {g: rng.normal(size=(BATCH, c)).astype("f4") for g, c in NUM_CLASSES.items()}
    labels = {g: grades[:BATCH, i] for i, g in enumerate(GRADES)}
    mask = np.ones(BATCH, bool)
    arguments = jax.device_put((task, outputs, labels, mask, jnp.float32(2.0)))

    @jax.jit
    def run(task, outputs, labels, mask, epoch):
        return jax.value_and_grad(task.loss, has_aux=True)(outputs, labels, mask, epoch, {})

    return median_seconds(lambda: jax.block_until_ready(run(*arguments)), rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=BATCH, help="of the step")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    grades = np.stack([rng.integers(0, NUM_CLASSES[g], 500) for g in GRADES], 1).astype(np.int8)
    with_s = loss_seconds(grade_coherence.fit(grades), grades, 200)
    without_s = loss_seconds(None, grades, 200)
    image = rng.normal(size=(args.batch, args.size, args.size, 1)).astype("f4")
    keypoints = rng.uniform(0, args.size, (args.batch, 74, 2)).astype("f4")
    labels = rng.integers(0, 4, args.batch).astype(np.int32)
    step, _ = ours("kpn_resnet50", args.dtype, image, keypoints, labels)
    step_s = median_seconds(step, args.rounds) * BATCH / args.batch
    row = {
        "date": datetime.date.today().isoformat(),
        "hardware": hardware(),
        "dtype": args.dtype,
        "size": args.size,
        "step_batch": args.batch,
        "step_s_for_48": round(step_s, 3),
        "classification_ms": round(1e3 * without_s, 4),
        "with_coherence_ms": round(1e3 * with_s, 4),
        "added_percent_of_step": round(100 * (with_s - without_s) / step_s, 4),
        "rounds": args.rounds,
        "jax": jax.__version__,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    pd.DataFrame([row]).to_csv(RESULTS, mode="a", header=not RESULTS.exists(), index=False)
    print(pd.Series(row).to_string())


if __name__ == "__main__":
    main()
