"""Every fold of every network of an ensemble → out-of-fold and test predictions, and the report.

Tiulpin & Saarakkala 2020, Training strategy: five folds by subject; the out-of-fold predictions
choose the networks, and the ensemble is tested on another cohort.

    <workdir>/<network>/fold_<k>/       a run as `knee_jax.train` makes it
    <workdir>/<network>/predictions/    out_of_fold.csv, and test.csv averaged over the folds
    <workdir>/<network>/metrics.json
    <workdir>/predictions/, metrics.json, report/    of the ensemble

A config without `ensemble` has one network, and its folds lie in the folder itself.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import pandas as pd

from knee_jax import models, tasks
from knee_jax import workdir as workdirs
from knee_jax.data import augment, splits
from knee_jax.errors import UserError
from knee_jax.evaluate import evaluate_checkpoint, write_results
from knee_jax.experiment import Experiment, compute_dtype, input_of
from knee_jax.landmarks import NUM_LANDMARKS
from knee_jax.members import trained
from knee_jax.metrics import ensemble
from knee_jax.metrics.summary import Summary
from knee_jax.report.run import write_page

Tables = dict[str, pd.DataFrame]
"""'out_of_fold' and, where there is a test cohort, 'test' → predictions table."""


def cross_validate(config: ml_collections.ConfigDict, workdir: Path, data_dir: Path) -> None:
    """Trains and evaluates all folds of all networks; a second call goes on where it was killed.

    Args:
        config: its `data.split` must be one of `splits.FOLDED`; `data.fold` is ignored.
        workdir: the folder of all the runs.
        data_dir: where prepared sets are.

    Raises:
        UserError: whatever the user can mend, in one line.
    """
    if config.data.split not in splits.FOLDED:
        raise UserError(
            f"--mode=cv needs folds, and config.data.split is '{config.data.split}': set "
            "--config.data.split=k_fold"
        )
    if config.data.num_folds < 2:
        raise UserError(f"config.data.num_folds = {config.data.num_folds}: 2 or more")
    networks = members_of(config)
    for network in networks.values():
        check(network)
    workdirs.refuse_other(workdir, config)
    workdirs.claim(workdir, config)
    tables: dict[str, Tables] = {}
    metrics: dict[str, dict[str, Summary]] = {}
    for number, (name, network) in enumerate(networks.items(), start=1):
        folder = workdir / name
        print(f"network {number} of {len(networks)}: {network.model.name}, in {folder}")
        tables[name], experiment = cross_validate_one(network, folder, data_dir)
        if len(networks) > 1:
            workdirs.claim(folder, network)
            if jax.process_index() == 0:
                metrics[name] = write_results(experiment, dict(tables[name]), folder)
    together = {
        part: ensemble.average([each[part] for each in tables.values()], config.evaluation.average)
        for part in next(iter(tables.values()))
    }
    whole = dataclasses.replace(experiment, config=config)
    if jax.process_index() == 0:
        results = write_results(whole, together, workdir)
        write_page(whole, together, results, workdir, metrics)


def check(network: ml_collections.ConfigDict) -> None:
    """Raises UserError for what is wrong with a network, before hours go into another one."""
    tasks.find(network.task).check(network)
    model = models.create(
        **network.model, grades=tuple(network.grades), dtype=compute_dtype(network.dtype)
    )
    if network.init_from:
        size, channels = input_of(network)
        view = augment.view_shape(augment.make(network.augmentation, size), size, channels)
        image = jnp.zeros((1, *view))
        shapes = jax.eval_shape(
            model.init, jax.random.key(0), image, jnp.zeros((1, NUM_LANDMARKS, 2))
        )
        models.load(network.model.name, shapes, network.init_from)


def members_of(config: ml_collections.ConfigDict) -> dict[str, ml_collections.ConfigDict]:
    """Name → config of each network of the ensemble; one without a name if there is no ensemble."""
    if not config.ensemble:
        return {".": config}
    networks = {}
    for name, changes in config.ensemble.items():
        network = config.copy_and_resolve_references()
        with network.unlocked():
            network.ensemble = ml_collections.ConfigDict()
            network.update(changes)
        networks[name] = network
    return networks


def cross_validate_one(
    config: ml_collections.ConfigDict, workdir: Path, data_dir: Path
) -> tuple[Tables, Experiment]:
    """Trains and evaluates all folds of one network.

    Returns:
        Its tables, and the experiment of its last fold.
    """
    folds = {}
    for k in range(config.data.num_folds):
        folds[workdir / f"fold_{k}"] = fold = config.copy_and_resolve_references()
        fold.data.fold = k
    held_out, tested = [], []
    at_once = len(folds) if can_lie_side_by_side(config) else 1
    for experiment, folder, predictor in trained(folds, data_dir, at_once):
        found = evaluate_checkpoint(experiment, folder, predictor).tables
        held_out.append(found["validation"].assign(split="out_of_fold"))
        tested += [found["test"]] if "test" in found else []
    tables = {"out_of_fold": pd.concat(held_out, ignore_index=True)}
    if tested:
        tables["test"] = ensemble.average(tested, config.evaluation.average)
    return tables, experiment


def can_lie_side_by_side(config: ml_collections.ConfigDict) -> bool:
    """Whether this machine has devices for every fold, and the folds differ in rows only.

    With hidden or unlabelled knees the folds' sets and epochs differ; and the parts of a batch
    that several processes load are laid out for one member.
    """
    data = config.data
    return (
        jax.process_count() == 1
        and jax.device_count() % data.num_folds == 0
        and data.label_fraction == 1.0
        and data.unlabelled == "none"
        and data.partially_labelled != "unlabelled"
    )
