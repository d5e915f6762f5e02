"""Parts of a run, set up from a config in one pass: each package gets its own part."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from knee_jax import models, targets
from knee_jax.cohort import selection
from knee_jax.config.load import RunConfig
from knee_jax.data import augment, mesh, sampling, statistics
from knee_jax.data.preprocessing import Intensities, Preprocessing
from knee_jax.data.subsets import SharedSource, Subset, make_subsets
from knee_jax.landmarks import NUM_LANDMARKS
from knee_jax.metrics import grade_coherence
from knee_jax.models.precision import compute_dtype
from knee_jax.targets.kinds import Target
from knee_jax.tasks import Task
from knee_jax.training import state as states


@flax.struct.dataclass
class StepConstants:
    """Arguments of the compiled functions in addition to state and batch.

    They are arguments, not constants of the program, so that runs that differ in nothing else share
    it.

    Attributes:
        seed: Random seed of initial weights, augmentation and dropout, uint32.
        intensities: Mean and standard deviation to normalise by.
        task: Loss, predictions and model selection, including the weights of classes.
    """

    seed: jax.Array | np.ndarray
    intensities: Intensities
    task: Task


@dataclasses.dataclass(frozen=True)
class Run:
    """Fixed parts of a run.

    Attributes:
        config: Checked config of the run.
        targets: Targets that are predicted.
        mesh: Mesh of devices.
        subsets: Subsets 'train', 'validation' and, where there are any, 'unlabelled' and 'test'.
        flow: Number of knees of each part that are used, and of those left out, by reason.
        statistics: Intensities and prevalences of the training knees.
        constants: Constants of the step; see `StepConstants`.
        preprocessing: Conversion of knees to the network's input.
        model: Network.
        sampler: Function from a training step to the rows of its batch.
        steps_per_epoch: Number of training steps in a pass over the knees, not an integer.
        optimizer: Optimiser with its learning rates.
    """

    config: RunConfig
    targets: tuple[Target, ...]
    mesh: jax.sharding.Mesh
    subsets: Mapping[str, Subset]
    flow: selection.Flow
    statistics: statistics.Statistics
    constants: StepConstants
    preprocessing: Preprocessing
    model: nn.Module
    sampler: sampling.Sampler
    steps_per_epoch: float
    optimizer: optax.GradientTransformation

    @property
    def task(self) -> Task:
        """Loss, predictions and model selection."""
        return self.constants.task

    def random_state(self, constants: StepConstants | None = None) -> states.TrainState:
        """Return the state before the first step, with random weights; may be traced.

        Args:
            constants: Constants of this run, or of another that differs only in them.
        """
        constants = constants or self.constants
        image = jnp.zeros((1, *self.preprocessing.input_shape))
        keypoints = jnp.zeros((1, NUM_LANDMARKS, 2))
        variables = self.model.init(jax.random.key(constants.seed), image, keypoints)
        stats = constants.task.initial_validation_stats()
        averaged = self.config.optimizer.ema_decay > 0
        return states.create(variables, self.optimizer, stats, averaged)


def set_up(
    config: RunConfig,
    workdir: Path,
    data_dir: Path,
    runs: int = 1,
    like: Run | None = None,
) -> Run:
    """Find or make everything that a run needs before its first step.

    Args:
        config: Config of the run.
        workdir: Folder of the run; `statistics.json` and `coherence.npz` are read if present.
        data_dir: Folder of prepared sets; a missing set is prepared first.
        runs: Number of runs that share the devices.
        like: Another run, whose knees on the devices are reused where they are the same.

    Raises:
        UserError: The config cannot be run here; the message is one line.
    """
    mesh.check_batch_size(config.batch_size, "batch_size", runs)
    mesh.check_batch_size(config.evaluation.batch_size, "evaluation.batch_size")
    models.find_weights(config.model.name, config.model.options, config.init_from)
    predicted = targets.get_all(config.targets)
    dtype = compute_dtype(config.dtype)
    model = models.create(
        config.model.name, targets=config.targets, dtype=dtype, **config.model.options
    )
    preprocessing = Preprocessing(config.augmentation, config.input)

    cohort = selection.select(
        config.data, predicted, config.task, data_dir, reads_landmarks=model.needs_keypoints
    )
    for knees, _ in cohort.parts.values():
        augment.check_fit(
            config.augmentation,
            preprocessing.size,
            knees.pixels,
            knees.image_shape,
            knees.spacing_mm,
        )
    devices = mesh.make_mesh(runs)
    known: list[SharedSource] = [each.shared for each in like.subsets.values()] if like else []
    subsets = make_subsets(cohort.parts, devices, config.data.mode, known)

    train = subsets["train"]
    measured = _measure(train, preprocessing, workdir / statistics.FILE)
    fitted = workdir / grade_coherence.FILE
    of_training = train.prepared.index.iloc[train.rows]
    task = config.task.make(
        predicted,
        measured.counts,
        {target.name: target.labels(of_training) for target in predicted},
        config.seed,
        grade_coherence.load(fitted) if fitted.exists() else None,
    )
    unlabelled = subsets["unlabelled"].rows if "unlabelled" in subsets else np.empty(0, np.int64)
    sampler, knees_per_epoch = sampling.make(
        config.data,
        config.batch_size,
        config.seed,
        train.rows,
        unlabelled,
        subsets["validation"].rows,
        lambda rows: predicted[0].labels(train.prepared.index.iloc[rows]),
    )
    steps_per_epoch = knees_per_epoch / config.batch_size
    return Run(
        config=config,
        targets=predicted,
        mesh=devices,
        subsets=subsets,
        flow=cohort.flow,
        statistics=measured,
        constants=StepConstants(
            seed=np.asarray(config.seed, np.uint32),
            intensities=Intensities.of(measured.mean, measured.std),
            task=task,
        ),
        preprocessing=preprocessing,
        model=model,
        sampler=sampler,
        steps_per_epoch=steps_per_epoch,
        optimizer=states.make_optimizer(config.optimizer, steps_per_epoch, config.epochs),
    )


def _measure(train: Subset, preprocessing: Preprocessing, saved: Path) -> statistics.Statistics:
    """Return the statistics of the training knees, or those that the run began with."""
    if saved.exists():
        return statistics.load(saved)
    augmented = preprocessing.inputs.statistics == "augmented"
    return statistics.measure(
        train.prepared,
        train.rows,
        preprocessing.raw_training_input if augmented else None,
        preprocessing.augmentation.intensities,
    )
