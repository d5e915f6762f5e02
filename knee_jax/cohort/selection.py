"""Selection of the knees that a run trains, validates and tests on, with reasons for exclusion."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from knee_jax.cohort import splits
from knee_jax.config.schema import Data
from knee_jax.data import prepared
from knee_jax.data.subsets import Selected
from knee_jax.datasets.prepare import prepare
from knee_jax.errors import UserError
from knee_jax.targets.kinds import Target
from knee_jax.tasks.protocols import Settings

Flow = dict[str, dict[str, int]]
"""Number of knees of each part that are used, and of those left out, by reason."""


class Cohort(NamedTuple):
    """Knees of a run.

    Attributes:
        parts: Knees of 'train', 'validation' and, where there are any, 'unlabelled' and 'test'.
        flow: Number of knees of each part that are used, and of those left out, by reason.
    """

    parts: dict[str, Selected]
    flow: Flow


def select(
    data: Data,
    targets: Sequence[Target],
    task: Settings,
    data_dir: Path,
    *,
    reads_landmarks: bool,
) -> Cohort:
    """Select the knees of each part of a run; make a missing prepared set first.

    Args:
        data: The part `data` of a config.
        targets: Targets that are predicted.
        task: Settings of the task, which needs some labels.
        data_dir: Folder of prepared sets.
        reads_landmarks: Whether the network reads landmarks.

    Raises:
        UserError: A part that must have knees has none, or not all that the task needs.
    """
    names = [target.name for target in targets]
    knees = _open(data.dataset, data.manual_dir, data_dir, names)
    for target in targets:
        if target.source not in knees.index:
            raise UserError(
                f"the knees of {data.dataset} have no column {target.source}, from which the "
                f"target {target.name} is read: choose a set that was prepared with it"
            )
    # Grades are always stratified by KL, so that the folds do not depend on which grades are read.
    split = splits.make_split(knees.index, data, targets[0].stratify_by)
    knees = _hide_labels(knees, split["train"], data)
    chosen = {name: Selected(knees, rows) for name, rows in split.items()}
    if data.test_dataset:
        others = _open(data.test_dataset, data.test_manual_dir, data_dir, names)
        chosen["test"] = Selected(others, np.arange(len(others.index)))

    parts: dict[str, Selected] = {}
    flow: Flow = {}
    for name, (of_set, rows) in chosen.items():
        excluded, candidates = {}, rows
        if reads_landmarks and data.without_keypoints == "drop":
            candidates = rows[of_set.index["keypoints_valid"].to_numpy()[rows]]
            excluded["without_landmarks"] = len(rows) - len(candidates)
        if data.partially_labelled == "drop":
            partial = of_set.partially_labelled(candidates)
            excluded["partially_read"] = int(partial.sum())
            candidates = candidates[~partial]
        usable = task.usable(of_set.index.iloc[candidates], targets)
        labelled, unlabelled = candidates[usable], candidates[~usable]
        if name == "train" and data.unlabelled != "none" and len(unlabelled):
            parts["unlabelled"] = Selected(of_set, unlabelled)
            flow["unlabelled"] = {"used": len(unlabelled)}
        else:
            left = of_set.index.iloc[unlabelled]
            read = np.any([target.is_read(left) for target in targets], axis=0)
            excluded["other_grade"] = int(read.sum())
            excluded["unread"] = len(unlabelled) - excluded["other_grade"]
        if len(labelled):
            task.check_part(name, of_set.index.iloc[labelled], targets)
            parts[name] = Selected(of_set, labelled)
        elif len(rows):
            which = data.test_dataset if name == "test" and data.test_dataset else data.dataset
            _refuse_empty(name, which, len(rows), excluded, targets)
        flow[name] = {"used": len(labelled)} | {why: n for why, n in excluded.items() if n}
        if reads_landmarks and data.without_keypoints == "global":
            valid = of_set.index["keypoints_valid"].to_numpy()[labelled]
            flow[name] |= {"read_globally": int((~valid).sum())}
    if data.unlabelled != "none" and "unlabelled" not in parts:
        print("no unlabelled knees among the training subjects: training is supervised")
    return Cohort(parts, flow)


def describe(flow: Mapping[str, Mapping[str, int]]) -> str:
    """Describe in one line the knees of each part, and those that are left out, by reason."""
    parts = []
    for name, counts in flow.items():
        reasons = [f"{n:,} {why.replace('_', ' ')}" for why, n in counts.items() if why != "used"]
        left_out = f" (left out: {', '.join(reasons)})" if reasons else ""
        parts.append(f"{counts['used']:,} {name}{left_out}")
    return "knees: " + ", ".join(parts)


def _open(name: str, manual_dir: str, data_dir: Path, targets: list[str]) -> prepared.PreparedSet:
    return prepared.open_set(prepare(name, data_dir, manual_dir=manual_dir or None), targets)


def _hide_labels(
    knees: prepared.PreparedSet, train: np.ndarray, data: Data
) -> prepared.PreparedSet:
    """Return the set as the run may see it, without the labels that the config withholds."""
    if data.partially_labelled == "unlabelled":
        knees = knees.hide_labels(train[knees.partially_labelled(train)])
    if data.label_fraction != 1.0:
        kept = splits.label_fraction(knees.index, train, data.label_fraction, data.seed)
        knees = knees.hide_labels(np.setdiff1d(train, kept))
    return knees


def _refuse_empty(
    part: str,
    dataset: str,
    number: int,
    excluded: Mapping[str, int],
    targets: Sequence[Target],
) -> None:
    if excluded.get("without_landmarks") == number:
        raise UserError(
            f"{number} of {number} {part} knees of {dataset} have no landmarks, which the network "
            "reads: set --config.model.kpn=False, set --config.data.without_keypoints=global, or "
            "choose another set"
        )
    problem = f"has been read for {', '.join(target.source for target in targets)}"
    if other := excluded.get("other_grade"):
        names = ", ".join(target.name for target in targets)
        problem = f"belongs to a class of {names} ({other} have another grade)"
    raise UserError(
        f"no knee of the {part} part of {dataset} {problem}: choose other config.targets or "
        "another set"
    )
