"""What `test_dry_run` asks of eight faked devices, in a process of its own; prints JSON."""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from knee_jax.config import load
from knee_jax.configs import kl
from knee_jax.data import mesh
from knee_jax.training import dry_run, topologies
from knee_jax.training.step import make_train_steps
from knee_jax.workdir.checkpoint import Checkpoints

PIXELS = (96, 96)


class Whole:
    """Preprocessing that gathers the images of all devices on each: a mistake."""

    def __init__(self, run):
        self._of, self._mesh = run.preprocessing, run.mesh

    def __getattr__(self, name):
        return getattr(self._of, name)

    def __call__(self, *arguments, **settings):
        images, keypoints = self._of(*arguments, **settings)
        whole = mesh.replicated(self._mesh)
        return jax.lax.with_sharding_constraint(images, whole), keypoints


def planned(fsdp):
    config = kl.get_config("demo")
    config.input.size, config.model.width, config.model.depth = 64, 16, 10
    config.batch_size = config.evaluation.batch_size = 16
    config.fsdp = fsdp
    return dry_run.plan(load.parse(config), PIXELS, topologies.of("cpu:8"))


def drawn(run):
    """Return a batch of noise."""
    rng = np.random.default_rng(0)

    def draw(shape):
        if shape.dtype == bool:
            value = np.ones(shape.shape, bool)
        elif shape.dtype == jnp.float32:
            value = rng.uniform(10, 80, shape.shape).astype(np.float32)
        else:
            value = rng.integers(0, 2, shape.shape) * (100 if shape.dtype == jnp.uint8 else 1)
        return jax.device_put(value.astype(shape.dtype), shape.sharding)

    return jax.tree.map(draw, dry_run.batch_of(run, PIXELS, (1, run.config.batch_size)))


def trained(run, folder):
    """Return the losses of some steps, the bytes of the state, and the saved state."""
    train_steps, rng = make_train_steps(run), np.random.default_rng(1)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), dry_run.state_of(run))
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.05, leaf.shape), zeros.params)
    params = jax.tree.map(lambda leaf: leaf.astype(np.float32), params)
    state = zeros.replace(params=params)
    state = mesh.place(state, mesh.of_state(run.mesh, state))
    losses = []
    for _ in range(4):
        state, scalars = train_steps(state, run.constants, drawn(run), 1)
        losses.append(float(scalars["loss"][0]))
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(4, state, 0.5)
    return losses, dry_run.bytes_of(state), jax.device_get(state)


def main(folder):
    alone, shared = planned(1), planned(4)
    found = {}
    for name, run in {
        "right": alone,
        "wrong": dataclasses.replace(alone, preprocessing=Whole(alone)),
        "fsdp": shared,
    }.items():
        of = topologies.of("cpu:8")
        measured = dry_run.measure(dry_run.lower_training(run, PIXELS, "cpu"), of)
        found[name] = {
            "kinds": sorted(measured.collectives),
            "unexpected": dry_run.unexpected(run, measured.collectives),
            "arguments": measured.arguments,
        }
    found["alone"], found["bytes alone"], _ = trained(alone, folder / "alone")
    found["shared"], found["bytes shared"], saved = trained(shared, folder / "shared")
    with Checkpoints(folder / "shared") as checkpoints:
        like = jax.eval_shape(alone.random_state)
        restored = checkpoints.restore(4, like, alone.mesh)
    found["restored"] = all(
        np.array_equal(ours, theirs)
        for ours, theirs in zip(jax.tree.leaves(restored), jax.tree.leaves(saved))
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
