import json
import logging
import time

import numpy as np
import pytest
from sklearn import metrics as sk

from knee_jax.errors import UserError
from knee_jax.grades import GRADES, MISSING, NUM_CLASSES
from knee_jax.metrics import agreement
from knee_jax.metrics.summary import summarise, write_metrics


def test_values_are_those_of_scikit_learn_on_the_labelled_rows(make_table):
    table = make_table(missing=0.3)
    summary = summarise(table, num_resamples=20)
    assert list(summary) == [*GRADES, "kl_ge_2"]
    for grade in GRADES:
        rows = table[table[grade] != MISSING]
        truth, prediction = rows[grade], rows[f"{grade}_pred"]
        assert set(summary[grade]) == {*agreement.METRICS, "rmse_expected"}
        assert {estimate["n"] for estimate in summary[grade].values()} == {len(rows)}
        expected = {
            "accuracy": sk.accuracy_score(truth, prediction),
            "balanced_accuracy": sk.balanced_accuracy_score(truth, prediction),
            "quadratic_kappa": sk.cohen_kappa_score(truth, prediction, weights="quadratic"),
            "rmse": sk.root_mean_squared_error(truth, prediction),
            "rmse_expected": sk.root_mean_squared_error(
                truth, sum(c * rows[f"{grade}_p{c}"] for c in range(NUM_CLASSES[grade]))
            ),
        }
        for name, value in expected.items():
            assert summary[grade][name]["value"] == pytest.approx(value, rel=1e-6)
    rows = table[table["kl"] != MISSING]
    score = rows["kl_p2"] + rows["kl_p3"] + rows["kl_p4"]
    assert summary["kl_ge_2"]["roc_auc"]["value"] == pytest.approx(
        sk.roc_auc_score(rows["kl"] >= 2, score)
    )
    assert summary["kl_ge_2"]["average_precision"]["value"] == pytest.approx(
        sk.average_precision_score(rows["kl"] >= 2, score)
    )


@pytest.mark.parametrize("scheme", ["subject", "class"])
def test_intervals_hold_the_value_and_follow_the_seed(make_table, scheme):
    table = make_table(40)
    first = summarise(table, 200, seed=1, scheme=scheme)
    for metrics in first.values():
        for estimate in metrics.values():
            assert estimate["low"] < estimate["value"] < estimate["high"]
    assert first == summarise(table, 200, seed=1, scheme=scheme)
    assert first != summarise(table, 200, seed=2, scheme=scheme)


def test_intervals_are_those_of_resampled_tables(make_table):
    """The same subjects drawn, and the metric computed on the table that they make."""
    table = make_table(10)
    subjects = np.arange(len(table)) // 4
    draws = np.random.default_rng(3).integers(10, size=(50, 10))
    values = []
    for draw in draws:
        rows = np.concatenate([np.flatnonzero(subjects == s) for s in draw])
        resampled = table.iloc[rows]
        values.append((resampled["kl"] == resampled["kl_pred"]).mean())
    estimate = summarise(table, 50, seed=3)["kl"]["accuracy"]
    np.testing.assert_allclose(
        [estimate["low"], estimate["high"]], np.percentile(values, [2.5, 97.5])
    )


def test_the_expected_grade_is_resampled_by_weight(make_table):
    """With subjects of unequal size, a resample is not of as many knees as the table."""
    table = make_table(10).drop(index=range(3, 12)).reset_index(drop=True)
    subjects = table["subject"].to_numpy()
    names = np.unique(subjects)
    expected = table[[f"kl_p{c}" for c in range(5)]].to_numpy() @ np.arange(5)
    values = []
    for draw in np.random.default_rng(3).integers(len(names), size=(50, len(names))):
        rows = np.concatenate([np.flatnonzero(subjects == names[s]) for s in draw])
        values.append(np.sqrt(np.mean((expected - table["kl"].to_numpy())[rows] ** 2)))
    estimate = summarise(table, 50, seed=3)["kl"]["rmse_expected"]
    np.testing.assert_allclose(
        [estimate["low"], estimate["high"]], np.percentile(values, [2.5, 97.5])
    )


def test_order_of_rows_does_not_change_the_values(make_table):
    table = make_table()
    shuffled = table.sample(frac=1, random_state=0)
    for target, metrics in summarise(table, 10).items():
        for name, estimate in summarise(shuffled, 10)[target].items():
            assert estimate["value"] == pytest.approx(metrics[name]["value"], rel=1e-12)


def test_a_grade_that_nobody_read_is_skipped_and_said(make_table, caplog):
    table = make_table(5).assign(kl=MISSING)
    with caplog.at_level(logging.WARNING):
        summary = summarise(table, 10)
    assert "kl" not in summary
    assert "kl_ge_2" not in summary
    assert set(summary) == set(GRADES) - {"kl"}
    assert "kl: no knee has this grade" in caplog.text


def test_undefined_resamples_are_left_out_and_said(make_table, caplog):
    """One positive subject of six is absent from a third of the resamples."""
    table = make_table(6, grades=("kl",))
    table["kl"] = np.where(table["subject"] == "00000", 3, 0)
    with caplog.at_level(logging.WARNING):
        estimate = summarise(table, 300)["kl_ge_2"]["roc_auc"]
    assert "kl_ge_2: roc_auc is undefined in" in caplog.text
    assert 0.0 <= estimate["low"] <= estimate["high"] <= 1.0


def test_undefined_values_are_null_in_strict_json(make_table, tmp_path):
    table = make_table(4, grades=("kl",)).assign(kl=0)
    summary = summarise(table, 10)
    assert summary["kl_ge_2"]["roc_auc"] == {"value": None, "low": None, "high": None, "n": 16}
    write_metrics(tmp_path / "metrics.json", {"test": summary})

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = (tmp_path / "metrics.json").read_text()
    assert json.loads(text, parse_constant=refuse) == {"test": summary}


def test_a_bad_table_or_scheme_is_refused(make_table):
    with pytest.raises(UserError, match="lacks the column kl_pred"):
        summarise(make_table(2).drop(columns="kl_pred"))
    with pytest.raises(UserError, match="unknown bootstrap scheme"):
        summarise(make_table(2), scheme="knees")


@pytest.mark.slow
def test_a_study_of_the_size_of_oai_takes_seconds(make_table):
    table = make_table(5750)
    assert len(table) == 23_000
    start = time.perf_counter()
    summarise(table, 1000)
    assert time.perf_counter() - start < 30
