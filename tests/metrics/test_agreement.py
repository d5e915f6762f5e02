import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from knee_jax.metrics import agreement


def confusion(truth, prediction, num_classes, weights=None):
    weights = np.ones(len(truth)) if weights is None else weights
    indicators = agreement.pair_indicators(truth, prediction, num_classes)
    return agreement.confusion_matrices(weights, indicators)


def sklearn_value(name, truth, prediction, num_classes, weights):
    labels = list(range(num_classes))
    common = {"sample_weight": weights}
    match name:
        case "accuracy":
            return sk.accuracy_score(truth, prediction, **common)
        case "balanced_accuracy":  # sklearn warns where a predicted class is not in the truth
            return sk.recall_score(
                truth, prediction, labels=np.unique(truth), average="macro", **common
            )
        case "f1_macro" | "f1_weighted":
            return sk.f1_score(truth, prediction, average=name[3:], **common)
        case "linear_kappa" | "quadratic_kappa":
            kind = name.removesuffix("_kappa")
            return sk.cohen_kappa_score(truth, prediction, labels=labels, weights=kind, **common)
        case "mse":
            return sk.mean_squared_error(truth, prediction, **common)
        case "rmse":
            return sk.root_mean_squared_error(truth, prediction, **common)
        case "mae":
            return sk.mean_absolute_error(truth, prediction, **common)
        case "within_one":
            return np.average(np.abs(truth - prediction) <= 1, weights=weights)


@pytest.mark.parametrize("name", agreement.METRICS)
@pytest.mark.parametrize("missing", [(), (1,), (0, 4), (2, 3)])
@pytest.mark.parametrize("weighted", [False, True])
def test_agrees_with_scikit_learn(name, missing, weighted):
    """Random grades, also with classes that never occur, and with integer weights."""
    rng = np.random.default_rng(len(missing) + 10 * weighted)
    truth = rng.integers(5, size=300)
    prediction = np.clip(truth + rng.integers(-1, 2, size=300), 0, 4)
    keep = ~np.isin(truth, missing)
    truth, prediction = truth[keep], prediction[keep]
    weights = rng.integers(1, 4, size=len(truth)) if weighted else np.ones(len(truth))
    ours = agreement.METRICS[name](confusion(truth, prediction, 5, weights))
    theirs = sklearn_value(name, truth, prediction, 5, weights)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_two_classes_agree_with_scikit_learn(weighted):
    rng = np.random.default_rng(weighted)
    truth, prediction = rng.integers(2, size=200), rng.integers(2, size=200)
    prediction[:120] = truth[:120]
    weights = rng.integers(1, 4, size=200) if weighted else np.ones(200)
    matrix, common = confusion(truth, prediction, 2, weights), {"sample_weight": weights}
    expected = {
        "accuracy": sk.accuracy_score(truth, prediction, **common),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, prediction, **common),
        "f1": sk.f1_score(truth, prediction, **common),
        "sensitivity": sk.recall_score(truth, prediction, **common),
        "specificity": sk.recall_score(truth, prediction, pos_label=0, **common),
        "ppv": sk.precision_score(truth, prediction, **common),
        "npv": sk.precision_score(truth, prediction, pos_label=0, **common),
        "kappa": sk.cohen_kappa_score(truth, prediction, **common),
    }
    ours = {name: metric(matrix) for name, metric in agreement.TWO_CLASS_METRICS.items()}
    assert ours == pytest.approx(expected)
    assert agreement.linear_kappa(matrix) == agreement.quadratic_kappa(matrix) == ours["kappa"]


def test_plain_kappa_takes_all_disagreements_alike():
    truth, prediction = np.random.default_rng(0).integers(5, size=(2, 300))
    prediction[:200] = truth[:200]
    ours = agreement.kappa(confusion(truth, prediction, 5))
    assert ours == pytest.approx(sk.cohen_kappa_score(truth, prediction))


@pytest.mark.parametrize("lowest", [1, 2, 4])
def test_grades_as_two_classes(lowest):
    truth, prediction = np.random.default_rng(1).integers(5, size=(2, 90))
    counts = np.random.default_rng(2).multinomial(90, [1 / 90] * 90, size=3)
    ours = agreement.dichotomise(confusion(truth, prediction, 5, counts), lowest)
    np.testing.assert_array_equal(ours, confusion(truth >= lowest, prediction >= lowest, 2, counts))


def test_balanced_accuracy_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(4, size=(2, 200))
    ours = agreement.balanced_accuracy(confusion(truth, prediction, 4))
    np.testing.assert_allclose(ours, sk.balanced_accuracy_score(truth, prediction))


def test_resamples_give_what_the_repeated_rows_give():
    rng = np.random.default_rng(1)
    truth, prediction = rng.integers(4, size=(2, 50))
    counts = rng.multinomial(50, [1 / 50] * 50, size=7)
    batch = confusion(truth, prediction, 4, counts)
    assert batch.shape == (7, 4, 4)
    for matrix, count in zip(batch, counts, strict=True):
        rows = np.repeat(np.arange(50), count)
        expected = sk.confusion_matrix(truth[rows], prediction[rows], labels=range(4))
        np.testing.assert_array_equal(matrix, expected)
    for metric in agreement.METRICS.values():
        np.testing.assert_allclose(metric(batch), [metric(matrix) for matrix in batch])


def test_kappa_by_hand():
    """Two graders of four knees: observed 1/4, expected by chance 1/2 (linear = quadratic)."""
    matrix = confusion(np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1]), 2)
    assert agreement.linear_kappa(matrix) == pytest.approx(1 - (1 / 4) / (1 / 2))
    assert agreement.quadratic_kappa(matrix) == pytest.approx(0.5)


def test_kappa_keeps_the_distance_over_a_grade_that_is_absent():
    """An error from 0 to 2 weighs 4 though nobody has grade 1; grades closed up would give 1."""
    matrix = confusion(np.array([0, 0, 2, 3]), np.array([0, 2, 2, 3]), 4)
    distances = np.subtract.outer(np.arange(4), np.arange(4)) ** 2
    chance = np.outer(matrix.sum(1), matrix.sum(0)) / 4
    expected = 1 - (matrix * distances).sum() / (chance * distances).sum()
    assert agreement.quadratic_kappa(matrix) == pytest.approx(expected)


grade_pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30)


@given(grade_pairs)
def test_bounds_and_perfect_agreement(pairs):
    truth, prediction = np.array(pairs).T
    matrix = confusion(truth, prediction, 4)
    for name in ("accuracy", "balanced_accuracy", "f1_macro", "f1_weighted"):
        assert 0.0 <= agreement.METRICS[name](matrix) <= 1.0
    perfect = confusion(truth, truth, 4)
    assert agreement.rmse(perfect) == 0.0
    for name in ("accuracy", "balanced_accuracy", "f1_macro", "f1_weighted"):
        assert agreement.METRICS[name](perfect) == pytest.approx(1.0)


def test_undefined_values_are_nan():
    one_class = confusion(np.array([2, 2]), np.array([2, 2]), 4)
    assert np.isnan(agreement.quadratic_kappa(one_class))
    assert agreement.accuracy(one_class) == 1.0
    negatives = confusion(np.array([0, 0]), np.array([0, 0]), 2)
    assert agreement.specificity(negatives) == 1.0
    for metric in (agreement.sensitivity, agreement.f1, agreement.kappa):
        assert np.isnan(metric(negatives))
    nothing = np.zeros((4, 4))
    assert all(np.isnan(metric(nothing)) for metric in agreement.METRICS.values())
