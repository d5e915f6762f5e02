"""Variants of a config, each with several seeds → a table with means and spreads over the seeds.

Wang et al., Table V, is such a table: partition ratios, smoothing levels and weights of a loss.

    <workdir>/<variant>/seed_<s>/    a run as `knee_jax.train` makes it, evaluated
    <workdir>/sweep.csv              every number of every run
    <workdir>/sweep.txt, sweep.html  means and spreads

What differs between the runs are facts (`experiment.Facts`), not the program: they are members of
one compiled run where the devices have room.
"""

from collections.abc import Mapping
from pathlib import Path

import jax
import ml_collections

from knee_jax import tasks
from knee_jax import workdir as workdirs
from knee_jax.errors import UserError
from knee_jax.evaluate import evaluate_checkpoint, write_results
from knee_jax.experiment import set_up
from knee_jax.members import fitting, trained
from knee_jax.metrics.summary import Summary
from knee_jax.report.sweep import write_sweep

Results = dict[str, dict[int, dict[str, Summary]]]
"""variant → seed → metrics of each part."""


def sweep(config: ml_collections.ConfigDict, workdir: Path, data_dir: Path) -> None:
    """Trains and evaluates all variants with all seeds; a second call goes on where it was killed.

    Args:
        config: its `sweep` names the variants and how many seeds there are.
        workdir: the folder of all the runs.
        data_dir: where prepared sets are.

    Raises:
        UserError: whatever the user can mend, in one line.
    """
    variants = variants_of(config)
    seeds = range(config.seed, config.seed + config.sweep.seeds)
    runs = {
        workdir / variant / f"seed_{seed}": with_seed(changed, seed)
        for variant, changed in variants.items()
        for seed in seeds
    }
    first = next(iter(runs))
    at_once = config.sweep.at_once or fitting(set_up(runs[first], first, data_dir), len(runs))
    if len(runs) % at_once:
        raise UserError(
            f"config.sweep.at_once = {at_once} does not divide the {len(runs)} runs: choose a "
            "divisor, or 0, which takes what fits"
        )
    results: Results = {variant: {} for variant in variants}
    for experiment, folder, predictor in trained(runs, data_dir, at_once):
        tables = evaluate_checkpoint(experiment, folder, predictor).tables
        if jax.process_index() == 0:
            seed = int(experiment.config.seed)
            results[folder.parent.name][seed] = write_results(experiment, tables, folder)
    if jax.process_index() == 0:
        rows = {variant: changed.paper_row for variant, changed in variants.items()}
        print("\n" + write_sweep(workdir, results, experiment.task.grades[0], rows))


def variants_of(config: ml_collections.ConfigDict) -> Mapping[str, ml_collections.ConfigDict]:
    """Name → config of each variant; the config itself, `base`, where it names none.

    Raises:
        UserError: there is no seed, or a variant changes what is not a number of the task's loss.
    """
    if config.sweep.seeds < 1:
        raise UserError(f"config.sweep.seeds = {config.sweep.seeds}: 1 or more")
    numbers = (*tasks.find(config.task).NUMBERS, "paper_row")
    variants = {}
    for name, changes in (dict(config.sweep.variants) or {"base": {}}).items():
        changes = ml_collections.ConfigDict(changes)
        for field in workdirs.flatten(changes.to_dict()):
            if field not in numbers:
                raise UserError(
                    f"config.sweep.variants.{name} changes {field}: the runs of a sweep may differ "
                    f"in {', '.join(numbers)} only, and in their seeds"
                )
        variants[name] = variant = config.copy_and_resolve_references()
        with variant.unlocked():
            variant.sweep.variants = ml_collections.ConfigDict()
            variant.update(changes)
    return variants


def with_seed(config: ml_collections.ConfigDict, seed: int) -> ml_collections.ConfigDict:
    """The same with another seed; the split keeps its own."""
    config = config.copy_and_resolve_references()
    config.seed = seed
    return config
