"""Paired comparison of two models: differences, intervals and tests, against independent forms."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, norm

from knee_jax.errors import UserError
from knee_jax.metrics import comparison
from knee_jax.metrics.summary import summarise


def table(seed, skill, number=200):
    """Predictions of KL grades; labels are the same whatever the seed."""
    labels = np.random.default_rng(0).integers(0, 5, number)
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(number, 5)) - skill * np.abs(np.arange(5) - labels[:, None])
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    frame = pd.DataFrame(
        {
            "subject": [f"s{i // 2}" for i in range(number)],
            "side": ["L", "R"] * (number // 2),
            "visit": 0,
            "kl": labels,
            "kl_pred": p.argmax(1),
        }
    )
    return frame.assign(**{f"kl_p{c}": p[:, c] for c in range(5)})


def found(first, second, **kwargs):
    differences = comparison.compare(comparison.pair(first, second), **kwargs)
    return {(each.target, each.metric): each for each in differences}


def test_differences_are_those_of_the_summaries_of_each():
    a, b = table(1, 1.0), table(2, 1.5)
    one, other = summarise(a, 5), summarise(b, 5)
    differences = found(a, b, num_resamples=5)
    assert {name for name, _ in differences} == set(one)
    for (name, metric), each in differences.items():
        expected = other[name][metric]["value"] - one[name][metric]["value"]
        assert each.difference == pytest.approx(expected, abs=1e-12)
        assert each.n == one[name][metric]["n"]


def test_intervals_are_paired_and_by_subject():
    """Against a bootstrap written out, subject by subject."""
    a, b = table(1, 1.0), table(2, 1.5)
    each = found(a, b, num_resamples=2000)["kl", "accuracy"]
    gain = (b["kl_pred"] == b["kl"]).astype(float) - (a["kl_pred"] == a["kl"])
    of_subject = gain.groupby(a["subject"]).mean().to_numpy()
    rng = np.random.default_rng(5)
    draws = rng.integers(len(of_subject), size=(4000, len(of_subject)))
    expected = np.percentile(of_subject[draws].mean(1), (2.5, 97.5))
    np.testing.assert_allclose((each.low, each.high), expected, atol=0.015)
    same = found(a, a, num_resamples=50)
    assert all(each.low == each.high == each.difference == 0 for each in same.values())


def test_mcnemar_is_a_binomial_test_of_the_disagreements():
    rng = np.random.default_rng(0)
    first, second = rng.random(300) < 0.6, rng.random(300) < 0.7
    b, c = int((first & ~second).sum()), int((~first & second).sum())
    assert comparison.mcnemar(first, second) == pytest.approx(binomtest(b, b + c).pvalue)


def test_delong_equals_the_sums_over_all_pairs():
    rng = np.random.default_rng(0)
    positives = rng.random(120) < 0.4
    first = np.round(rng.normal(size=120) + positives, 1)
    second = np.round(first + rng.normal(size=120), 1)
    n, m = int(positives.sum()), int((~positives).sum())
    kernels = []
    for scores in (first, second):
        gap = scores[positives][:, None] - scores[~positives]
        kernels.append((gap > 0) + 0.5 * (gap == 0))
    v10 = [kernel.mean(1) for kernel in kernels]
    v01 = [kernel.mean(0) for kernel in kernels]
    covariance = np.cov(v10) / n + np.cov(v01) / m
    contrast = np.array([-1.0, 1.0])
    gap = kernels[1].mean() - kernels[0].mean()
    expected = 2 * norm.sf(abs(gap) / np.sqrt(contrast @ covariance @ contrast))
    assert comparison.delong(first, second, positives) == pytest.approx(expected)
    assert comparison.delong(first, first, positives) == 1.0


def test_delong_is_rarely_significant_for_equal_models():
    rng = np.random.default_rng(1)
    positives = np.arange(100) < 50
    p = [comparison.delong(*(rng.normal(size=(2, 100)) + positives), positives) for _ in range(400)]
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.03)


def test_tables_are_joined_by_knee_and_contradictions_are_refused():
    a, b = table(1, 1.0), table(2, 1.5)
    shuffled = b.sample(frac=1, random_state=0)
    # Of the tests that are not made p is NaN, which equals nothing.
    assert str(found(a, shuffled, num_resamples=5)) == str(found(a, b, num_resamples=5))
    part = comparison.pair(a.iloc[:50], b.iloc[10:])
    assert (len(part.first), part.only_first, part.only_second) == (40, 10, 150)
    with pytest.raises(UserError, match="no knee in common"):
        comparison.pair(a.iloc[:10], b.iloc[10:])
    with pytest.raises(UserError, match="has a knee twice"):
        comparison.pair(pd.concat([a, a]), b)
    wrong = b.assign(kl=b["kl"].where(b.index != 3, (b["kl"] + 1) % 5))
    with pytest.raises(UserError, match="1 knees have different labels of kl"):
        comparison.pair(a, wrong)


def test_models_of_more_and_fewer_targets_are_compared_by_those_that_both_have():
    a, b = table(1, 1.0), table(2, 1.5)
    more = {"jsm": 0, "jsm_pred": 1, "jsm_p0": 0.1, "jsm_p1": 0.9, "jsm_p2": 0, "jsm_p3": 0}
    first = b.columns.get_loc("kl")
    wide = pd.concat([b.iloc[:, :first], b.iloc[:, first:]], axis=1).assign(**more)
    alone = found(a, b, num_resamples=5)
    for one, other in ((a, wide), (wide, a)):
        both = found(one, other, num_resamples=5)
        assert both.keys() == alone.keys()
    assert str(found(a, wide, num_resamples=5)) == str(alone)


def test_values_are_equal_to_the_digits_that_a_table_has():
    values = np.random.default_rng(0).uniform(2, 6, 50).astype(np.float32)
    frame = table(1, 1.0, 50)[["subject", "side", "visit"]]
    exact = frame.assign(jsw_medial=values, jsw_medial_pred=4.0)
    written = exact.assign(jsw_medial=[float(f"{value:.6g}") for value in values])
    assert (exact["jsw_medial"] != written["jsw_medial"]).any()
    assert found(exact, written, num_resamples=5)
    with pytest.raises(UserError, match="50 knees have different labels of jsw_medial"):
        comparison.pair(exact, written.assign(jsw_medial=values + 0.01))
