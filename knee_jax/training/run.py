"""Parts of a run, set up from a config in one pass: each package gets its own part."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

from knee_jax import models, targets
from knee_jax.cohort import knees, selection
from knee_jax.config.load import RunConfig
from knee_jax.data import augment, mesh, sampling, statistics
from knee_jax.data.preprocessing import Intensities, Preprocessing
from knee_jax.data.subsets import SharedSource, Subset, make_subsets
from knee_jax.errors import UserError
from knee_jax.landmarks import NUM_LANDMARKS
from knee_jax.metrics import grade_coherence
from knee_jax.models.precision import compute_dtype
from knee_jax.targets.kinds import Target
from knee_jax.tasks import Task
from knee_jax.training import continued
from knee_jax.training import state as states
from knee_jax.workdir import folder
from knee_jax.workdir.manifest import DAMAGED, Manifest, has_checkpoints

Content = TypeVar("Content")


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
        knees: List of the run's knees (`cohort.knees`).
        notes: What a reader of the results must know about the run, one sentence each.
        damaged: Names of files in the run's folder that were damaged, and made again.
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
    knees: pd.DataFrame
    notes: tuple[str, ...]
    damaged: tuple[str, ...]
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

    @property
    def files(self) -> dict[str, bytes]:
        """Files in the run's folder that it stands on, besides its config and checkpoints."""
        found = {
            statistics.FILE: statistics.content(self.statistics),
            knees.FILE: knees.text_of(self.knees).encode(),
        }
        if self.task.mixture is not None:
            found[grade_coherence.FILE] = grade_coherence.content(self.task.mixture)
        return found

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
    *,
    training: bool = True,
) -> Run:
    """Find or make everything that a run needs before its first step.

    Args:
        config: Config of the run.
        workdir: Folder of the run; what it began with is read from there, and made again where it
            is damaged.
        data_dir: Folder of prepared sets; a missing set is prepared first.
        runs: Number of runs that share the devices.
        like: Another run, whose knees on the devices are reused where they are the same.
        training: Whether the run is going to be trained, and not only evaluated.

    Raises:
        UserError: The config cannot be run here; the message is one line.
    """
    begun = _Begun(workdir, folder.check_same_config(workdir, config))
    changes = continued.changes(config, workdir)
    mesh.check_batch_size(config.batch_size, "batch_size", runs)
    mesh.check_batch_size(config.evaluation.batch_size, "evaluation.batch_size")
    models.find_weights(config.model.name, config.model.options, config.init_from)
    predicted = targets.get_all(config.targets)
    dtype = compute_dtype(config.dtype)
    model = models.create(
        config.model.name, targets=config.targets, dtype=dtype, **config.model.options
    )
    preprocessing = Preprocessing(config.augmentation, config.input)

    recorded = begun.read(knees.FILE, knees.read)
    cohort = selection.select(
        config.data,
        predicted,
        config.task,
        data_dir,
        reads_landmarks=model.needs_keypoints,
        recorded=recorded,
        initial=_known_to_initial_weights(config.init_from),
        training=training,
    )
    if recorded is None:
        begun.made_again(knees.FILE, knees.text_of(cohort.knees).encode())
        begun.check_counts(cohort.flow)
    for of_set, _ in cohort.parts.values():
        augment.check_fit(
            config.augmentation,
            preprocessing.size,
            of_set.pixels,
            of_set.image_shape,
            of_set.spacing_mm,
        )
    devices = mesh.make_mesh(runs, config.fsdp)
    known: list[SharedSource] = [each.shared for each in like.subsets.values()] if like else []
    subsets = make_subsets(cohort.parts, devices, config.data.mode, known)

    train = subsets["train"]
    measured = begun.read(statistics.FILE, statistics.load)
    if measured is None:
        measured = _measure(train, preprocessing)
        begun.made_again(statistics.FILE, statistics.content(measured))
    fitted = begun.read(grade_coherence.FILE, grade_coherence.load)
    of_training = train.prepared.index.iloc[train.rows]
    task = config.task.make(
        predicted,
        measured.counts,
        {target.name: target.labels(of_training) for target in predicted},
        config.seed,
        fitted,
    )
    if fitted is None and task.mixture is not None:
        begun.made_again(grade_coherence.FILE, grade_coherence.content(task.mixture))
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
        knees=cohort.knees,
        notes=(*begun.notes, *changes, *cohort.notes),
        damaged=tuple(begun.faults),
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


class _Begun:
    """Files of a run that has begun, and the remarks on them.

    Args:
        workdir: Folder of the run.
        listed: Its manifest, if it has one.
    """

    def __init__(self, workdir: Path, listed: Manifest | None):
        self.notes: list[str] = []
        self._workdir, self._listed = workdir, listed
        self.faults: dict[str, str] = {}
        if listed and (fault := listed.fault(folder.CONFIG)):
            self.faults[folder.CONFIG] = fault
            self.notes.append(
                f"{workdir / folder.CONFIG} {fault}; it was made again from this command's config, "
                "which is the same."
            )

    def read(self, name: str, load: Callable[[Path], Content]) -> Content | None:
        """Read a file; return None if it is not there yet, or must be made again."""
        fault = self._listed.fault(name) if self._listed else ""
        if not fault and (self._workdir / name).exists():
            try:
                return load(self._workdir / name)
            except UserError:
                fault = DAMAGED
        if fault:
            self.faults[name] = fault
        return None

    def made_again(self, name: str, content: bytes) -> None:
        """Tell that a file was made again.

        Raises:
            UserError: It is not what the run wrote.
        """
        if not (fault := self.faults.get(name)):
            return
        path = self._workdir / name
        if self._listed and not self._listed.accepts(name, content):
            raise UserError(
                f"{path} {fault}, and cannot be made again, since the knees have changed as well: "
                "take the file from a copy of the run, or choose another --workdir"
            )
        self.notes.append(f"{path} {fault}; it was made again from the knees.")

    def check_counts(self, flow: selection.Flow) -> None:
        """Raise UserError if a run without a list of its knees had other numbers of them."""
        if self._listed or not has_checkpoints(self._workdir):
            return
        try:
            before = json.loads((self._workdir / "knees.json").read_bytes())
            then = {part: before[part]["used"] for part in flow}
        except (OSError, ValueError, KeyError, TypeError):
            then = {}
        now = {part: counts["used"] for part, counts in flow.items()}
        if then != now:
            raise UserError(
                f"{self._workdir} has no list of its knees ({knees.FILE}), and their numbers are "
                f"not those of now ({_counts(then)}; now {_counts(now)}): knees that it was "
                "trained on might be scored; prepare the set as it was, or train anew"
            )
        self.notes.append(
            f"The run has no list of its knees ({knees.FILE}); those of the prepared set as it is "
            "now are taken for them, whose numbers are the same."
        )


def _counts(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {part}" for part, n in numbers.items()) or "unknown"


def _known_to_initial_weights(source: str) -> pd.DataFrame | None:
    """Return the knees that a file of weights has learnt from, if they are listed beside it."""
    if not source:
        return None
    beside = Path(f"{Path(source).expanduser()}.{knees.FILE}")
    return knees.learnt_from(knees.read(beside)) if beside.exists() else None


def _measure(train: Subset, preprocessing: Preprocessing) -> statistics.Statistics:
    """Return the statistics of the training knees."""
    augmented = preprocessing.inputs.statistics == "augmented"
    return statistics.measure(
        train.prepared,
        train.rows,
        preprocessing.raw_training_input if augmented else None,
        preprocessing.augmentation.intensities,
    )
