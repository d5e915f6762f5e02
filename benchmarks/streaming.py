"""Rate of a training step on MR volumes, with them streamed from disk and without a loader.

    python benchmarks/streaming.py --set=data/phantom_mri/demo/1.0.0
    # on a GPU
    python benchmarks/streaming.py --set=data/phantom_mri/full/1.0.0 --net=transformer --batch=32

The step is a complete one: inputs (crop, rotation, gamma), a network, the cross-entropy on
progression and Adam. Without a loader it trains on one batch that lies on the device; with one, on
the batches of a shuffled sampler, read ahead from the prepared set (`batches.Streamed`); and the
loader is timed alone. The first batches are not counted, since they compile; take several times as
many steps as are read ahead (8). `small` is a network that is fast on a CPU, so that the loader has
to be; `transformer` is that of the paper. Whether the set's files are in the operating system's
page cache is left to chance, as in training. A row is appended to
`benchmarks/results/streaming.csv`.
"""

import argparse
import datetime
import os
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from train_step import hardware

from knee_jax import models
from knee_jax.data import augment, batches, prepared, sampling
from knee_jax.data.mesh import make_mesh

RESULTS = Path(__file__).parent / "results" / "streaming.csv"
NETS = {
    "small": {"name": "volumetric", "arch": "resnext3d_50", "width": 8, "blocks": (1, 1, 1, 1)},
    "transformer": {"name": "slice_sequence"},
}
WARM = 2
"""Number of steps that are not counted."""


def make_step(net: str, dtype: str, size: tuple[int, int, int]):
    """Return the state before the first step, and the step: (state, batch) → state."""
    augmentation = augment.VolumeCrop()
    model = models.create(**NETS[net], targets=("progression",), dtype=jnp.dtype(dtype))
    image = jnp.zeros((1, *augment.input_shape(augmentation, size, 1)))
    variables = jax.jit(model.init)(jax.random.key(0), image)
    optimiser = optax.adam(1e-4)

    def step(state, batch):
        variables, moments, number = state
        key, dropout = jax.random.split(jax.random.fold_in(jax.random.key(0), number))
        images, _ = augment.make_inputs(
            batch,
            key,
            size,
            augmentation.intensities,
            augmentation,
            train=True,
            channels=1,
        )

        def loss(params):
            outputs, updates = model.apply(
                variables | {"params": params},
                images,
                train=True,
                rngs={"dropout": dropout},
                mutable=["batch_stats"],
            )
            labels = batch["labels"]["progression"]
            known = labels >= 0
            each = optax.softmax_cross_entropy_with_integer_labels(
                outputs["progression"], jnp.maximum(labels, 0)
            )
            return jnp.mean(each, where=known), updates

        gradients, updates = jax.grad(loss, has_aux=True)(variables["params"])
        changes, moments = optimiser.update(gradients, moments)
        params = optax.apply_updates(variables["params"], changes)
        return {"params": params, **updates}, moments, number + 1

    state = (variables, optimiser.init(variables["params"]), jnp.int32(0))
    return state, jax.jit(step, donate_argnums=0)


def knees_per_second(batch_size: int, steps: int, one) -> float:
    """Return the rate at which `one()` completes batches, after `WARM` calls."""
    for _ in range(WARM):
        one()
    start = time.perf_counter()
    for _ in range(steps):
        one()
    return batch_size * steps / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", default="data/phantom_mri/demo/1.0.0", help="a prepared set")
    parser.add_argument("--net", default="small", choices=NETS)
    parser.add_argument("--size", type=int, nargs=3, help="rows, columns and slices of the crops")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--workers", type=int, default=0, help="processes that read")
    parser.add_argument("--steps", type=int, default=40)
    args = parser.parse_args()

    busy = round(os.getloadavg()[0], 1)
    knees = prepared.open_set(args.set, ("progression",))
    # Same ratio as 176 x 176 x 80 voxels to 160 x 160 x 64.
    rows, columns, slices = knees.image_shape
    size = tuple(args.size or (rows * 10 // 11, columns * 10 // 11, slices * 4 // 5))
    everyone = np.arange(len(knees.index))
    sampler = sampling.shuffled(everyone, args.batch, seed=0)
    source = batches.Streamed(knees, make_mesh())
    total = range(WARM + args.steps)
    state, step = make_step(args.net, args.dtype, size)

    def train(batch):
        nonlocal state
        state = jax.block_until_ready(step(state, batch))

    stream = source.batches(sampler, total, args.workers)
    loader = knees_per_second(args.batch, args.steps, lambda: jax.block_until_ready(next(stream)))
    batch = next(source.batches(sampler, range(1)))
    without = knees_per_second(args.batch, args.steps, lambda: train(batch))
    stream = source.batches(sampler, total, args.workers)
    streamed = knees_per_second(args.batch, args.steps, lambda: train(next(stream)))
    row = {
        "date": datetime.date.today().isoformat(),
        "hardware": hardware(),
        "knees": len(everyone),
        "volume": "x".join(map(str, knees.image_shape)),
        "view": "x".join(map(str, size)),
        "net": args.net,
        "batch": args.batch,
        "dtype": args.dtype,
        "workers": args.workers,
        "steps": args.steps,
        "loader_alone_per_s": round(loader, 1),
        "without_loader_per_s": round(without, 2),
        "with_loader_per_s": round(streamed, 2),
        "ratio": round(streamed / without, 3),
        "loader_mb_per_s": round(loader * knees.bytes_per_knee / 1e6, 1),
        "jax": jax.__version__,
        "busy": busy,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    pd.DataFrame([row]).to_csv(RESULTS, mode="a", header=not RESULTS.exists(), index=False)
    print(pd.Series(row).to_string())


if __name__ == "__main__":
    main()
