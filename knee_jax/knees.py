"""Which knees a run trains, validates and is tested on, and what becomes of the others."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from knee_jax import tasks
from knee_jax.data import batches, prepared, sampling, splits
from knee_jax.errors import UserError
from knee_jax.grades import MISSING, OWN, labels, source
from knee_jax.prepare import prepare

CHOICES = {
    "mode": ("auto", "resident", "streamed"),
    "sampling": ("shuffled", "balanced", "oversampled"),
    "unlabelled": ("none", "natural", "fixed"),
    "partially_labelled": ("masked", "unlabelled", "drop"),
    "without_keypoints": ("drop", "global"),
}
"""What a field of `config.data` may say: which knees are trained on, and what becomes of others."""


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

    @property
    def bytes_on_device(self) -> int:
        """Memory that the knees take on each device, if they lie there."""
        return len(self.rows) * self.prepared.bytes_per_knee

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

    def map(
        self,
        function: Callable[[batches.Batch], tuple[jax.Array, Any]],
        rows: np.ndarray,
        batch_size: int,
    ) -> Any:
        """What a compiled function says of some of the knees, each exactly once.

        Every process takes part, with the same rows.

        Args:
            function: batch → its rows of the index, and a pytree of [batch, ...]; both whole on
                every process.
            rows: int64 [n], at least one.
            batch_size: knees in a batch.

        Returns:
            The pytree, NumPy arrays [n, ...] in the order of `rows`.
        """
        steps = range(sampling.num_batches(len(rows), batch_size))
        plan = sampling.in_order(rows, batch_size)
        results = jax.device_get([function(batch) for batch in self.source.batches(plan, steps)])
        # Rows come back with the results: whatever the devices did, each keeps its own.
        at = np.concatenate([of_batch for of_batch, _ in results])
        known = at != sampling.PADDING
        if not np.array_equal(at[known], rows):
            raise RuntimeError("the knees came back in another order, or not once each")
        values = [of_batch for _, of_batch in results]
        return jax.tree.map(lambda *each: np.concatenate(each)[known], *values)


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
        UserError: a part that must have knees has none, or not all that the task needs.
    """
    data, task = config.data, tasks.find(config.task)
    for field, choices in CHOICES.items():
        if data[field] not in choices:
            raise UserError(f"config.data.{field} = '{data[field]}': choose {', '.join(choices)}")
    knees = _open(data.dataset, config, data_dir)
    # On a target of its own folds are stratified; on grades always by KL, so that they are the same
    # whichever of the grades are read.
    stratum = config.grades[0] if config.grades[0] in OWN else "kl"
    if stratum not in knees.index:
        raise UserError(
            f"the knees of {data.dataset} have no column {stratum}, which config.grades names: "
            "choose a set that was prepared with it"
        )
    split = splits.make_split(
        knees.index,
        data.split,
        parts=data.parts,
        num_folds=data.num_folds,
        fold=data.fold,
        seed=data.seed,
        test_site=data.test_site,
        target=stratum,
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
            partial = knee_set.partially_labelled(usable, _read_from(config))
            left_out["partially_read"] = int(partial.sum())
            usable = usable[~partial]
        labelled = task.usable(knee_set.index, usable, config)
        unlabelled = np.setdiff1d(usable, labelled)
        if name == "train" and data.unlabelled != "none" and len(unlabelled):
            found["unlabelled"] = (knee_set, unlabelled)
            account["unlabelled"] = {"used": len(unlabelled)}
        else:
            knees_left = knee_set.index.iloc[unlabelled]
            read = [labels(knees_left, grade) != MISSING for grade in _read_from(config)]
            left_out["other_grade"] = int(np.any(read, axis=0).sum())
            left_out["unread"] = len(unlabelled) - left_out["other_grade"]
        if len(labelled):
            task.check_part(name, knee_set.index, labelled, config)
            found[name] = (knee_set, labelled)
        elif len(rows):
            _refuse_empty(name, len(rows), left_out, config)
        account[name] = {"used": len(labelled)} | {why: n for why, n in left_out.items() if n}
        if landmarks and data.without_keypoints == "global":
            valid = knee_set.index["keypoints_valid"].to_numpy()[labelled]
            account[name] |= {"read_globally": int((~valid).sum())}
    return found, account


def make_parts(
    found: Found, mesh: jax.sharding.Mesh, mode: str, served: Iterable[Knees] = ()
) -> dict[str, Part]:
    """The parts of a run, those of one set with one source of batches.

    Args:
        found: of `find_knees`.
        mesh: where batches go.
        mode: of `batches.make_source`.
        served: knees of another run, whose sources serve this one too where they are the same.
    """
    served, parts = list(served), {}
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

    def classes(rows: np.ndarray) -> np.ndarray:
        return labels(train.prepared.index.iloc[rows], config.grades[0])

    def length(rows: np.ndarray) -> int:
        oversampled = data.sampling == "oversampled"
        return sampling.oversampled_length(classes(rows)) if oversampled else len(rows)

    nobody = np.empty(0, np.int64)
    unlabelled = parts["unlabelled"].rows if "unlabelled" in parts else nobody
    if data.unlabelled != "none" and not len(unlabelled):
        print("no unlabelled knees among the training subjects: training is supervised")
    if data.sampling != "shuffled" and len(unlabelled):
        raise UserError(
            f"config.data.sampling = '{data.sampling}' knows no class of unlabelled knees: set "
            "config.data.unlabelled = 'none'"
        )
    natural = data.unlabelled == "natural" or not len(unlabelled)
    if data.sampling == "balanced":
        weights = sampling.inverse_frequency(classes(train.rows))
        plan = sampling.weighted(train.rows, weights, size, seed)
    elif data.sampling == "oversampled":
        plan = sampling.oversampled(train.rows, classes(train.rows), size, seed)
    elif natural:
        plan = sampling.shuffled(np.union1d(train.rows, unlabelled), size, seed)
    else:
        number = round(data.unlabelled_share * size)
        plan = sampling.mixed(train.rows, unlabelled, size, number, seed)
    if not natural:
        return plan, len(train.rows) * size / (size - number)
    if data.split in splits.FOLDED and data.label_fraction == 1.0 and not len(unlabelled):
        together = np.concatenate([train.rows, parts["validation"].rows])
        return plan, round(length(together) * (data.num_folds - 1) / data.num_folds)
    return plan, length(train.rows) + len(unlabelled)


def _open(name: str, config: ml_collections.ConfigDict, data_dir: Path) -> prepared.PreparedSet:
    raw = config.data.manual_dir if name == config.data.dataset else config.data.test_manual_dir
    return prepared.open_set(prepare(name, data_dir, manual_dir=raw or None))


def _read_from(config: ml_collections.ConfigDict) -> list[str]:
    """The grades that the run's targets are made of."""
    return [source(target) for target in config.grades]


def _hide_labels(
    knees: prepared.PreparedSet, train: np.ndarray, config: ml_collections.ConfigDict
) -> prepared.PreparedSet:
    """The set as a run may see it: without the labels that the config keeps from it."""
    data = config.data
    if data.partially_labelled == "unlabelled":
        partial = knees.partially_labelled(train, _read_from(config))
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
    problem = f"has been read for {', '.join(_read_from(config))}"
    if other := left_out.get("other_grade"):
        problem = f"belongs to a class of {', '.join(config.grades)} ({other} have another grade)"
    raise UserError(
        f"no knee of the {name} part of {which} {problem}: choose other config.grades or another "
        "set"
    )
