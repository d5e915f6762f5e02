"""Sweep over variants of a config with several seeds each: means and spreads over the seeds.

Table V of Wang et al. is of this kind: partition ratios, smoothing levels and weights of a loss.

    <workdir>/<variant>/seed_<s>/    a run as `knee_jax.training.train` makes it, evaluated
    <workdir>/sweep.csv              every number of every run
    <workdir>/sweep.txt, sweep.html  means and spreads, and the mean of the seeds' probabilities

The runs differ in constants (`training.run.StepConstants`), not in the program: they are trained
side by side if they fit on the devices.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import pandas as pd

from knee_jax.config import load
from knee_jax.config.load import RunConfig
from knee_jax.config.schema import Evaluation
from knee_jax.errors import UserError
from knee_jax.evaluation.evaluate import evaluate_checkpoint, write_results
from knee_jax.metrics import ensemble
from knee_jax.metrics.summary import Summary, summarise
from knee_jax.report.sweep import write_sweep
from knee_jax.training.run import set_up
from knee_jax.training.side_by_side import max_at_once, train_all

Results = dict[str, dict[int, dict[str, Summary]]]
"""Metrics of each part, by variant and seed."""


def sweep(config: RunConfig, workdir: Path, data_dir: Path) -> None:
    """Train and evaluate all variants with all seeds; a second call resumes an interrupted one.

    Args:
        config: Config whose `sweep` gives the variants and the number of seeds.
        workdir: Folder of all the runs.
        data_dir: Folder of prepared sets.

    Raises:
        UserError: A mistake that the user can mend, in one line.
    """
    variants = variants_of(config)
    seeds = range(config.seed, config.seed + config.sweep.seeds)
    configs = {
        workdir / variant / f"seed_{seed}": load.changed(of_variant, {"seed": seed})
        for variant, of_variant in variants.items()
        for seed in seeds
    }
    first = next(iter(configs))
    at_once = config.sweep.at_once or max_at_once(
        set_up(configs[first], first, data_dir), len(configs)
    )
    if len(configs) % at_once:
        raise UserError(
            f"config.sweep.at_once = {at_once} does not divide the {len(configs)} runs: choose a "
            "divisor, or 0, which takes what fits"
        )
    results: Results = {variant: {} for variant in variants}
    predicted: dict[str, list[dict[str, pd.DataFrame]]] = {variant: [] for variant in variants}
    for run, folder, predictor in train_all(configs, data_dir, at_once):
        tables = evaluate_checkpoint(run, folder, predictor).tables
        if jax.process_index() == 0:
            results[folder.parent.name][run.config.seed] = write_results(run, tables, folder)
            predicted[folder.parent.name].append(tables)
    if jax.process_index() == 0:
        rows = {variant: of_variant.paper_row for variant, of_variant in variants.items()}
        together = {
            variant: averaged(of_seeds, config.evaluation)
            for variant, of_seeds in predicted.items()
            if len(of_seeds) > 1
        }
        print("\n" + write_sweep(workdir, results, config.targets[0], rows, together))


def averaged(
    of_seeds: Sequence[Mapping[str, pd.DataFrame]], settings: Evaluation
) -> dict[str, Summary]:
    """Return the metrics of each part if the predictions of several runs are averaged.

    Args:
        of_seeds: Predictions tables of each run, by part.
        settings: Average and resampling.
    """
    return {
        part: summarise(
            ensemble.average([tables[part] for tables in of_seeds], settings.average),
            settings.num_resamples,
            scheme=settings.scheme,
        )
        for part in of_seeds[0]
    }


def variants_of(config: RunConfig) -> Mapping[str, RunConfig]:
    """Return the config of each variant by name; the config itself as `base` if it has none.

    Raises:
        UserError: A variant changes a field other than the swept numbers of the task's loss.
    """
    allowed = (*(f"task.{name}" for name in config.task.swept), "paper_row")
    variants = {}
    for name, changes in (dict(config.sweep.variants) or {"base": {}}).items():
        for field in load.flatten(changes):
            if field not in allowed:
                raise UserError(
                    f"config.sweep.variants.{name} changes {field}: the runs of a sweep may differ "
                    f"in {', '.join(allowed)} only, and in their seeds"
                )
        without = {**load.plain(config), "sweep": {"seeds": config.sweep.seeds}}
        variants[name] = load.changed(load.parse(without), changes)
    return variants
