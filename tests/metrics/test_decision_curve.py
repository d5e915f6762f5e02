"""Net benefit against a count by hand, and its known ends."""

import numpy as np
import pytest

from knee_jax.metrics.decision_curve import decision_curve, net_benefit


def random_scores(n=60, seed=0):
    rng = np.random.default_rng(seed)
    positives = rng.random(n) < 0.4
    return np.clip(0.3 + 0.3 * positives + 0.2 * rng.standard_normal(n), 0, 1), positives


def test_it_is_counted_as_by_hand():
    scores, positives = random_scores()
    thresholds = np.array([0.1, 0.35, 0.5, 0.8])
    found = net_benefit(scores, positives, thresholds)
    for benefit, at in zip(found, thresholds, strict=True):
        acted = scores >= at
        true, false = (acted & positives).sum(), (acted & ~positives).sum()
        assert benefit == pytest.approx((true - false * at / (1 - at)) / len(scores))


def test_weights_are_repetitions():
    scores, positives = random_scores(20)
    weights = np.random.default_rng(1).integers(0, 4, (3, 20))
    thresholds = np.array([0.2, 0.6])
    found = net_benefit(scores, positives, thresholds, weights)
    for row, counts in zip(found, weights, strict=True):
        again = net_benefit(scores.repeat(counts), positives.repeat(counts), thresholds)
        np.testing.assert_allclose(row, again)


def test_acting_on_everybody_is_what_a_certain_model_of_ones_does():
    scores, positives = random_scores()
    subjects = np.arange(len(scores)).astype(str)
    of_ones = decision_curve(np.ones(len(scores)), positives, subjects, 20)
    np.testing.assert_allclose(of_ones.model, of_ones.everybody)
    # The truth itself is worth the share of positives, from whatever probability one acts.
    perfect = decision_curve(positives.astype(float), positives, subjects, 20)
    np.testing.assert_allclose(perfect.model, positives.mean())


def test_the_interval_is_of_subjects():
    scores, positives = random_scores()
    alone = decision_curve(scores, positives, np.arange(60).astype(str), 200)
    doubled = decision_curve(
        scores.repeat(2), positives.repeat(2), np.arange(60).repeat(2).astype(str), 200
    )
    # The same knees twice tell no more than once.
    np.testing.assert_allclose(doubled.low, alone.low)
    assert (alone.low <= alone.model).all()
    assert (alone.model <= alone.high).all()
