"""Labels that were changed on purpose come to the front; others do not."""

import numpy as np
import pandas as pd
import pytest

from knee_jax import targets
from knee_jax.errors import UserError
from knee_jax.metrics.label_quality import list_mislabelled, planted

(KL,) = targets.get_all(("kl",))


def knees(n=300, sure=0.8, seed=0):
    """Predictions that are right with some noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, n)
    shares = rng.dirichlet(np.ones(5), n) * (1 - sure)
    shares[np.arange(n), labels] += sure
    columns = dict(zip(KL.output_columns(), shares.T, strict=True))
    identity = {"subject": np.arange(n), "side": "R", "visit": 0}
    return pd.DataFrame(identity | {"kl": labels, "kl_pred": shares.argmax(1)} | columns)


def test_a_wrong_label_comes_first():
    table = knees()
    table.loc[17, KL.output_columns()] = np.eye(5)[table.loc[17, "kl"]]
    table.loc[17, "kl"] = (table.loc[17, "kl"] + 2) % 5
    listed = list_mislabelled(table, KL)
    assert len(listed) == len(table)
    assert listed.iloc[0]["subject"] == 17
    assert listed.iloc[0]["issue"]
    assert listed["issue"].sum() == 1
    assert listed["own_probability"].is_monotonic_increasing
    first = listed.iloc[0]
    assert first["own_probability"] == pytest.approx(first[f"kl_p{first['kl']}"])


def test_knees_without_a_label_are_not_judged():
    table = knees()
    table.loc[:9, "kl"] = -1
    assert list_mislabelled(table, KL)["subject"].min() == 10


def test_of_a_good_model_all_that_is_planted_is_found_and_of_a_blind_one_a_share():
    good = planted(knees(), KL, 30, seeds=3)
    assert (good["first"] == 30).all()
    # Thresholds are means, so that of equally sure labels not quite all are issues.
    assert (good["issues_planted"] > 20).all()
    assert (good["issues"] <= good["issues_planted"] + 1).all()
    assert set(good["change"]) == {"any", "neighbour"}
    blind = planted(knees(sure=0.0), KL, 30, seeds=3)
    assert blind["first"].mean() < 12
    assert (blind["first"] <= blind["first_double"]).all()


def test_too_few_labels_are_told():
    table = knees(50)
    with pytest.raises(UserError, match="only 0 knees are labelled KL 4"):
        list_mislabelled(table[table["kl"] < 4], KL)
    with pytest.raises(UserError, match="50 labels cannot be changed: 50 knees have one"):
        planted(table, KL, 50)
