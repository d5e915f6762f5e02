"""The best checkpoint of a run → predictions tables, metrics with intervals, and the report."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import ml_collections
import pandas as pd

from knee_jax import sharding
from knee_jax import state as states
from knee_jax import workdir as workdirs
from knee_jax.checkpoint import Checkpoints
from knee_jax.data.batches import Batch
from knee_jax.errors import UserError
from knee_jax.experiment import Experiment, Facts, set_up
from knee_jax.explain import explain
from knee_jax.metrics.predictions import first_visit, write_predictions
from knee_jax.metrics.summary import Summary, summarise, write_metrics
from knee_jax.report.run import shown_part, write_page

Predictor = Callable[[states.Variables, Facts, Batch], tuple[jax.Array, dict[str, jax.Array]]]
"""(variables, facts, batch) → the batch's rows of the index, and class probabilities."""


class Evaluated(NamedTuple):
    """What a checkpoint says of a run's knees.

    Attributes:
        tables: 'validation' and, where there are test knees, 'test' → predictions table.
        step: of the checkpoint.
        variables: of its network.
    """

    tables: dict[str, pd.DataFrame]
    step: int
    variables: states.Variables


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
    experiment = set_up(config, workdir, data_dir)
    tables, step, variables = evaluate_checkpoint(experiment, workdir)
    shown = shown_part(tables)
    explanation = explain(experiment, variables, shown, tables[shown])
    if jax.process_index() == 0:
        print(f"\ncheckpoint of step {step}, the best on the validation knees")
        metrics = write_results(experiment, tables, workdir)
        write_page(experiment, tables, metrics, workdir, explanation=explanation)


def evaluate_checkpoint(
    experiment: Experiment, workdir: Path, predictor: Predictor | None = None
) -> Evaluated:
    """The predictions of the best checkpoint in a run's folder.

    Args:
        experiment: the run's.
        workdir: its folder; receives `predictions/`.
        predictor: compiled before, if it was.
    """
    predictor = predictor or make_predictor(experiment)
    # Read only: the run may be training at this moment.
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        best = checkpoints.best_step()
        if best is None:
            raise UserError(f"{workdir} holds no validated checkpoint: train first")
        like = jax.eval_shape(experiment.random_state)
        variables = checkpoints.restore(best, like, experiment.mesh).variables
    names = [name for name in ("validation", "test") if name in experiment.parts]
    tables = {name: predict(experiment, predictor, variables, name) for name in names}
    if jax.process_index() == 0:
        _write_tables(tables, workdir)
    return Evaluated(tables, best, variables)


def write_results(
    experiment: Experiment, tables: dict[str, pd.DataFrame], workdir: Path
) -> dict[str, Summary]:
    """Writes predictions tables and `metrics.json`, and returns the metrics of each table.

    Knees of another cohort are scored once more at their first visit alone, `test_first_visit`
    (Tiulpin & Saarakkala 2020, Discussion); that table is added to `tables`.
    """
    settings = experiment.config.evaluation
    if experiment.config.data.test_dataset and len(first := first_visit(tables["test"])):
        tables["test_first_visit"] = first
    _write_tables(tables, workdir)
    metrics = {
        name: summarise(table, settings.num_resamples, scheme=settings.scheme)
        for name, table in tables.items()
    }
    write_metrics(workdir / "metrics.json", metrics)
    return metrics


def _write_tables(tables: Mapping[str, pd.DataFrame], workdir: Path) -> None:
    (workdir / "predictions").mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        write_predictions(workdir / "predictions" / f"{name}.csv", table)


def make_predictor(experiment: Experiment) -> Predictor:
    """The compiled prediction; its results are whole on every process."""

    def predictor(
        variables: states.Variables, facts: Facts, batch: Batch
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        images, keypoints = experiment.views(batch, jax.random.key(0), facts, train=False)
        outputs = experiment.model.apply(variables, images, keypoints, train=False)
        return batch["row"], facts.task.probabilities(outputs)

    return jax.jit(predictor, out_shardings=sharding.replicated(experiment.mesh))


def predict(
    experiment: Experiment, predictor: Predictor, variables: states.Variables, name: str
) -> pd.DataFrame:
    """The predictions table of a part: every knee exactly once, on any number of devices."""
    config, part = experiment.config, experiment.parts[name]
    predicted = part.map(
        lambda batch: predictor(variables, experiment.facts, batch),
        part.rows,
        config.evaluation.batch_size,
    )
    # In the task's order: a compiled function sorts its results by name.
    probabilities = {grade: predicted[grade] for grade in experiment.task.grades}
    table = experiment.task.table(part.prepared.index, part.rows, probabilities)
    origin = {"split": name, "model": config.model.name, "fold": config.data.fold}
    for place, (column, value) in enumerate(origin.items(), start=5):
        table.insert(place, column, value)
    return table
