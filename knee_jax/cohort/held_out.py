"""Knees of any prepared set that a finished run is scored on: those that it does not know."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from knee_jax.cohort import knees
from knee_jax.data.prepared import PreparedSet
from knee_jax.errors import UserError
from knee_jax.targets.kinds import Target
from knee_jax.workdir import manifest


class HeldOut(NamedTuple):
    """Knees to be scored.

    Attributes:
        rows: Rows of the set's index, int64 [n], ascending.
        left_out: Number of knees that are left out, by reason.
        notes: What a reader of the results must know about them, one sentence each.
        known: Number of knees to be scored that the network has learnt from.
    """

    rows: np.ndarray
    left_out: dict[str, int]
    notes: tuple[str, ...]
    known: int = 0


def learnt_by(run: Path) -> pd.DataFrame | None:
    """Read which knees a run has learnt from; None if there is no list of them.

    Raises:
        UserError: The list is damaged.
    """
    path = run / knees.FILE
    listed = manifest.read(run) if run.is_dir() else None
    if listed and (fault := listed.fault(knees.FILE)):
        raise UserError(
            f"{path} {fault}: nobody can tell whom the run was trained on; take the file from a "
            "copy of the run"
        )
    return knees.learnt_from(knees.read(path)) if path.is_file() else None


def choose(
    prepared: PreparedSet,
    targets: Sequence[Target],
    learnt: pd.DataFrame | None,
    *,
    with_landmarks: bool = False,
    wholly_read: bool = False,
    training_knees: bool = False,
) -> HeldOut:
    """Choose the knees of a set that a network can be scored on.

    Args:
        prepared: Set, opened with the targets.
        targets: Targets that are predicted.
        learnt: Knees that the network has learnt from; None: unknown, which a note says.
        with_landmarks: Whether knees without landmarks are left out.
        wholly_read: Whether knees are left out that were read for some of the targets only.
        training_knees: Whether knees that the network has learnt from are kept, which a note says.

    Raises:
        UserError: No knee is left.
    """
    names = ", ".join(target.name for target in targets)
    index, left_out, notes = prepared.index, {}, []
    read = np.any([target.is_known(target.labels(index)) for target in targets], axis=0)
    rows = np.flatnonzero(read).astype(np.int64)
    left_out["unread"] = int((~read).sum())
    if with_landmarks:
        valid = index["keypoints_valid"].to_numpy(bool)[rows]
        rows, left_out["without_landmarks"] = rows[valid], int((~valid).sum())
    if wholly_read:
        partial = prepared.partially_labelled(rows)
        rows, left_out["partially_read"] = rows[~partial], int(partial.sum())
    words = {
        "unread": f"without a label of {names}",
        "without_landmarks": "without landmarks, which the network reads",
        "partially_read": f"read for some of {names} alone",
    }
    left_out = {why: n for why, n in left_out.items() if n}
    said = ", ".join(f"{n:,} {words[why]}" for why, n in left_out.items())
    if not len(rows):
        raise UserError(f"{prepared.name}: no knee of the set can be scored: {said}")
    if said:
        notes.append(f"Left out of {len(index):,} knees: {said}.")
    kept = 0
    if learnt is None:
        notes.insert(
            0,
            "It is not known whom the network was trained on, so that none of its training knees "
            "could be left out.",
        )
    else:
        present = knees.describe(prepared).iloc[rows]
        known = knees.leaks(learnt, present)
        if (known != "").any():
            told, counts = knees.say_leaks(prepared.name, present, known)
            if training_knees:
                kept = int((known != "").sum())
                notes.insert(
                    0, f"{told}, and scored with the others: the metrics do not tell of new knees."
                )
            elif (known != "").all():
                raise UserError(
                    f"{told}, so that none is left to be scored; score another set, or these all "
                    "the same with --training_knees, and the results say so (subjects are known by "
                    "cohort and id: `knee-jax prepare folder --cohort` names another cohort)"
                )
            else:
                notes.insert(0, f"{told}, and left out.")
                rows, left_out = rows[known == ""], left_out | counts
    return HeldOut(rows, left_out, tuple(notes), kept)
