"""Evaluation of a run's best checkpoint: predictions tables, metrics with intervals, and report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import pandas as pd

from knee_jax.config.load import RunConfig
from knee_jax.errors import UserError
from knee_jax.evaluation.explain import explain
from knee_jax.evaluation.predict import Predictor, make_predictor, predict
from knee_jax.metrics.predictions import first_visit, write_predictions
from knee_jax.metrics.summary import Summary, summarise, write_metrics
from knee_jax.report.run import shown_part, write_page
from knee_jax.training.run import Run, set_up
from knee_jax.training.state import Variables
from knee_jax.workdir import folder
from knee_jax.workdir.checkpoint import Checkpoints


class Evaluated(NamedTuple):
    """Predictions of a checkpoint on a run's knees.

    Attributes:
        tables: Predictions table of 'validation' and, where there are test knees, of 'test'.
        step: Number of training steps of the checkpoint.
        variables: Variables of the network.
    """

    tables: dict[str, pd.DataFrame]
    step: int
    variables: Variables


def evaluate(config: RunConfig, workdir: Path, data_dir: Path, formats: Sequence[str] = ()) -> None:
    """Evaluate the best checkpoint in `workdir` on its validation and test knees.

    Writes `predictions/<split>.csv`, `metrics.json` and `report/`, and prints the metrics.

    Args:
        config: Config of the run.
        workdir: Folder of the run.
        data_dir: Folder of prepared sets.
        formats: Formats of figures that are written beside the report, such as 'pdf'.

    Raises:
        UserError: There is no checkpoint, or it belongs to another config.
    """
    folder.require(workdir)
    folder.require_writable(workdir)
    run = set_up(config, workdir, data_dir, training=False)
    if run.damaged:
        folder.write_files(workdir, config, run.files)
    tables, step, variables = evaluate_checkpoint(run, workdir)
    shown = shown_part(tables)
    explanation = explain(run, variables, shown, tables[shown])
    if jax.process_index() == 0:
        for note in run.notes:
            print(f"note: {note}")
        print(f"\ncheckpoint of step {step}, the best on the validation knees")
        metrics = write_results(run, tables, workdir)
        write_page(run, tables, metrics, workdir, explanation=explanation, formats=formats)


def evaluate_checkpoint(run: Run, workdir: Path, predictor: Predictor | None = None) -> Evaluated:
    """Predict with the best checkpoint in a run's folder.

    Args:
        run: The run.
        workdir: Folder of the run; receives `predictions/`.
        predictor: Compiled prediction; made if omitted.
    """
    predictor = predictor or make_predictor(run)
    # Read only, since the run may be training at this moment.
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        best = checkpoints.best_step()
        if best is None:
            raise UserError(f"{workdir} holds no sound validated checkpoint: train first")
        like = jax.eval_shape(run.random_state)
        variables = checkpoints.restore(best, like, run.mesh).variables
    names = [name for name in ("validation", "test") if name in run.subsets]
    tables = {name: predict(run, predictor, variables, name) for name in names}
    if jax.process_index() == 0:
        _write_tables(tables, workdir)
    return Evaluated(tables, best, variables)


def write_results(run: Run, tables: dict[str, pd.DataFrame], workdir: Path) -> dict[str, Summary]:
    """Write predictions tables and `metrics.json`, and return the metrics of each table.

    Knees of another cohort are scored again at their first visit only, as `test_first_visit`
    (Tiulpin & Saarakkala 2020, Discussion); that table is added to `tables`.
    """
    settings = run.config.evaluation
    if run.config.data.test_dataset and len(first := first_visit(tables["test"])):
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
