import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from knee_jax.metrics import calibration


def sample(seed, num, levels=None):
    """Scores (on `levels` + 1 distinct values if given) and outcomes that follow them."""
    rng = np.random.default_rng(seed)
    scores = rng.random(num)
    if levels:
        scores = np.round(scores * levels) / levels
    return scores, rng.random(num) < scores**2


@pytest.mark.parametrize("num_bins", [5, 10, 15])
@pytest.mark.parametrize("levels", [None, 20])
def test_bins_are_those_of_scikit_learn(num_bins, levels):
    """Also where scores, 0 and 1 among them, lie on the edges of bins; it leaves out empty bins."""
    scores, outcomes = sample(0, 40, levels)
    counts, predicted, observed = calibration.reliability(scores, outcomes, num_bins=num_bins)
    filled = counts > 0
    assert counts.sum() == 40
    assert np.isnan(predicted[~filled]).all()
    assert np.isnan(observed[~filled]).all()
    true, mean = calibration_curve(outcomes, scores, n_bins=num_bins)
    np.testing.assert_allclose(observed[filled], true)
    np.testing.assert_allclose(predicted[filled], mean)


def loop_error(scores, outcomes, num_bins):
    """Guo et al. 2017, eq. 5, sample by sample."""
    error = 0.0
    for m in range(1, num_bins + 1):
        members = [
            (score, outcome)
            for score, outcome in zip(scores, outcomes, strict=True)
            if (m - 1) / num_bins < score <= m / num_bins
        ]
        if members:
            confidence = sum(score for score, _ in members) / len(members)
            accuracy = sum(outcome for _, outcome in members) / len(members)
            error += len(members) / len(scores) * abs(accuracy - confidence)
    return error


@pytest.mark.parametrize("num_bins", [4, 15])
def test_calibration_error_by_a_plain_loop(num_bins):
    scores, outcomes = sample(1, 120)
    ours = calibration.expected_calibration_error(scores, outcomes, num_bins=num_bins)
    assert ours == pytest.approx(loop_error(scores, outcomes, num_bins))


def test_calibration_error_by_hand():
    """Four are called 0.9 and one of them is wrong; two are called 0.6 and both are right."""
    scores = np.array([0.9, 0.9, 0.9, 0.9, 0.6, 0.6])
    outcomes = np.array([1, 1, 1, 0, 1, 1], bool)
    error = calibration.expected_calibration_error(scores, outcomes)
    assert error == pytest.approx(4 / 6 * 0.15 + 2 / 6 * 0.4)


def test_honest_probabilities_are_calibrated_and_sharpened_ones_are_not():
    rng = np.random.default_rng(2)
    scores = rng.uniform(0.5, 1.0, 200_000)
    outcomes = rng.random(len(scores)) < scores
    assert calibration.expected_calibration_error(scores, outcomes) < 0.01
    assert calibration.expected_calibration_error(np.sqrt(scores), outcomes) > 0.1


def test_brier_score_of_two_classes_is_that_of_scikit_learn():
    scores, outcomes = sample(3, 200)
    weights = np.random.default_rng(4).integers(0, 4, 200)
    probabilities = np.stack([1 - scores, scores], 1)
    ours = calibration.brier(probabilities, outcomes.astype(int), weights)
    assert ours == pytest.approx(brier_score_loss(outcomes, scores, sample_weight=weights))
    assert ours == pytest.approx(np.average((scores - outcomes) ** 2, weights=weights))


def test_brier_score_of_many_classes_is_the_sum_over_them():
    rng = np.random.default_rng(5)
    probabilities, truth = rng.dirichlet(np.ones(5), size=60), rng.integers(5, size=60)
    expected = 0.0
    for row, true in zip(probabilities, truth, strict=True):
        expected += sum((p - (c == true)) ** 2 for c, p in enumerate(row)) / 60
    ours = calibration.brier(probabilities, truth)
    assert ours == pytest.approx(expected)
    assert ours == pytest.approx(brier_score_loss(truth, probabilities, labels=range(5)))
    wrong = np.eye(5)[(truth + 1) % 5]
    assert calibration.brier(wrong, truth) == 2.0
    assert calibration.brier(np.eye(5)[truth], truth) == 0.0


def test_resamples_give_what_the_repeated_rows_give():
    scores, outcomes = sample(6, 50)
    probabilities = np.stack([1 - scores, scores], 1)
    counts = np.random.default_rng(7).multinomial(50, [1 / 50] * 50, size=(2, 3))
    errors = calibration.expected_calibration_error(scores, outcomes, counts)
    briers = calibration.brier(probabilities, outcomes.astype(int), counts)
    bins = calibration.reliability(scores, outcomes, counts)
    assert errors.shape == briers.shape == (2, 3)
    assert {each.shape for each in bins} == {(2, 3, calibration.NUM_BINS)}
    for i in np.ndindex(2, 3):
        rows = np.repeat(np.arange(50), counts[i])
        assert errors[i] == pytest.approx(loop_error(scores[rows], outcomes[rows], 15))
        assert briers[i] == pytest.approx(brier_score_loss(outcomes[rows], scores[rows]))


def test_nothing_to_average_is_undefined():
    scores, outcomes, nobody = np.array([0.2, 0.7]), np.array([True, False]), np.zeros(2, int)
    assert np.isnan(calibration.expected_calibration_error(scores, outcomes, nobody))
    assert np.isnan(calibration.brier(np.stack([1 - scores, scores], 1), [1, 0], nobody))


def test_a_temperature_is_found_again():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 4)) * 2
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    classes = (p.cumsum(1) > rng.random((len(p), 1))).argmax(1)
    sharp = np.exp(3 * logits) / np.exp(3 * logits).sum(1, keepdims=True)
    assert calibration.fit_temperature(sharp, classes) == pytest.approx(3, rel=0.05)
    assert calibration.fit_temperature(p, classes) == pytest.approx(1, rel=0.05)
    np.testing.assert_allclose(calibration.temper(sharp, 3.0), p, atol=1e-6)


def test_a_probability_of_zero_and_an_extreme_temperature_stay_finite():
    p = np.array([[1.0, 0.0], [0.5, 0.5]])
    for temperature in (0.05, 1.0, 20.0):
        found = calibration.temper(p, temperature)
        np.testing.assert_allclose(found.sum(1), 1)
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found[1], 0.5)
