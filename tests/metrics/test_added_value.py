"""Added value: nothing where the network repeats the grade, something where it knows more."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from knee_jax.metrics.added_value import BOTH, NETWORK, READ, added_value
from tests.factories import endpoint


def knees(n=600, knows=1.5, seed=0):
    """Two knees per subject, that progress by grade and by something only the network sees."""
    rng = np.random.default_rng(seed)
    grade, hidden = rng.integers(0, 5, n), rng.standard_normal(n)
    progressed = rng.random(n) < 1 / (1 + np.exp(3 - grade - knows * hidden))
    score = 1 / (1 + np.exp(3 - grade - knows * hidden))
    return pd.DataFrame(
        {
            "subject": np.arange(n) // 2,
            "side": np.tile(["R", "L"], n // 2),
            "visit": 0,
            "kl_baseline": grade,
            "progression": np.where(progressed, 1 + (rng.random(n) < 0.3), 0),
            "progression_pred": (score > 0.5).astype(int),
            "progression_p0": 1 - score,
            "progression_p1": 0.6 * score,
            "progression_p2": 0.4 * score,
        }
    )


def by_score(values, metric="roc_auc"):
    return {each.score: each for each in values if each.metric == metric}


def test_scores_are_those_of_another_library():
    table = knees()
    found = added_value(table, endpoint("progression_any"), 20)
    positives, score = table["progression"] > 0, 1 - table["progression_p0"]
    assert found.n == 600
    assert found.positive == positives.sum()
    auc, ap = (by_score(found.values, m)[NETWORK].value for m in ("roc_auc", "average_precision"))
    assert auc == pytest.approx(roc_auc_score(positives, score))
    assert ap == pytest.approx(average_precision_score(positives, score))
    # A regression on the grade as a class ranks almost as the grade itself does.
    read = by_score(found.values)[READ].value
    assert read == pytest.approx(roc_auc_score(positives, table["kl_baseline"]), abs=0.02)


def test_what_the_network_knows_more_is_found():
    found = added_value(knees(knows=1.5), endpoint("progression_any"), 200)
    gain = by_score(found.differences)[f"{BOTH} minus {READ}"]
    assert gain.low > 0.02
    assert gain.value == pytest.approx(
        by_score(found.values)[BOTH].value - by_score(found.values)[READ].value
    )


def test_where_it_knows_no_more_nothing_is_found():
    table = knees(knows=0.0)
    noise = np.random.default_rng(1).random(len(table))
    table["progression_p0"], table["progression_p1"], table["progression_p2"] = noise, 1 - noise, 0
    found = added_value(table, endpoint("progression_any"), 200)
    assert by_score(found.differences)[f"{BOTH} minus {READ}"].high < 0.02
    assert by_score(found.differences)[f"{NETWORK} minus {READ}"].high < 0


def test_a_knee_does_not_score_itself():
    """A grade that is a subject's own has no worth for others."""
    table = knees(200, knows=0.0).assign(kl_baseline=2)
    found = added_value(table, endpoint("progression_any"), 20)
    assert by_score(found.values)[READ].value < 0.6


def test_unread_knees_are_left_out_and_too_few_are_none():
    table = knees()
    table.loc[:99, "kl_baseline"] = -1
    assert added_value(table, endpoint("progression_any"), 5).n == 500
    assert added_value(table.drop(columns="kl_baseline"), endpoint("progression_any"), 5) is None
    assert added_value(table.head(6), endpoint("progression_any"), 5) is None
