"""Predictions for a run's knees, every knee exactly once, on any number of devices."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import pandas as pd

from knee_jax.data import mesh, views
from knee_jax.data.batches import Batch

if TYPE_CHECKING:
    from knee_jax.training.run import Run, StepConstants
    from knee_jax.training.state import Variables

Predictor = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
"""Compiled function from (variables, constants, batch) to rows of the index and decoded outputs."""


def make_predictor(run: "Run") -> Predictor:
    """Compile the prediction; its results are complete on every process."""

    def predictor(
        variables: "Variables", constants: "StepConstants", batch: Batch
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        images, keypoints = run.preprocessing(
            batch, jax.random.key(0), constants.intensities, train=False
        )

        def forward(images: jax.Array) -> dict[str, jax.Array]:
            outputs: Any = run.model.apply(variables, images, keypoints, train=False)
            return constants.task.decode(outputs)

        decoded = views.averaged(forward, images, run.config.evaluation, run.targets)
        true = run.preprocessing.places(keypoints, run.targets)
        # In pixels of the prepared image, whose spacing the index knows, the truth beside.
        for name, places in true.items():
            side = batch["image"].shape[1]
            decoded[name] = side * jnp.concatenate([decoded[name], places], axis=-1)
        return batch["row"], decoded

    return jax.jit(predictor, out_shardings=mesh.replicated(run.mesh))


def predict(run: "Run", predictor: Predictor, variables: "Variables", part: str) -> pd.DataFrame:
    """Make the predictions table of a part of a run's knees."""
    subset = run.subsets[part]
    predicted = subset.map(
        lambda batch: predictor(variables, run.constants, batch),
        subset.rows,
        run.config.evaluation.batch_size,
    )
    # In the task's order, since a compiled function sorts its results by name.
    decoded = {name: predicted[name] for name in run.task.targets}
    table = run.task.table(subset.prepared.index, subset.rows, decoded)
    origin: dict[str, str | int] = {
        "split": part,
        "model": run.config.model.name,
        "fold": run.config.data.fold,
    }
    for place, (column, value) in enumerate(origin.items(), start=5):
        table.insert(place, column, value)
    return table
