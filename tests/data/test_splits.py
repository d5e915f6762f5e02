import numpy as np
import pandas as pd
import pytest

from knee_jax.data import splits
from knee_jax.errors import UserError


@pytest.fixture(scope="module")
def index():
    """400 subjects, two knees and one to three visits each; severity goes with the subject."""
    rng = np.random.default_rng(0)
    rows = [
        {"split": rng.choice(["train", "val"]), "subject": f"{s:07d}", "side": side, "kl": kl}
        for s in range(400)
        for severity in [rng.integers(0, 5)]
        for _ in range(rng.integers(1, 4))
        for side in "LR"
        for kl in [max(-1, severity - rng.integers(0, 3))]
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=0, ignore_index=True)


def subjects(index, rows):
    return set(index["subject"].iloc[rows])


def assert_partition_by_subject(index, parts):
    rows = np.concatenate(list(parts.values()))
    np.testing.assert_array_equal(np.sort(rows), np.arange(len(index)))
    people = [subjects(index, part) for part in parts.values()]
    assert sum(map(len, people)) == index["subject"].nunique()


def test_ratio_divides_subjects_two_to_one_to_one(index):
    parts = splits.ratio(index, {"train": 2, "validation": 1, "test": 1}, seed=0)
    assert_partition_by_subject(index, parts)
    counts = {name: len(subjects(index, rows)) for name, rows in parts.items()}
    assert counts == {"train": 200, "validation": 100, "test": 100}


def test_ratio_is_stratified_on_the_worst_grade(index):
    parts = splits.ratio(index, {"train": 2, "validation": 1, "test": 1}, seed=3)
    worst = index.groupby("subject")["kl"].max()
    share = {
        name: worst[sorted(subjects(index, rows))].value_counts(normalize=True).sort_index()
        for name, rows in parts.items()
    }
    overall = worst.value_counts(normalize=True).sort_index()
    for part in share.values():
        assert (part - overall).abs().max() < 0.02


def test_ratio_is_a_function_of_the_seed_and_not_of_row_order(index):
    parts = {"train": 2, "validation": 1, "test": 1}
    first = splits.ratio(index, parts, seed=1)
    again = index.sample(frac=1, random_state=1, ignore_index=True)
    assert subjects(index, first["test"]) == subjects(
        again, splits.ratio(again, parts, seed=1)["test"]
    )
    assert subjects(index, first["test"]) != subjects(
        index, splits.ratio(index, parts, seed=2)["test"]
    )


def test_folds_are_disjoint_by_subject_and_cover_everybody(index):
    seen = []
    for fold in range(5):
        parts = splits.k_fold(index, 5, fold, seed=0)
        assert_partition_by_subject(index, parts)
        seen.append(parts["validation"])
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(len(index)))


def test_folds_are_stratified_and_follow_the_seed(index):
    overall = index["kl"].value_counts(normalize=True).sort_index()
    for fold in range(5):
        rows = splits.k_fold(index, 5, fold, seed=0)["validation"]
        share = index["kl"].iloc[rows].value_counts(normalize=True).sort_index()
        assert (share - overall).abs().max() < 0.03
    first, other = (splits.k_fold(index, 5, 0, seed)["validation"] for seed in (0, 1))
    assert subjects(index, first) != subjects(index, other)


@pytest.mark.parametrize("num_folds", [1, 401])
def test_a_number_of_folds_that_cannot_be_made_is_named(index, num_folds):
    with pytest.raises(UserError, match=f"num_folds = {num_folds} is not between 2 and the 400"):
        splits.k_fold(index, num_folds, 0, seed=0)


def test_published_split_follows_the_column(index):
    parts = splits.make_split(index, "published", num_folds=5, fold=0, seed=0)
    assert (index["split"].iloc[parts["train"]] == "train").all()
    assert (index["split"].iloc[parts["validation"]] == "val").all()
    assert len(parts["train"]) + len(parts["validation"]) == len(index)
    assert len(parts["test"]) == 0


@pytest.mark.parametrize(
    ("kind", "fold", "rows", "message"),
    [
        ("random", 0, slice(None), "choose published, ratio or k_fold"),
        ("k_fold", 5, slice(None), "not one of the 5 folds"),
        ("ratio", 0, slice(0, 1), "leaves no knee for"),
        ("published", 0, slice(0, 1), "leaves no knee for"),
    ],
)
def test_a_split_that_cannot_be_made_is_named(index, kind, fold, rows, message):
    with pytest.raises(UserError, match=message):
        splits.make_split(index.iloc[rows], kind, num_folds=5, fold=fold, seed=0)
