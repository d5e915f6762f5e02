"""Selection of the knees that a run trains, validates and tests on, with reasons for exclusion."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from knee_jax.cohort import knees, splits
from knee_jax.config.schema import Data
from knee_jax.data import prepared
from knee_jax.data.subsets import Selected
from knee_jax.datasets.prepare import prepare
from knee_jax.errors import UserError
from knee_jax.targets.kinds import Target
from knee_jax.tasks.protocols import Settings

PARTS = ("train", "unlabelled", "validation", "test")

Flow = dict[str, dict[str, int]]
"""Number of knees of each part that are used, and of those left out, by reason."""


class Cohort(NamedTuple):
    """Knees of a run.

    Attributes:
        parts: Knees of 'train', 'validation' and, where there are any, 'unlabelled' and 'test'.
        flow: Number of knees of each part that are used, and of those left out, by reason.
        knees: List of the run's knees (`cohort.knees`).
        notes: What a reader of the results must know about the knees, one sentence each.
    """

    parts: dict[str, Selected]
    flow: Flow
    knees: pd.DataFrame
    notes: tuple[str, ...]


def select(
    data: Data,
    targets: Sequence[Target],
    task: Settings,
    data_dir: Path,
    *,
    reads_landmarks: bool,
    recorded: pd.DataFrame | None = None,
    initial: pd.DataFrame | None = None,
    training: bool = True,
) -> Cohort:
    """Select the knees of each part of a run; make a missing prepared set first.

    Args:
        data: The part `data` of a config.
        targets: Targets that are predicted.
        task: Settings of the task, which needs some labels.
        data_dir: Folder of prepared sets.
        reads_landmarks: Whether the network reads landmarks.
        recorded: List of knees that the run began with, by which its parts go; None: it begins now.
        initial: List of knees that the initial weights have learnt from.
        training: Whether the run is going to be trained, and not only evaluated.

    Raises:
        UserError: A part that must have knees has none, or not all that the task needs; knees that
            the run was trained on are no longer there; or a knee to be scored is known to the
            network.
    """
    names = [target.name for target in targets]
    of_set = _open(data.dataset, data.manual_dir, data_dir, names)
    for target in targets:
        if target.source not in of_set.index:
            raise UserError(
                f"the knees of {data.dataset} have no column {target.source}, from which the "
                f"target {target.name} is read: choose a set that was prepared with it"
            )
    others = (
        _open(data.test_dataset, data.test_manual_dir, data_dir, names)
        if data.test_dataset
        else None
    )
    datasets = {
        name: data.test_dataset if name == "test" and data.test_dataset else data.dataset
        for name in PARTS
    }
    unchanged = recorded is None or {of_set.fingerprint, (others or of_set).fingerprint} == set(
        recorded["prepared"][recorded["part"] != knees.INITIAL]
    )
    if recorded is not None:
        initial = recorded[recorded["part"] == knees.INITIAL]
    found = None
    if unchanged:
        parts, flow = _dealt(data, targets, task, of_set, others, reads_landmarks)
        listed = knees.list_knees(parts, datasets)
        if initial is not None:
            listed = pd.concat([listed, initial.assign(part=knees.INITIAL)], ignore_index=True)
        found = _without_leaks(parts, flow, listed, data)
    # Another version of the program may deal the same knees differently.
    if found is None or (recorded is not None and not recorded.equals(found.knees)):
        assert recorded is not None
        sets = {data.dataset: of_set} | ({data.test_dataset: others} if others else {})
        parts, flow, notes = _as_recorded(recorded, sets, targets, task, training)
        found = _without_leaks(parts, flow, recorded, data)
        found = found._replace(notes=(*notes, *found.notes))
    if data.unlabelled != "none" and "unlabelled" not in found.parts:
        print("no unlabelled knees among the training subjects: training is supervised")
    return found


def _dealt(
    data: Data,
    targets: Sequence[Target],
    task: Settings,
    of_set: prepared.PreparedSet,
    others: prepared.PreparedSet | None,
    reads_landmarks: bool,
) -> tuple[dict[str, Selected], Flow]:
    """Deal the knees to the parts as the config says."""
    # Grades are always stratified by KL, so that the folds do not depend on which grades are read.
    split = splits.make_split(of_set.index, data, targets[0].stratify_by)
    of_set = _hide_labels(of_set, split["train"], data)
    chosen = {name: Selected(of_set, rows) for name, rows in split.items()}
    if others is not None:
        chosen["test"] = Selected(others, np.arange(len(others.index)))

    parts: dict[str, Selected] = {}
    flow: Flow = {}
    for name, (known, rows) in chosen.items():
        excluded, candidates = {}, rows
        if reads_landmarks and data.without_keypoints == "drop":
            candidates = rows[known.index["keypoints_valid"].to_numpy()[rows]]
            excluded["without_landmarks"] = len(rows) - len(candidates)
        if data.partially_labelled == "drop":
            partial = known.partially_labelled(candidates)
            excluded["partially_read"] = int(partial.sum())
            candidates = candidates[~partial]
        usable = task.usable(known.index.iloc[candidates], targets)
        labelled, unlabelled = candidates[usable], candidates[~usable]
        if name == "train" and data.unlabelled != "none" and len(unlabelled):
            parts["unlabelled"] = Selected(known, unlabelled)
            flow["unlabelled"] = {"used": len(unlabelled)}
        else:
            left = known.index.iloc[unlabelled]
            read = np.any([target.is_read(left) for target in targets], axis=0)
            excluded["other_grade"] = int(read.sum())
            excluded["unread"] = len(unlabelled) - excluded["other_grade"]
        if len(labelled):
            task.check_part(name, known.index.iloc[labelled], targets)
            parts[name] = Selected(known, labelled)
        elif len(rows):
            which = data.test_dataset if name == "test" and data.test_dataset else data.dataset
            _refuse_empty(name, which, len(rows), excluded, targets)
        flow[name] = {"used": len(labelled)} | {why: n for why, n in excluded.items() if n}
        if reads_landmarks and data.without_keypoints == "global":
            valid = known.index["keypoints_valid"].to_numpy()[labelled]
            flow[name] |= {"read_globally": int((~valid).sum())}
    return parts, flow


def _as_recorded(
    recorded: pd.DataFrame,
    sets: Mapping[str, prepared.PreparedSet],
    targets: Sequence[Target],
    task: Settings,
    training: bool,
) -> tuple[dict[str, Selected], Flow, list[str]]:
    """Find the knees that the run began with in sets that were prepared again since."""
    rows: dict[str, list[tuple[prepared.PreparedSet, np.ndarray]]] = {}
    told: dict[str, dict[str, int]] = {"vanished": {}, "changed": {}}
    appeared = 0
    for dataset, of_set in sets.items():
        present = knees.describe(of_set)
        listed = recorded[(recorded["dataset"] == dataset) & (recorded["part"] != knees.INITIAL)]
        appeared += int((knees.rows_of(present, listed) < 0).sum())
        for part in map(str, listed["part"].unique()):
            some = listed[listed["part"] == part]
            found = knees.rows_of(some, present)
            there = found >= 0
            now = present["checksum"].to_numpy()[found[there]]
            changed = now != some["checksum"].to_numpy()[there]
            told["vanished"][part] = int((~there).sum())
            told["changed"][part] = int(changed.sum())
            rows.setdefault(part, []).append((of_set, np.sort(found[there])))
    if "unlabelled" in rows:
        ((of_set, withheld),) = rows["unlabelled"]
        as_seen = of_set.hide_labels(withheld)
        for name, found_in in rows.items():
            rows[name] = [(as_seen if each is of_set else each, r) for each, r in found_in]
    parts: dict[str, Selected] = {}
    flow: Flow = {}
    for name in PARTS:
        for of_set, chosen in rows.get(name, []):
            usable = np.ones(len(chosen), bool)
            if name != "unlabelled":
                usable = task.usable(of_set.index.iloc[chosen], targets)
            if usable.any():
                parts[name] = Selected(of_set, chosen[usable])
            flow[name] = {"used": int(usable.sum())}
            if lost := told["vanished"][name]:
                flow[name]["vanished"] = lost
            if not usable.all():
                flow[name]["unread_now"] = int((~usable).sum())
    changed_knees = appeared or any(any(counts.values()) for counts in told.values())
    note = _difference(appeared, told)
    of_training = [
        n for kind in told.values() for part, n in kind.items() if part in knees.LEARNT_FROM
    ]
    relabelled = any("unread_now" in flow.get(part, {}) for part in knees.LEARNT_FROM)
    if training and (any(of_training) or relabelled):
        raise UserError(
            f"{note} The run cannot go on with other knees than it began with: prepare the set as "
            "it was, score the run as it is (--mode=evaluate), or choose another --workdir"
        )
    for name in ("train", "validation"):
        if name not in parts:
            raise UserError(f"{note} No {name} knee of the run is left: prepare the set as it was")
    notes = [note] if changed_knees else []
    if known := int((recorded["part"] == knees.KNOWN).sum()):
        notes.append(f"{known:,} knees were left out when the run began: the network knew them.")
    return parts, flow, notes


def _difference(appeared: int, told: Mapping[str, Mapping[str, int]]) -> str:
    """Say in one sentence how a prepared set differs from the one that a run began with."""
    words = [f"{appeared:,} knees appeared (not used)"]
    for kind, counts in told.items():
        parts = ", ".join(f"{n:,} {part}" for part, n in counts.items() if n)
        words.append(f"{sum(counts.values()):,} {kind}" + (f" ({parts})" if parts else ""))
    return (
        "The prepared set is not the one that the run began with, whose list of knees counts: "
        f"{', '.join(words)}."
    )


def _without_leaks(
    parts: Mapping[str, Selected], flow: Flow, listed: pd.DataFrame, data: Data
) -> Cohort:
    """Leave out the knees to be scored that the network knows, and tell how many.

    Raises:
        UserError: There are such knees, and the config does not say to leave them out.
    """
    kept, flow, listed, notes = dict(parts), dict(flow), listed.copy(), []
    for name in ("validation", "test"):
        if name not in parts:
            continue
        selected = parts[name]
        learnt = knees.learnt_from(listed[listed["part"] != name])
        present = knees.describe(selected.prepared).iloc[selected.rows]
        known = knees.leaks(learnt, present)
        if data.split == "image_ratio" and not data.test_dataset:
            initial = learnt[learnt["part"] == knees.INITIAL]
            crossing = (known == "subject") & (knees.leaks(initial, present) != "subject")
            if crossing.any():
                notes.append(
                    f"{int(crossing.sum()):,} of {len(known):,} {name} knees are of subjects that "
                    "the network has learnt from: the split image_ratio leaks subjects."
                )
            known = np.where(crossing, "", known)
        if not (known != "").any():
            continue
        said, counts = knees.say_leaks(name, present, known)
        if data.leaks == "refuse":
            raise UserError(
                f"{said} (such as {_example(present[known != ''])}): choose other knees, or set "
                "--config.data.leaks=leave_out, which scores the others and says so in the report"
            )
        if (known != "").all():
            raise UserError(f"{said}, so that none is left")
        notes.append(f"{said}, and left out.")
        kept[name] = Selected(selected.prepared, selected.rows[known == ""])
        flow[name] = flow[name] | {"used": len(kept[name].rows)} | counts
        out = present[known != ""]
        own = listed[listed["part"] == name]
        listed.loc[own.index[knees.rows_of(out, own)], "part"] = knees.KNOWN
    return Cohort(kept, flow, listed, tuple(notes))


def _example(table: pd.DataFrame) -> str:
    return " ".join(table.iloc[0][["subject", "side", "visit"]])


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
    of_set: prepared.PreparedSet, train: np.ndarray, data: Data
) -> prepared.PreparedSet:
    """Return the set as the run may see it, without the labels that the config withholds."""
    if data.partially_labelled == "unlabelled":
        of_set = of_set.hide_labels(train[of_set.partially_labelled(train)])
    if data.label_fraction != 1.0:
        kept = splits.label_fraction(of_set.index, train, data.label_fraction, data.seed)
        of_set = of_set.hide_labels(np.setdiff1d(train, kept))
    return of_set


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
