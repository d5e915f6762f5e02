"""What a config stands for: the knees, the task, the network and its optimiser.

Training and evaluation both begin here, so that they cannot disagree about it.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from knee_jax import coherence, knees, models, sharding, tasks
from knee_jax import state as states
from knee_jax.data import augment, batches, sampling, statistics
from knee_jax.errors import UserError
from knee_jax.grades import GRADES
from knee_jax.landmarks import NUM_LANDMARKS
from knee_jax.metrics import bootstrap, ensemble

STATISTICS = "statistics.json"

STATISTICS_OF = ("plain", "augmented", "each")
"""Whose mean and deviation intensities are normalised by: the training knees', those of their
augmented views, or each view's own."""


@flax.struct.dataclass
class Facts:
    """What a run knows before the first step, of its training knees above all.

    An argument of the compiled functions, so that runs that differ in nothing else share them.

    Attributes:
        seed: of initial weights, augmentation and dropout, uint32.
        mean, deviation: of the intensities, float32.
        task: loss, predictions and selection, with the weights of classes in it.
    """

    seed: jax.Array | np.ndarray
    mean: jax.Array | np.ndarray
    deviation: jax.Array | np.ndarray
    task: Any


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The fixed parts of a run.

    Attributes:
        config: the run's config.
        mesh: the devices.
        parts: 'train', 'validation' and, where there are any, 'unlabelled' and 'test'.
        account: part → what became of its knees: 'used', or why not, with counts.
        statistics: of the training knees.
        facts: what the compiled functions need to know of them.
        augmentation: how knees become views of the network's.
        model: the network.
        plan: training step → rows of a batch.
        steps_per_epoch: training steps in a pass over the knees, not a whole number.
        optimizer: with its learning rates.
    """

    config: ml_collections.ConfigDict
    mesh: jax.sharding.Mesh
    parts: Mapping[str, knees.Part]
    account: Mapping[str, Mapping[str, int]]
    statistics: statistics.Statistics
    facts: Facts
    augmentation: augment.Augmentation
    model: nn.Module
    plan: sampling.Plan
    steps_per_epoch: float
    optimizer: optax.GradientTransformation

    @property
    def task(self) -> Any:
        """Loss, predictions and selection."""
        return self.facts.task

    @property
    def view_shape(self) -> tuple[int, ...]:
        """Shape of what the network sees of one knee; images and volumes end with the channels."""
        return augment.view_shape(self.augmentation, *input_of(self.config))

    def random_state(self, facts: Facts | None = None) -> states.TrainState:
        """The state before the first step, with random weights; may be traced.

        Args:
            facts: of this run, or of another that differs in them only.
        """
        facts = facts or self.facts
        image, keypoints = jnp.zeros((1, *self.view_shape)), jnp.zeros((1, NUM_LANDMARKS, 2))
        variables = self.model.init(jax.random.key(facts.seed), image, keypoints)
        return states.create(variables, self.optimizer, facts.task.initial_memory())

    def views(
        self, batch: batches.Batch, key: jax.Array, facts: Facts, *, train: bool
    ) -> tuple[jax.Array, jax.Array | None]:
        """The batch as the network sees it, see `augment.views`: normalised, and keypoints."""
        size, channels = input_of(self.config)
        images, keypoints = augment.views(
            batch,
            key,
            size,
            (facts.mean, facts.deviation),
            self.augmentation,
            train=train,
            channels=channels,
        )
        if self.config.input.get("statistics") == "each":
            images = augment.standardise(images)
        return images, keypoints


def set_up(
    config: ml_collections.ConfigDict,
    workdir: Path,
    data_dir: Path,
    members: int = 1,
    like: Experiment | None = None,
) -> Experiment:
    """Finds or makes everything that a run needs before its first step.

    Args:
        config: see `configs/`.
        workdir: the run's folder; its `statistics.json` and `coherence.npz` are read if they are
            there.
        data_dir: where prepared sets are; one that is missing is prepared first.
        members: runs that share the devices.
        like: another run, whose knees on the devices serve this one too where they are the same.

    Raises:
        UserError: a config that cannot be run, in one line.
    """
    # What can be wrong with the config is found before hours go into preparing a set.
    sharding.check_batch_size(config.evaluation.batch_size, "evaluation.batch_size")
    tasks.find(config.task).check(config)
    for field, choices in (("scheme", bootstrap.SCHEMES), ("average", ensemble.AVERAGES)):
        if config.evaluation[field] not in choices:
            raise UserError(
                f"config.evaluation.{field} = '{config.evaluation[field]}': choose "
                f"{', '.join(choices)}"
            )
    size, channels = input_of(config)
    intensities = config.input.get("statistics", "plain")
    if channels not in (1, 3) or intensities not in STATISTICS_OF:
        raise UserError(
            f"config.input: channels must be 1 or 3, and statistics {', '.join(STATISTICS_OF)}; "
            f"they are {channels} and '{intensities}'"
        )
    augmentation = augment.make(config.augmentation, size)
    model = models.create(
        **config.model, grades=tuple(config.grades), dtype=compute_dtype(config.dtype)
    )
    mesh = sharding.make_mesh(members)
    found, account = knees.find_knees(config, data_dir, model.needs_keypoints)
    for knee_set, _ in found.values():
        augment.check_fit(
            augmentation, size, knee_set.pixels, knee_set.image_shape, knee_set.spacing_mm
        )
    served = [part.knees for part in like.parts.values()] if like else []
    parts = knees.make_parts(found, mesh, config.data.mode, served)
    train = parts["train"]
    # A resumed run, and its evaluation, see intensities as the run did when it began.
    known = workdir / STATISTICS
    if known.exists():
        measured = statistics.load(known)
    else:
        seen = _raw_views(config, augmentation) if intensities == "augmented" else None
        measured = statistics.measure(train.prepared, train.rows, seen, augmentation.intensities)
    fitted = workdir / coherence.FILE
    task = tasks.find(config.task).make(
        config,
        measured,
        train.prepared.index[list(GRADES)].to_numpy(np.int8)[train.rows],
        mixture=coherence.load(fitted) if fitted.exists() else None,
    )
    plan, knees_per_epoch = knees.make_plan(config, parts)
    steps_per_epoch = knees_per_epoch / config.batch_size
    return Experiment(
        config=config,
        mesh=mesh,
        parts=parts,
        account=account,
        statistics=measured,
        facts=Facts(
            seed=np.asarray(config.seed, np.uint32),
            mean=np.asarray(measured.mean, np.float32),
            deviation=np.asarray(measured.deviation, np.float32),
            task=task,
        ),
        augmentation=augmentation,
        model=model,
        plan=plan,
        steps_per_epoch=steps_per_epoch,
        optimizer=states.make_optimizer(config.optimizer, steps_per_epoch),
    )


def input_of(config: ml_collections.ConfigDict) -> tuple[augment.Size, int]:
    """Size and channels of the network's input.

    `config.input.volume`, rows, columns and slices, all grey, where the config has it; else the
    side of films, `config.input.size`.
    """
    if volume := config.input.get("volume"):
        return tuple(volume), 1
    return config.input.size, config.input.channels


def _raw_views(
    config: ml_collections.ConfigDict, augmentation: augment.Augmentation
) -> statistics.Views:
    """Training views before their intensities are normalised."""
    size, channels = input_of(config)
    return lambda batch, key: augment.views(
        batch, key, size, (0.0, 1.0), augmentation, train=True, channels=channels
    )


def compute_dtype(name: str) -> Any:
    """The type that the network computes in; 'auto' is bfloat16 except on a CPU."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    if name not in ("float32", "bfloat16"):
        raise UserError(f"config.dtype = '{name}': choose auto, float32 or bfloat16")
    return jnp.dtype(name)
