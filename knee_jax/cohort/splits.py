"""Splits into training, validation and test knees, by subject unless the name says otherwise.

Both knees and all visits of a subject lie on the same side of every split except `image_ratio`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from knee_jax.config.schema import Data
from knee_jax.errors import UserError
from knee_jax.targets.grades import GRADES
from knee_jax.targets.kinds import MISSING

if TYPE_CHECKING:
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

Split = dict[str, np.ndarray]
"""Rows of the index, int64 [n], ascending, of 'train', 'validation' and 'test'; 'test' may be
empty.
"""

PARTS = ("train", "validation", "test")
PUBLISHED_NAMES = {"train": "train", "val": "validation", "test": "test"}


def published(index: pd.DataFrame) -> Split:
    """Return the split that the set was published with (its `split` column)."""
    return {
        ours: np.flatnonzero(index["split"].to_numpy() == theirs)
        for theirs, ours in PUBLISHED_NAMES.items()
    }


def ratio(index: pd.DataFrame, parts: Mapping[str, int], seed: int) -> Split:
    """Split at random by subject, stratified on the subject's worst KL grade.

    Zheng et al. 2021, Experiment Setup: 2:1:1, "subject-stratified". All subjects are divided,
    whichever of their knees a run will use.

    Args:
        index: Index of the prepared set; uses `subject` and `kl` (-1, unread, counts as a stratum).
        parts: Ratio of the parts, such as {"train": 2, "validation": 1, "test": 1}.
        seed: Random seed of the split.
    """
    worst = index.groupby("subject")["kl"].max()
    part_of_row = index["subject"].map(_deal(worst, parts, seed)).to_numpy()
    return {name: np.flatnonzero(part_of_row == name) for name in parts}


def image_ratio(index: pd.DataFrame, parts: Mapping[str, int], seed: int) -> Split:
    """Split at random by image, stratified on the KL grade; this leaks subjects.

    Wang et al., section III-B: the images were split 7:1:2, "stratified by KL grade". The other
    knee and other visits of a training subject may then be test knees, which makes results look
    better than they are: only for comparison with the paper.

    Args:
        index: Index of the prepared set; uses `subject`, `side`, `visit` and `kl`.
        parts: Ratio of the parts, such as {"train": 7, "validation": 1, "test": 2}.
        seed: Random seed of the split.
    """
    rows = index.reset_index(drop=True).sort_values(["subject", "side", "visit"], kind="stable")
    part_of_row = _deal(rows["kl"], parts, seed).sort_index().to_numpy()
    return {name: np.flatnonzero(part_of_row == name) for name in parts}


def _deal(strata: pd.Series, parts: Mapping[str, int], seed: int) -> pd.Series:
    """Return the part of each subject, or image; `strata` has one value for each."""
    rng = np.random.default_rng(seed)
    # Members in random order within each stratum, the strata laid end to end and dealt in turn:
    # every part gets its share of every stratum, to within one or two.
    members = rng.permutation(strata.index.to_numpy())
    members = members[np.argsort(strata.loc[members].to_numpy(), kind="stable")]
    cycle = [name for name, count in parts.items() for _ in range(count)]
    return pd.Series(np.resize(rng.permutation(cycle), len(members)), index=members)


def k_fold(index: pd.DataFrame, num_folds: int, fold: int, seed: int, target: str = "kl") -> Split:
    """Return fold `fold` (from 0) of a subject-wise cross-validation, stratified on `target`.

    The held-out fold is the validation part; there is no test part.
    """
    _check_folds(index, num_folds)
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    return _fold(index, splitter, fold, target)


def group_k_fold(index: pd.DataFrame, num_folds: int, fold: int) -> Split:
    """Return fold `fold` (from 0) of a subject-wise cross-validation, not stratified or shuffled.

    The code of Tiulpin & Saarakkala 2020 did this; their text says stratified, as in `k_fold`.
    """
    _check_folds(index, num_folds)
    from sklearn.model_selection import GroupKFold

    return _fold(index, GroupKFold(num_folds), fold)


def site_hold_out(
    index: pd.DataFrame, site: str, num_folds: int, fold: int, seed: int, target: str = "kl"
) -> Split:
    """Hold out all subjects of one clinical site as test part; divide the others by `k_fold`.

    Panfilov et al. 2022, section 3.1, whose code tests on site D of OAI. It assigns subjects to
    folds greedily, by an algorithm of its own; here the folds are scikit-learn's.

    Raises:
        UserError: The set has no knee of that site.
    """
    here = (index["site"] == site).to_numpy()
    if not here.any():
        known = ", ".join(sorted(name for name in set(index["site"].fillna("")) if name))
        raise UserError(
            f"config.data.test_site = '{site}' is no site of the set: choose {known or 'no site'}"
        )
    # By subject, in case one was seen at two sites.
    tested = index["subject"].isin(index["subject"][here]).to_numpy()
    rest = np.flatnonzero(~tested)
    parts = k_fold(index.iloc[rest], num_folds, fold, seed, target)
    return {
        "train": rest[parts["train"]],
        "validation": rest[parts["validation"]],
        "test": np.flatnonzero(tested),
    }


def _fold(
    index: pd.DataFrame,
    splitter: "GroupKFold | StratifiedGroupKFold",
    fold: int,
    target: str = "kl",
) -> Split:
    folds = list(splitter.split(index, index[target], index["subject"]))
    train, validation = folds[fold]
    return {"train": train, "validation": validation, "test": np.empty(0, np.int64)}


def _check_folds(index: pd.DataFrame, num_folds: int) -> None:
    if num_folds > index["subject"].nunique():
        raise UserError(
            f"config.data.num_folds = {num_folds} is more than the {index['subject'].nunique()} "
            "subjects of the set"
        )


def label_fraction(index: pd.DataFrame, rows: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Return the rows that stay labelled when only a fraction of the labelled subjects does.

    Zheng et al. 2021, Table 4. The choice is stratified on the subject's worst KL grade, and
    nested: a smaller fraction with the same seed is a subset of a larger one.

    Args:
        index: Index of the prepared set.
        rows: Rows of the training knees, int64 [n].
        fraction: Share of the subjects with any grade read, 0 to 1; at least one subject stays.
        seed: Random seed of the choice.

    Returns:
        Rows with a grade, of the subjects who stay, int64, ascending.
    """
    rows = np.sort(rows)
    knees = index.iloc[rows]
    labelled = (knees[list(GRADES)] != MISSING).any(axis=1).to_numpy()
    rows, knees = rows[labelled], knees[labelled]
    worst = knees.groupby("subject")["kl"].max()
    rng = np.random.default_rng(seed)
    subjects = rng.permutation(worst.index.to_numpy())
    # Position of each subject in the random order of its stratum, on a scale from 0 to 1: the
    # lowest positions are the same share of every stratum.
    stratum = worst[subjects].groupby(worst[subjects])
    place = (stratum.cumcount() + 0.5) / stratum.transform("size")
    number = max(1, round(fraction * len(subjects)))
    chosen = subjects[np.argsort(place.to_numpy(), kind="stable")[:number]]
    return rows[knees["subject"].isin(chosen).to_numpy()]


def _deal_out(index: pd.DataFrame, data: Data, stratify_by: str, *, test_too: bool) -> Split:
    """Deal knees to training and validation and, where `test_too`, to the test part."""
    if data.split in ("ratio", "image_ratio"):
        make = ratio if data.split == "ratio" else image_ratio
        parts = dict(zip(PARTS, data.parts if test_too else (*data.parts[:2], 0)))
        return make(index, parts, data.seed)
    if data.split == "k_fold":
        return k_fold(index, data.num_folds, data.fold, data.seed, stratify_by)
    if data.split == "group_k_fold":
        return group_k_fold(index, data.num_folds, data.fold)
    return site_hold_out(index, data.test_site, data.num_folds, data.fold, data.seed, stratify_by)


def make_split(index: pd.DataFrame, data: Data, stratify_by: str = "kl") -> Split:
    """Make the split that a config describes.

    A test split that the set was published with stays the test part, unless `data.published_test`
    says that it is dealt with the others.

    Args:
        index: Index of the prepared set.
        data: The part `data` of a config.
        stratify_by: Column on which `k_fold` and `site_hold_out` stratify.

    Raises:
        UserError: The set has too few subjects, or a split leaves no knee for training or
            validation.
    """
    if data.split == "published":
        split = published(index)
    else:
        tested = np.zeros(len(index), bool)
        if data.published_test == "kept":
            tested = (index["split"] == "test").to_numpy()
        rest = np.flatnonzero(~tested)
        dealt = _deal_out(index.iloc[rest], data, stratify_by, test_too=not tested.any())
        split = {name: rest[rows] for name, rows in dealt.items()}
        # Beside those of a site that is held out, if any.
        split["test"] = np.union1d(split["test"], np.flatnonzero(tested))
    for name in ("train", "validation"):
        if not len(split[name]):
            raise UserError(
                f"the {data.split} split leaves no knee for {name} ({len(index)} knees in the "
                "set): prepare more of the set, or choose another config.data.split, such as ratio"
            )
    return split
