"""Cross-validation of an ensemble: all folds of all networks, their predictions and the report.

Tiulpin & Saarakkala 2020, Training strategy: five folds by subject; the out-of-fold predictions
select the networks, and the ensemble is tested on another cohort.

    <workdir>/<network>/fold_<k>/       a run as `knee_jax.training.train` makes it
    <workdir>/<network>/predictions/    out_of_fold.csv, and test.csv averaged over the folds
    <workdir>/<network>/metrics.json
    <workdir>/predictions/, metrics.json, report/    of the ensemble

A config without `ensemble` has one network, whose folds lie in the folder itself.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import pandas as pd

from knee_jax import models
from knee_jax.config import load
from knee_jax.config.load import RunConfig
from knee_jax.config.schema import FOLDED
from knee_jax.data.preprocessing import Preprocessing
from knee_jax.errors import UserError
from knee_jax.evaluation.evaluate import evaluate_checkpoint, write_results
from knee_jax.landmarks import NUM_LANDMARKS
from knee_jax.metrics import ensemble
from knee_jax.metrics.summary import Summary
from knee_jax.models.precision import compute_dtype
from knee_jax.report.run import write_page
from knee_jax.training.run import Run
from knee_jax.training.side_by_side import train_all
from knee_jax.workdir import folder

Tables = dict[str, pd.DataFrame]
"""Predictions table of 'out_of_fold' and, where there is a test cohort, of 'test'."""


def cross_validate(
    config: RunConfig, workdir: Path, data_dir: Path, formats: Sequence[str] = ()
) -> None:
    """Train and evaluate all folds of all networks; a second call resumes an interrupted one.

    Args:
        config: Config whose `data.split` is one of `schema.FOLDED`; `data.fold` is ignored.
        workdir: Folder of all the runs.
        data_dir: Folder of prepared sets.
        formats: Formats of figures that are written beside the report, such as 'pdf'.

    Raises:
        UserError: A mistake that the user can mend, in one line.
    """
    if config.data.split not in FOLDED:
        raise UserError(
            f"--mode=cv needs folds, and config.data.split is '{config.data.split}': set "
            "--config.data.split=k_fold"
        )
    networks = networks_of(config)
    for network in networks.values():
        check_weights(network)
    folder.check_same_config(workdir, config)
    folder.write_config(workdir, config)
    tables: dict[str, Tables] = {}
    metrics: dict[str, dict[str, Summary]] = {}
    for number, (name, network) in enumerate(networks.items(), start=1):
        of_network = workdir / name
        print(f"network {number} of {len(networks)}: {network.model.name}, in {of_network}")
        tables[name], run = cross_validate_one(network, of_network, data_dir)
        if len(networks) > 1:
            folder.write_config(of_network, network)
            if jax.process_index() == 0:
                metrics[name] = write_results(run, dict(tables[name]), of_network)
    together = {
        part: ensemble.average([each[part] for each in tables.values()], config.evaluation.average)
        for part in next(iter(tables.values()))
    }
    of_ensemble = dataclasses.replace(run, config=config)
    if jax.process_index() == 0:
        results = write_results(of_ensemble, together, workdir)
        write_page(of_ensemble, together, results, workdir, metrics, formats=formats)


def check_weights(network: RunConfig) -> None:
    """Raise UserError if initial weights do not fit, before hours of training another network."""
    model = models.create(
        network.model.name,
        targets=network.targets,
        dtype=compute_dtype(network.dtype),
        **network.model.options,
    )
    if network.init_from:
        shape = Preprocessing(network.augmentation, network.input).input_shape
        landmarks = jnp.zeros((1, NUM_LANDMARKS, 2))
        shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape)), landmarks)
        source = models.find_weights(
            network.model.name, network.model.options, str(Path(network.init_from).expanduser())
        )
        models.load(network.model.name, shapes, source)


def networks_of(config: RunConfig) -> dict[str, RunConfig]:
    """Return the config of each network of the ensemble by name; '.' names the only network."""
    if not config.ensemble:
        return {".": config}
    return {name: load.parse(load.member(config, name)) for name in config.ensemble}


def cross_validate_one(config: RunConfig, workdir: Path, data_dir: Path) -> tuple[Tables, Run]:
    """Train and evaluate all folds of one network.

    Returns:
        Tables of the network, and the run of its last fold.
    """
    folds = {
        workdir / f"fold_{k}": load.changed(config, {"data.fold": k})
        for k in range(config.data.num_folds)
    }
    held_out, tested = [], []
    at_once = len(folds) if can_lie_side_by_side(config) else 1
    for run, of_fold, predictor in train_all(folds, data_dir, at_once):
        found = evaluate_checkpoint(run, of_fold, predictor).tables
        held_out.append(found["validation"].assign(split="out_of_fold"))
        tested += [found["test"]] if "test" in found else []
    tables = {"out_of_fold": pd.concat(held_out, ignore_index=True)}
    if tested:
        tables["test"] = ensemble.average(tested, config.evaluation.average)
    return tables, run


def can_lie_side_by_side(config: RunConfig) -> bool:
    """Return whether devices suffice for all folds, and the folds differ only in rows.

    With hidden or unlabelled knees the sets and epochs of the folds differ; and the parts of a
    batch that several processes load are laid out for one run.
    """
    data = config.data
    return (
        jax.process_count() == 1
        and config.fsdp == 1
        and jax.device_count() % data.num_folds == 0
        and data.label_fraction == 1.0
        and data.unlabelled == "none"
        and data.partially_labelled != "unlabelled"
    )
