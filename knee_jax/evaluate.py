"""The best checkpoint of a run → predictions tables, metrics with intervals, and the report."""

from collections.abc import Callable
from pathlib import Path

import jax
import ml_collections
import numpy as np
import pandas as pd

from knee_jax import sharding
from knee_jax import state as states
from knee_jax import workdir as workdirs
from knee_jax.checkpoint import Checkpoints
from knee_jax.data import sampling
from knee_jax.data.augment import Augmentation
from knee_jax.data.batches import Batch
from knee_jax.errors import UserError
from knee_jax.experiment import Experiment, set_up
from knee_jax.metrics import bootstrap
from knee_jax.metrics.summary import summarise, write_metrics
from knee_jax.report.examples import Example, choose_examples
from knee_jax.report.page import write_report
from knee_jax.report.tables import terminal_table

Predictor = Callable[[states.Variables, Batch], tuple[jax.Array, dict[str, jax.Array]]]
"""(variables, batch) → the batch's rows of the index, and class probabilities."""


def evaluate(config: ml_collections.ConfigDict, workdir: Path, data_dir: Path) -> None:
    """Evaluates the best checkpoint in `workdir` on its validation and test knees.

    Writes `predictions/<split>.csv`, `metrics.json` and `report/`, and prints the metrics.

    Args:
        config: the run's config.
        workdir: the run's folder.
        data_dir: where prepared sets are.

    Raises:
        UserError: there is no checkpoint, or it is of another config.
    """
    workdirs.require(workdir)
    workdirs.refuse_other(workdir, config)
    # Read only: the run may be training at this moment.
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        best = checkpoints.best_step()
        if best is None:
            raise UserError(f"{workdir} holds no validated checkpoint: train first")
        experiment = set_up(config, workdir, data_dir)
        like = jax.eval_shape(experiment.random_state)
        variables = checkpoints.restore(best, like, experiment.mesh).variables

    predictor = make_predictor(experiment)
    names = [name for name in ("validation", "test") if len(experiment.split[name])]
    tables = {name: predict(experiment, predictor, variables, name) for name in names}
    if jax.process_index() == 0:
        write_results(experiment, tables, workdir, best)


def write_results(
    experiment: Experiment, tables: dict[str, pd.DataFrame], workdir: Path, step: int
) -> None:
    """Writes tables, metrics and report of a checkpoint, and prints the last split's metrics."""
    config, settings = experiment.config, experiment.config.evaluation
    (workdir / "predictions").mkdir(exist_ok=True)
    for name, table in tables.items():
        table.to_csv(workdir / "predictions" / f"{name}.csv", index=False, float_format="%.6g")
    metrics = {
        name: summarise(table, settings.num_resamples, scheme=settings.scheme)
        for name, table in tables.items()
    }
    write_metrics(workdir / "metrics.json", metrics)
    last = list(tables)[-1]
    page = write_report(
        workdir,
        examples(experiment, tables[last], last),
        title=f"{config.data.dataset} read by {config.model.name}",
        intervals=bootstrap.describe(settings.num_resamples, scheme=settings.scheme),
    )
    print(f"\n{last} knees, checkpoint of step {step}, 95 % intervals by {settings.scheme}:\n")
    print(terminal_table(metrics[last]))
    if last == "validation":
        print("\nThese knees also chose the checkpoint, so the numbers are a little optimistic.")
    print(f"\nreport: {page}")


def make_predictor(experiment: Experiment) -> Predictor:
    """The compiled prediction; its results are whole on every process."""

    def predictor(
        variables: states.Variables, batch: Batch
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        images, keypoints = experiment.views(batch, jax.random.key(0), Augmentation())
        outputs = experiment.model.apply(variables, images, keypoints, train=False)
        return batch["row"], experiment.task.probabilities(outputs)

    return jax.jit(predictor, out_shardings=sharding.replicated(experiment.mesh))


def predict(
    experiment: Experiment, predictor: Predictor, variables: states.Variables, split: str
) -> pd.DataFrame:
    """The predictions table of a split: every knee exactly once, on any number of devices."""
    config = experiment.config
    rows, size = experiment.split[split], config.evaluation.batch_size
    steps = range(sampling.num_batches(len(rows), size))
    batches = experiment.source.batches(sampling.in_order(rows, size), steps)
    predicted = jax.device_get([predictor(variables, batch) for batch in batches])
    # Rows come back with the probabilities: whatever the devices did, each keeps its own.
    at = np.concatenate([row for row, _ in predicted])
    known = at != sampling.PADDING
    if not np.array_equal(at[known], rows):
        raise RuntimeError(f"the {split} knees came back in another order, or not once each")
    probabilities = {
        grade: np.concatenate([part[grade] for _, part in predicted])[known]
        for grade in experiment.task.grades
    }
    table = experiment.task.table(experiment.prepared.index, rows, probabilities)
    origin = {"split": split, "model": config.model.name, "fold": config.data.fold}
    for place, (name, value) in enumerate(origin.items(), start=5):
        table.insert(place, name, value)
    return table


def examples(experiment: Experiment, table: pd.DataFrame, split: str) -> list[Example]:
    """Knees for the report, graded right and graded wrong, with their pixels and landmarks."""
    grades = experiment.task.grades
    chosen = choose_examples(table, grades[0], num_each=8)
    knees = experiment.prepared.load(experiment.split[split][chosen])
    return [
        Example(
            image=knees["image"][i],
            truth={g: int(row[g]) for g in grades},
            prediction={g: int(row[f"{g}_pred"]) for g in grades},
            caption=f"{row['subject']} {row['side']}, month {row['visit']}",
            keypoints=knees["keypoints"][i] if knees["keypoints_valid"][i] else None,
        )
        for i, (_, row) in enumerate(table.iloc[chosen].iterrows())
    ]
