import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from knee_jax.metrics import discrimination


def sample(seed, num, levels=None):
    """Scores (on `levels` distinct values, hence tied, if given) and a truth that follows them."""
    rng = np.random.default_rng(seed)
    scores = rng.random(num)
    if levels:
        scores = np.round(scores * levels) / levels
    return scores, rng.random(num) < scores


@pytest.mark.parametrize("levels", [None, 20, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_areas_agree_with_scikit_learn(levels, weighted):
    scores, positives = sample(0, 400, levels)
    weights = np.random.default_rng(1).integers(0, 4, size=400) if weighted else None
    np.testing.assert_allclose(
        discrimination.roc_auc(scores, positives, weights),
        sk.roc_auc_score(positives, scores, sample_weight=weights),
    )
    np.testing.assert_allclose(
        discrimination.average_precision(scores, positives, weights),
        sk.average_precision_score(positives, scores, sample_weight=weights),
    )


def test_auc_is_the_mann_whitney_statistic():
    scores, positives = sample(3, 200, levels=10)
    wins = stats.mannwhitneyu(scores[positives], scores[~positives]).statistic
    expected = wins / (positives.sum() * (~positives).sum())
    assert discrimination.roc_auc(scores, positives) == pytest.approx(expected)


def test_resamples_give_what_the_repeated_rows_give():
    scores, positives = sample(4, 60, levels=12)
    counts = np.random.default_rng(5).multinomial(60, [1 / 60] * 60, size=(2, 3))
    aucs = discrimination.roc_auc(scores, positives, counts)
    precisions = discrimination.average_precision(scores, positives, counts)
    assert aucs.shape == precisions.shape == (2, 3)
    for i in np.ndindex(2, 3):
        rows = np.repeat(np.arange(60), counts[i])
        assert aucs[i] == pytest.approx(sk.roc_auc_score(positives[rows], scores[rows]))
        expected = sk.average_precision_score(positives[rows], scores[rows])
        assert precisions[i] == pytest.approx(expected)


@pytest.mark.parametrize("levels", [None, 8])
def test_curves_agree_with_scikit_learn(levels):
    scores, positives = sample(6, 150, levels)
    roc = discrimination.roc_curve(scores, positives)
    for ours, theirs in zip(
        roc, sk.roc_curve(positives, scores, drop_intermediate=False), strict=True
    ):
        np.testing.assert_allclose(ours, theirs)
    ours = discrimination.precision_recall_curve(scores, positives)
    precision, recall, thresholds = sk.precision_recall_curve(positives, scores)
    np.testing.assert_allclose(ours.x, recall[::-1])
    np.testing.assert_allclose(ours.y, precision[::-1])
    np.testing.assert_allclose(ours.thresholds[1:], thresholds[::-1])


def test_does_not_depend_on_the_order_of_tied_rows():
    scores, positives = sample(7, 80, levels=4)
    order = np.random.default_rng(8).permutation(80)
    for area in (discrimination.roc_auc, discrimination.average_precision):
        assert area(scores, positives) == area(scores[order], positives[order])


def test_constant_scores_are_chance():
    positives = np.array([True, False, False, False])
    assert discrimination.roc_auc(np.full(4, 0.3), positives) == 0.5
    assert discrimination.average_precision(np.full(4, 0.3), positives) == 0.25


def test_one_class_is_undefined():
    scores = np.array([0.1, 0.7])
    assert np.isnan(discrimination.roc_auc(scores, np.array([True, True])))
    assert np.isnan(discrimination.roc_auc(scores, np.array([False, False])))
    assert np.isnan(discrimination.average_precision(scores, np.array([False, False])))
    counts = np.array([[1, 0], [1, 1]])
    areas = discrimination.roc_auc(scores, np.array([False, True]), counts)
    np.testing.assert_array_equal(areas, [np.nan, 1.0])
