"""What a config stands for: the knees, the task, the network and its optimiser.

Training and evaluation both begin here, so that they cannot disagree about it.
"""

import dataclasses
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from knee_jax import models, sharding, tasks
from knee_jax import state as states
from knee_jax.data import augment, batches, prepared, splits, statistics
from knee_jax.errors import UserError
from knee_jax.landmarks import NUM_LANDMARKS
from knee_jax.prepare import prepare

STATISTICS = "statistics.json"


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The fixed parts of a run.

    Attributes:
        config: the run's config.
        mesh: the devices.
        prepared: the prepared set.
        split: 'train', 'validation', 'test' → rows of the set's index.
        source: makes device batches of those rows.
        statistics: of the training knees.
        task: loss, predictions and selection.
        model: the network.
        schedule: training step → learning rate.
        optimizer: follows the schedule.
    """

    config: ml_collections.ConfigDict
    mesh: jax.sharding.Mesh
    prepared: prepared.PreparedSet
    split: splits.Split
    source: batches.Source
    statistics: statistics.Statistics
    task: Any
    model: nn.Module
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation

    def random_state(self) -> states.TrainState:
        """The state before the first step, with random weights; may be traced."""
        size = self.config.input.size
        image, keypoints = jnp.zeros((1, size, size, 1)), jnp.zeros((1, NUM_LANDMARKS, 2))
        variables = self.model.init(jax.random.key(self.config.seed), image, keypoints)
        return states.create(variables, self.optimizer)

    def views(
        self, batch: batches.Batch, key: jax.Array, augmentation: augment.Augmentation
    ) -> tuple[jax.Array, jax.Array]:
        """The batch as the network sees it: normalised images and keypoints."""
        intensities = (self.statistics.mean, self.statistics.deviation)
        return augment.views(batch, key, self.config.input.size, intensities, augmentation)


def set_up(config: ml_collections.ConfigDict, workdir: Path, data_dir: Path) -> Experiment:
    """Finds or makes everything that a run needs before its first step.

    Args:
        config: see `configs/`.
        workdir: the run's folder; its `statistics.json` is read if it is there.
        data_dir: where prepared sets are; one that is missing is prepared first.

    Raises:
        UserError: a config that cannot be run, in one line.
    """
    # What can be wrong with the config is found before hours go into preparing a set.
    sharding.check_batch_size(config.evaluation.batch_size, "evaluation.batch_size")
    task = tasks.find(config.task)
    task.check(config)
    model = models.create(
        **config.model, grades=tuple(config.grades), dtype=compute_dtype(config.dtype)
    )
    mesh = sharding.make_mesh()
    knees = prepared.open_set(
        prepare(config.data.dataset, data_dir, manual_dir=config.data.manual_dir or None)
    )
    split = splits.make_split(
        knees.index,
        config.data.split,
        num_folds=config.data.num_folds,
        fold=config.data.fold,
        seed=config.data.seed,
    )
    split = {name: task.usable(knees.index, rows, config) for name, rows in split.items()}
    for name in ("train", "validation"):
        if not len(split[name]):
            raise UserError(
                f"no knee of the {name} part of {config.data.dataset} has been read for "
                f"{', '.join(config.grades)}: choose other config.grades or another set"
            )
    # A resumed run, and its evaluation, see intensities as the run did when it began.
    known = workdir / STATISTICS
    facts = statistics.load(known) if known.exists() else statistics.measure(knees, split["train"])
    if model.needs_keypoints:
        _require_keypoints(knees, split, config)
    schedule = states.make_schedule(config.optimizer, len(split["train"]) / config.batch_size)
    return Experiment(
        config=config,
        mesh=mesh,
        prepared=knees,
        split=split,
        source=batches.make_source(
            knees, np.concatenate(list(split.values())), mesh, config.data.mode
        ),
        statistics=facts,
        task=task.make(config, facts),
        model=model,
        schedule=schedule,
        optimizer=states.make_optimizer(config.optimizer, schedule),
    )


def compute_dtype(name: str) -> Any:
    """The type that the network computes in; 'auto' is bfloat16 except on a CPU."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    if name not in ("float32", "bfloat16"):
        raise UserError(f"config.dtype = '{name}': choose auto, float32 or bfloat16")
    return jnp.dtype(name)


def _require_keypoints(
    knees: prepared.PreparedSet, split: splits.Split, config: ml_collections.ConfigDict
) -> None:
    rows = np.concatenate(list(split.values()))
    without = int((~knees.index["keypoints_valid"].to_numpy()[rows]).sum())
    if without:
        raise UserError(
            f"{without} of {len(rows)} knees of {config.data.dataset} have no landmarks, which "
            f"the model {config.model.name} reads: set --config.model.kpn=False, or choose "
            "another set"
        )
