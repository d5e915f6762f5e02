"""What a config stands for: the knees, the task, the network and its optimiser.

Training and evaluation both begin here, so that they cannot disagree about it.
"""

import dataclasses
import functools
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

from knee_jax import coherence, models, sharding, tasks
from knee_jax import state as states
from knee_jax.data import augment, batches, prepared, sampling, splits, statistics
from knee_jax.errors import UserError
from knee_jax.grades import GRADES
from knee_jax.landmarks import NUM_LANDMARKS
from knee_jax.metrics import bootstrap, ensemble
from knee_jax.prepare import prepare

CHOICES = {
    "mode": ("auto", "resident", "streamed"),
    "sampling": ("shuffled", "balanced_kl"),
    "unlabelled": ("none", "natural", "fixed"),
    "partially_labelled": ("masked", "unlabelled", "drop"),
    "without_keypoints": ("drop", "global"),
}
"""What a field of `config.data` may say: which knees are trained on, and what becomes of others."""

STATISTICS = "statistics.json"


@dataclasses.dataclass(frozen=True)
class Knees:
    """The knees of one prepared set that a run uses.

    Attributes:
        prepared: the set, with the labels that the run may see.
        rows: int64 [n], rows of its index, ascending.
        mesh: where batches go.
        mode: of `batches.make_source`.
    """

    prepared: prepared.PreparedSet
    rows: np.ndarray
    mesh: jax.sharding.Mesh
    mode: str

    @functools.cached_property
    def source(self) -> batches.Source:
        """Makes device batches; reads the knees when it is first asked for."""
        return batches.make_source(self.prepared, self.rows, self.mesh, self.mode)

    def same(self, other: "Knees") -> bool:
        """Whether batches of the two are the same."""
        return (
            self.prepared.path == other.prepared.path
            and np.array_equal(self.rows, other.rows)
            and self.prepared.index.equals(other.prepared.index)
            and self.mesh == other.mesh
        )


@dataclasses.dataclass(frozen=True)
class Part:
    """Some of those knees: to train on, to validate on, or to test on.

    Attributes:
        knees: of the set.
        rows: int64 [n], rows of its index.
    """

    knees: Knees
    rows: np.ndarray

    @property
    def prepared(self) -> prepared.PreparedSet:
        """The set."""
        return self.knees.prepared

    @property
    def source(self) -> batches.Source:
        """Makes device batches of the set."""
        return self.knees.source


@flax.struct.dataclass
class Facts:
    """What a run knows of its training knees before the first step.

    An argument of the compiled functions, so that runs that differ in nothing else share them.

    Attributes:
        mean, deviation: of the intensities, float32.
        task: loss, predictions and selection, with the weights of classes in it.
    """

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
    parts: Mapping[str, Part]
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

    def random_state(self) -> states.TrainState:
        """The state before the first step, with random weights; may be traced."""
        size, channels = self.config.input.size, self.config.input.channels
        image, keypoints = jnp.zeros((1, size, size, channels)), jnp.zeros((1, NUM_LANDMARKS, 2))
        variables = self.model.init(jax.random.key(self.config.seed), image, keypoints)
        return states.create(variables, self.optimizer)

    def views(
        self, batch: batches.Batch, key: jax.Array, facts: Facts, *, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        """The batch as the network sees it: normalised images and keypoints."""
        return augment.views(
            batch,
            key,
            self.config.input.size,
            (facts.mean, facts.deviation),
            self.augmentation,
            train=train,
            channels=self.config.input.channels,
        )


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
        members: runs that share the devices, side by side.
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
    if config.input.channels not in (1, 3) or config.input.statistics not in ("plain", "augmented"):
        raise UserError(
            "config.input: channels must be 1 or 3, and statistics plain or augmented; they are "
            f"{config.input.channels} and '{config.input.statistics}'"
        )
    augmentation = augment.make(config.augmentation, config.input.size)
    model = models.create(
        **config.model, grades=tuple(config.grades), dtype=compute_dtype(config.dtype)
    )
    mesh = sharding.make_mesh(members)
    split, account = find_knees(config, data_dir, model.needs_keypoints)
    parts = make_parts(split, mesh, config.data.mode, like)
    train = parts["train"]
    # A resumed run, and its evaluation, see intensities as the run did when it began.
    known = workdir / STATISTICS
    if known.exists():
        measured = statistics.load(known)
    else:
        seen = _raw_views(config, augmentation) if config.input.statistics == "augmented" else None
        measured = statistics.measure(train.prepared, train.rows, seen)
    fitted = workdir / coherence.FILE
    task = tasks.find(config.task).make(
        config,
        measured,
        train.prepared.index[list(GRADES)].to_numpy(np.int8)[train.rows],
        mixture=coherence.load(fitted) if fitted.exists() else None,
    )
    plan, knees_per_epoch = make_plan(config, parts)
    steps_per_epoch = knees_per_epoch / config.batch_size
    return Experiment(
        config=config,
        mesh=mesh,
        parts=parts,
        account=account,
        statistics=measured,
        facts=Facts(
            np.asarray(measured.mean, np.float32), np.asarray(measured.deviation, np.float32), task
        ),
        augmentation=augmentation,
        model=model,
        plan=plan,
        steps_per_epoch=steps_per_epoch,
        optimizer=states.make_optimizer(config.optimizer, steps_per_epoch),
    )


Found = dict[str, tuple[prepared.PreparedSet, np.ndarray]]
"""Part → the set that its knees are of, and their rows."""


def find_knees(
    config: ml_collections.ConfigDict, data_dir: Path, landmarks: bool
) -> tuple[Found, dict[str, dict[str, int]]]:
    """The knees of each part of a run, and an account of those that are left out.

    Args:
        config: the run's config; its `data` says which sets, split and policies.
        data_dir: where prepared sets are.
        landmarks: whether the network reads landmarks.

    Raises:
        UserError: a part that must have knees has none.
    """
    data, task = config.data, tasks.find(config.task)
    for field, choices in CHOICES.items():
        if data[field] not in choices:
            raise UserError(f"config.data.{field} = '{data[field]}': choose {', '.join(choices)}")
    knees = _open(data.dataset, config, data_dir)
    split = splits.make_split(
        knees.index, data.split, num_folds=data.num_folds, fold=data.fold, seed=data.seed
    )
    knees = _hide_labels(knees, split["train"], config)
    chosen: Found = {name: (knees, rows) for name, rows in split.items()}
    if data.test_dataset:
        if len(split["test"]):
            raise UserError(
                f"config.data.test_dataset = '{data.test_dataset}', but the split '{data.split}' "
                "sets test knees aside: choose config.data.split = k_fold, or no test_dataset"
            )
        others = _open(data.test_dataset, config, data_dir)
        chosen["test"] = (others, np.arange(len(others.index)))

    found: Found = {}
    account: dict[str, dict[str, int]] = {}
    for name, (knee_set, rows) in chosen.items():
        left_out = {}
        usable = rows
        if landmarks and data.without_keypoints == "drop":
            usable = rows[knee_set.index["keypoints_valid"].to_numpy()[rows]]
            left_out["without_landmarks"] = len(rows) - len(usable)
        if data.partially_labelled == "drop":
            partial = knee_set.partially_labelled(usable, tuple(config.grades))
            left_out["partially_read"] = int(partial.sum())
            usable = usable[~partial]
        labelled = task.usable(knee_set.index, usable, config)
        unlabelled = np.setdiff1d(usable, labelled)
        if name == "train" and data.unlabelled != "none" and len(unlabelled):
            found["unlabelled"] = (knee_set, unlabelled)
            account["unlabelled"] = {"used": len(unlabelled)}
        else:
            left_out["unread"] = len(unlabelled)
        if len(labelled):
            found[name] = (knee_set, labelled)
        elif len(rows):
            _refuse_empty(name, len(rows), left_out, config)
        account[name] = {"used": len(labelled)} | {why: n for why, n in left_out.items() if n}
        if landmarks and data.without_keypoints == "global":
            valid = knee_set.index["keypoints_valid"].to_numpy()[labelled]
            account[name] |= {"read_globally": int((~valid).sum())}
    return found, account


def make_parts(
    found: Found, mesh: jax.sharding.Mesh, mode: str, like: Experiment | None
) -> dict[str, Part]:
    """The parts of a run, those of one set with one source of batches."""
    served = [part.knees for part in like.parts.values()] if like else []
    parts = {}
    for name, (knee_set, rows) in found.items():
        everyone = np.unique(
            np.concatenate([other for each, other in found.values() if each is knee_set])
        )
        own = Knees(knee_set, everyone, mesh, mode)
        knees = next((each for each in served if each.same(own)), own)
        served.append(knees)
        parts[name] = Part(knees, rows)
    return parts


def make_plan(
    config: ml_collections.ConfigDict, parts: Mapping[str, Part]
) -> tuple[sampling.Plan, float]:
    """Which knees each step trains on, and how many knees make an epoch.

    The folds of a cross-validation differ by a few knees. Their epochs are made equally long, so
    that they can be trained side by side and by one compiled step.
    """
    data, seed, size = config.data, config.seed, config.batch_size
    train = parts["train"]
    nobody = np.empty(0, np.int64)
    unlabelled = parts["unlabelled"].rows if "unlabelled" in parts else nobody
    if data.unlabelled != "none" and not len(unlabelled):
        print("no unlabelled knees among the training subjects: training is supervised")
    natural = data.unlabelled == "natural" or not len(unlabelled)
    if data.sampling == "balanced_kl":
        if len(unlabelled):
            raise UserError(
                "config.data.sampling = 'balanced_kl' knows no weight for unlabelled knees: set "
                "config.data.unlabelled = 'none'"
            )
        kl = train.prepared.index["kl"].to_numpy()[train.rows]
        plan = sampling.weighted(train.rows, sampling.inverse_frequency(kl), size, seed)
    elif natural:
        plan = sampling.shuffled(np.union1d(train.rows, unlabelled), size, seed)
    else:
        number = round(data.unlabelled_share * size)
        plan = sampling.mixed(train.rows, unlabelled, size, number, seed)
    if not natural:
        return plan, len(train.rows) * size / (size - number)
    knees = len(train.rows) + len(unlabelled)
    if "fold" in data.split and data.label_fraction == 1.0 and not len(unlabelled):
        together = len(train.rows) + len(parts["validation"].rows)
        knees = round(together * (data.num_folds - 1) / data.num_folds)
    return plan, knees


def _raw_views(
    config: ml_collections.ConfigDict, augmentation: augment.Augmentation
) -> statistics.Views:
    """Training views before their intensities are normalised."""
    return lambda batch, key: augment.views(
        batch,
        key,
        config.input.size,
        (0.0, 1.0),
        augmentation,
        train=True,
        channels=config.input.channels,
    )


def compute_dtype(name: str) -> Any:
    """The type that the network computes in; 'auto' is bfloat16 except on a CPU."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    if name not in ("float32", "bfloat16"):
        raise UserError(f"config.dtype = '{name}': choose auto, float32 or bfloat16")
    return jnp.dtype(name)


def _open(name: str, config: ml_collections.ConfigDict, data_dir: Path) -> prepared.PreparedSet:
    raw = config.data.manual_dir if name == config.data.dataset else config.data.test_manual_dir
    return prepared.open_set(prepare(name, data_dir, manual_dir=raw or None))


def _hide_labels(
    knees: prepared.PreparedSet, train: np.ndarray, config: ml_collections.ConfigDict
) -> prepared.PreparedSet:
    """The set as a run may see it: without the labels that the config keeps from it."""
    data = config.data
    if data.partially_labelled == "unlabelled":
        partial = knees.partially_labelled(train, tuple(config.grades))
        knees = knees.hide_grades(train[partial])
    if data.label_fraction != 1.0:
        kept = splits.label_fraction(knees.index, train, data.label_fraction, data.seed)
        knees = knees.hide_grades(np.setdiff1d(train, kept))
    return knees


def _refuse_empty(
    name: str, seen: int, left_out: Mapping[str, int], config: ml_collections.ConfigDict
) -> None:
    which = config.data.test_dataset if name == "test" else ""
    which = which or config.data.dataset
    if left_out.get("without_landmarks") == seen:
        raise UserError(
            f"{seen} of {seen} {name} knees of {which} have no landmarks, which the model "
            f"{config.model.name} reads: set --config.model.kpn=False, set "
            "--config.data.without_keypoints=global, or choose another set"
        )
    raise UserError(
        f"no knee of the {name} part of {which} has been read for {', '.join(config.grades)}: "
        "choose other config.grades or another set"
    )
