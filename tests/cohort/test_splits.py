import numpy as np
import pandas as pd
import pytest

from knee_jax.cohort import splits
from knee_jax.config.schema import Data
from knee_jax.errors import UserError
from knee_jax.targets.grades import GRADES


@pytest.fixture(scope="module")
def index():
    """400 subjects, two knees and one to three visits each; severity goes with the subject."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "split": rng.choice(["train", "val"]),
            "subject": f"{s:07d}",
            "side": side,
            "visit": 12 * visit,
            "kl": kl,
        }
        for s in range(400)
        for severity in [rng.integers(0, 5)]
        for visit in range(rng.integers(1, 4))
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


def split_of(index, kind, **changes):
    return splits.make_split(index, Data(split=kind, **changes))


@pytest.mark.parametrize("parts", [(2, 1, 1), (7, 1, 2), (4, 1, 0)])
def test_a_config_names_the_parts_of_a_ratio(index, parts):
    by_subject = split_of(index, "ratio", parts=parts)
    assert_partition_by_subject(index, by_subject)
    by_image = split_of(index, "image_ratio", parts=parts)
    rows = np.concatenate(list(by_image.values()))
    np.testing.assert_array_equal(np.sort(rows), np.arange(len(index)))
    for i, name in enumerate(splits.PARTS):
        share = parts[i] / sum(parts)
        assert len(subjects(index, by_subject[name])) == pytest.approx(400 * share, abs=2)
        assert len(by_image[name]) == pytest.approx(len(index) * share, abs=2)
        assert (np.diff(by_image[name]) > 0).all()
    with_zero = dict(zip(splits.PARTS, parts))
    expected = splits.ratio(index, with_zero, seed=0)
    for name, rows in by_subject.items():
        np.testing.assert_array_equal(rows, expected[name])


def test_a_split_by_image_is_stratified_and_leaks_subjects(index):
    parts = split_of(index, "image_ratio", parts=(7, 1, 2))
    for name, share in (("train", 0.7), ("validation", 0.1), ("test", 0.2)):
        found = index["kl"].iloc[parts[name]].value_counts()
        expected = share * index["kl"].value_counts()
        assert (found - expected).abs().max() <= 3
    crossing = subjects(index, parts["test"]) & subjects(index, parts["train"])
    assert len(crossing) > 0.5 * len(subjects(index, parts["test"]))


def test_a_split_by_image_follows_the_seed_and_not_the_row_order(index):
    def images(of, seed):
        rows = split_of(of, "image_ratio", seed=seed)["test"]
        return set(of.iloc[rows][["subject", "side", "visit"]].itertuples(index=False, name=None))

    again = index.sample(frac=1, random_state=1)  # With its labels out of order as well.
    assert images(index, 1) == images(again, 1) != images(index, 2)


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


def test_group_folds_are_disjoint_by_subject_and_cover_everybody(index):
    """As `sklearn.model_selection.GroupKFold`: sizes balanced, no shuffling, no stratification."""
    folds = [splits.group_k_fold(index, 5, fold) for fold in range(5)]
    for parts in folds:
        assert_partition_by_subject(index, parts)
    held_out = [parts["validation"] for parts in folds]
    np.testing.assert_array_equal(np.sort(np.concatenate(held_out)), np.arange(len(index)))
    assert np.ptp([len(rows) for rows in held_out]) <= 6  # As many as a subject may have.
    by_name = split_of(index, "group_k_fold", fold=2, seed=7)
    np.testing.assert_array_equal(by_name["validation"], held_out[2])
    # Grades play no part.
    other = splits.group_k_fold(index.assign(kl=0), 5, 2)
    np.testing.assert_array_equal(other["validation"], held_out[2])


@pytest.fixture(scope="module")
def at_sites(index):
    """A site a subject, and the progression of each knee, which goes little with its KL grade."""
    rng = np.random.default_rng(2)
    site = pd.Series({s: rng.choice(list("ABCDE")) for s in sorted(set(index["subject"]))})
    progression = rng.choice(3, len(index), p=[0.7, 0.2, 0.1])
    return index.assign(site=index["subject"].map(site), progression=progression)


def test_a_site_is_held_out_and_the_others_are_folded(at_sites):
    held_out = []
    for fold in range(5):
        data = Data(split="site_hold_out", fold=fold, seed=3, test_site="D")
        parts = splits.make_split(at_sites, data, "progression")
        assert_partition_by_subject(at_sites, parts)
        np.testing.assert_array_equal(parts["test"], np.flatnonzero(at_sites["site"] == "D"))
        assert all((np.diff(rows) > 0).all() for rows in parts.values())
        held_out.append(parts["validation"])
    others = np.flatnonzero(at_sites["site"] != "D")
    np.testing.assert_array_equal(np.sort(np.concatenate(held_out)), others)


def test_the_folds_beside_a_site_are_stratified_on_the_target(at_sites):
    others = at_sites[at_sites["site"] != "D"]
    overall = others["progression"].value_counts(normalize=True)

    def largest_deviation(target):
        folds = [splits.site_hold_out(at_sites, "D", 5, f, 0, target) for f in range(5)]
        knees = [at_sites["progression"].iloc[parts["validation"]] for parts in folds]
        shares = [part.value_counts(normalize=True) for part in knees]
        return max((share - overall).abs().max() for share in shares)

    assert largest_deviation("progression") < 0.01 < largest_deviation("kl")


def test_the_test_site_does_not_change_with_seed_or_fold_but_the_folds_do(at_sites):
    first, other = (splits.site_hold_out(at_sites, "B", 5, 0, seed) for seed in (0, 1))
    np.testing.assert_array_equal(first["test"], other["test"])
    assert subjects(at_sites, first["validation"]) != subjects(at_sites, other["validation"])


def test_a_subject_of_two_sites_is_tested_whole(at_sites):
    moved = at_sites.copy()
    subject = moved.loc[moved["site"] == "A", "subject"].iloc[0]
    moved.loc[moved.index[moved["subject"] == subject][0], "site"] = "D"
    parts = splits.site_hold_out(moved, "D", 5, 0, 0)
    assert_partition_by_subject(moved, parts)
    assert subject in subjects(moved, parts["test"])


@pytest.mark.parametrize("site", ["", "F", "d"])
def test_a_site_that_is_none_is_named(at_sites, site):
    with pytest.raises(UserError, match=f"test_site = '{site}' is no site.*A, B, C, D, E"):
        splits.site_hold_out(at_sites, site, 5, 0, 0)


def test_a_set_without_sites(index):
    with pytest.raises(UserError, match="choose no site"):
        splits.site_hold_out(index.assign(site=""), "D", 5, 0, 0)


@pytest.fixture(scope="module")
def graded(index):
    """All seven grades, with one subject in five unread, and some knees of others."""
    rng = np.random.default_rng(1)
    unread = index["subject"].astype(int).to_numpy() % 5 == 0
    unread |= rng.random(len(index)) < 0.2
    partial = rng.random(len(index)) < 0.1
    columns = {g: np.where(unread, -1, rng.integers(0, 4, len(index))) for g in GRADES}
    columns["kl"] = np.where(unread | partial, -1, index["kl"])
    return index.assign(**columns)


def labelled_rows(index, rows):
    return rows[(index.iloc[rows][list(GRADES)] != -1).any(axis=1).to_numpy()]


def test_label_fractions_are_nested_and_by_subject(graded):
    train = splits.ratio(graded, {"train": 2, "validation": 1, "test": 1}, seed=0)["train"]
    labelled = labelled_rows(graded, train)
    total = len(subjects(graded, labelled))
    kept = {f: splits.label_fraction(graded, train, f, seed=4) for f in (0.05, 0.2, 0.4, 1.0)}
    for fraction, rows in kept.items():
        assert (np.diff(rows) > 0).all()
        assert len(subjects(graded, rows)) == round(fraction * total)
        # Whole subjects: none of their labelled knees loses its grades.
        assert not subjects(graded, rows) & subjects(graded, np.setdiff1d(labelled, rows))
    assert set(kept[0.05]) < set(kept[0.2]) < set(kept[0.4]) < set(kept[1.0])
    np.testing.assert_array_equal(kept[1.0], labelled)


def test_label_fractions_are_stratified_on_the_worst_grade(graded):
    rows = labelled_rows(graded, np.arange(len(graded)))
    worst = graded.iloc[rows].groupby("subject")["kl"].max()
    kept = splits.label_fraction(graded, rows, 0.2, seed=0)
    of_each = worst[sorted(subjects(graded, kept))].value_counts().sort_index()
    expected = 0.2 * worst.value_counts().sort_index()
    assert (of_each - expected).abs().max() <= 1


def test_label_fractions_follow_the_seed_and_not_the_row_order(graded):
    rows = np.arange(len(graded))
    first = subjects(graded, splits.label_fraction(graded, rows, 0.2, seed=0))
    again = graded.sample(frac=1, random_state=3, ignore_index=True)
    assert first == subjects(again, splits.label_fraction(again, rows[::-1], 0.2, seed=0))
    assert first != subjects(graded, splits.label_fraction(graded, rows, 0.2, seed=1))


def test_a_tiny_fraction_keeps_one_subject(graded):
    rows = np.arange(len(graded))
    assert len(subjects(graded, splits.label_fraction(graded, rows, 1e-6, seed=0))) == 1


def test_more_folds_than_subjects_are_named(index):
    for make in (
        lambda: splits.k_fold(index, 401, 0, 0),
        lambda: splits.group_k_fold(index, 401, 0),
    ):
        with pytest.raises(UserError, match="num_folds = 401 is more than the 400 subjects"):
            make()


def test_published_split_follows_the_column(index):
    parts = split_of(index, "published")
    assert (index["split"].iloc[parts["train"]] == "train").all()
    assert (index["split"].iloc[parts["validation"]] == "val").all()
    assert len(parts["train"]) + len(parts["validation"]) == len(index)
    assert len(parts["test"]) == 0


@pytest.mark.parametrize("kind", ["ratio", "image_ratio", "published"])
def test_a_split_that_leaves_a_part_empty_is_named(index, kind):
    with pytest.raises(UserError, match="leaves no knee for"):
        split_of(index.iloc[:1], kind)
