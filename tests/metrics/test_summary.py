import json
import logging
import re
import time

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from knee_jax import targets
from knee_jax.errors import UserError
from knee_jax.metrics import agreement, calibration
from knee_jax.metrics import summary as summaries
from knee_jax.metrics.endpoints import dichotomy_samples
from knee_jax.metrics.summary import scorers_of, summarise, write_metrics
from knee_jax.targets.grades import GRADES, MISSING
from tests.factories import NUM_CLASSES, endpoint, random_values

OARSI_GRADES = GRADES[1:]
TASKS_OF_GRADES = [
    name for name, each in targets.dichotomies().items() if set(each.targets) <= set(GRADES)
]


def test_values_are_those_of_scikit_learn_on_the_labelled_rows(make_table):
    table = make_table(missing=0.3)
    summary = summarise(table, num_resamples=20)
    assert list(summary) == [*GRADES, "oarsi", *TASKS_OF_GRADES]
    for grade in GRADES:
        rows = table[table[grade] != MISSING]
        truth, prediction = rows[grade], rows[f"{grade}_pred"]
        assert set(summary[grade]) == {*agreement.METRICS, "rmse_expected", "brier", "ece"}
        assert {estimate["n"] for estimate in summary[grade].values()} == {len(rows)}
        probabilities = rows[[f"{grade}_p{c}" for c in range(NUM_CLASSES[grade])]].to_numpy()
        expected = {
            "brier": ((probabilities - np.eye(NUM_CLASSES[grade])[truth]) ** 2).sum(1).mean(),
            "ece": calibration.expected_calibration_error(
                probabilities.max(1), truth == prediction
            ),
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


def test_a_target_of_two_classes_has_its_own_metrics(make_table):
    """Called positive where class 1 is the predicted one, whatever the probabilities are."""
    table = make_table(missing=0.2, names=("kl0_vs_kl2",))
    table.loc[:4, "kl0_vs_kl2_pred"] = 1 - table.loc[:4, "kl0_vs_kl2_pred"]
    summary = summarise(table, 20)
    assert list(summary) == ["kl0_vs_kl2"]
    rows = table[table["kl0_vs_kl2"] != MISSING]
    truth, prediction, score = (rows[f"kl0_vs_kl2{end}"] for end in ("", "_pred", "_p1"))
    confidence = np.where(prediction == 1, score, rows["kl0_vs_kl2_p0"])
    expected = {
        "accuracy": sk.accuracy_score(truth, prediction),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, prediction),
        "f1": sk.f1_score(truth, prediction),
        "sensitivity": sk.recall_score(truth, prediction),
        "specificity": sk.recall_score(truth, prediction, pos_label=0),
        "ppv": sk.precision_score(truth, prediction),
        "npv": sk.precision_score(truth, prediction, pos_label=0),
        "kappa": sk.cohen_kappa_score(truth, prediction),
        "roc_auc": sk.roc_auc_score(truth, score),
        "average_precision": sk.average_precision_score(truth, score),
        "brier": sk.brier_score_loss(truth, score),
        "ece": calibration.expected_calibration_error(confidence, truth == prediction),
    }
    estimates = summary["kl0_vs_kl2"]
    assert list(estimates) == list(expected)
    for name, value in expected.items():
        assert estimates[name]["value"] == pytest.approx(value, rel=1e-5)
        assert estimates[name]["n"] == len(rows)


@pytest.mark.parametrize("scheme", ["subject", "class"])
def test_two_classes_are_resampled_as_tables_are(make_table, scheme):
    table = make_table(12, names=("kl0_vs_kl2",))
    names = "sensitivity", "kappa", "roc_auc", "brier", "ece"
    units = table["subject"].to_numpy() if scheme == "subject" else table.index.to_numpy()
    strata = np.zeros(len(table)) if scheme == "subject" else table["kl0_vs_kl2"].to_numpy()
    rng = np.random.default_rng(3)
    streams = [rng] if scheme == "subject" else rng.spawn(2)
    draws = []
    for stratum, stream in zip(np.unique(strata), streams, strict=True):
        members = [np.flatnonzero((units == u) & (strata == stratum)) for u in np.unique(units)]
        members = [rows for rows in members if rows.size]
        picks = stream.integers(len(members), size=(40, len(members)))
        draws.append([np.concatenate([members[i] for i in pick]) for pick in picks])
    resampled = [table.iloc[np.concatenate(rows)] for rows in zip(*draws, strict=True)]
    tables = [t.reset_index(drop=True).assign(subject=range(len(t))) for t in resampled]
    values = [summarise(t, 1)["kl0_vs_kl2"] for t in tables]
    estimates = summarise(table, 40, seed=3, scheme=scheme)["kl0_vs_kl2"]
    for name in names:
        expected = np.percentile([value[name]["value"] for value in values], [2.5, 97.5])
        estimate = estimates[name]
        np.testing.assert_allclose([estimate["low"], estimate["high"]], expected)


def test_one_class_alone_leaves_what_compares_two_undefined(make_table):
    table = make_table(5, names=("kl0_vs_kl2",)).assign(kl0_vs_kl2=0)
    estimates = summarise(table, 10)["kl0_vs_kl2"]
    undefined = {name for name, estimate in estimates.items() if estimate["value"] is None}
    assert undefined == {"sensitivity", "roc_auc", "average_precision"}
    assert estimates["specificity"]["value"] == estimates["accuracy"]["value"]
    assert estimates["f1"]["value"] == 0.0  # some are called positive, and none of them is


POOLED = {
    "osteophytes_lateral_ge_1": ("osfl", "ostl"),
    "osteophytes_medial_ge_1": ("osfm", "ostm"),
    "jsn_lateral_ge_1": ("jsl",),
    "jsn_medial_ge_1": ("jsm",),
}


@pytest.mark.parametrize(("task", "grades"), POOLED.items())
def test_tasks_pool_the_compartments_of_a_side(make_table, task, grades):
    """Osteophytes of femur and tibia are samples of one task; JSN is read off its own column."""
    table = make_table(missing=0.3)
    truth, scores = [], []
    for grade in grades:
        rows = table[table[grade] != MISSING]
        truth += (rows[grade] >= 1).tolist()
        scores += (1.0 - rows[f"{grade}_p0"].astype(float)).tolist()
    estimates = summarise(table, 5)[task]
    assert estimates["roc_auc"]["n"] == len(truth)
    assert estimates["roc_auc"]["value"] == pytest.approx(sk.roc_auc_score(truth, scores))
    expected = sk.average_precision_score(truth, scores)
    assert estimates["average_precision"]["value"] == pytest.approx(expected)


def test_a_pooled_task_keeps_both_compartments_of_a_subject_together(make_table):
    table = make_table(12, missing=0.2)
    names = np.unique(table["subject"])
    values = []
    for draw in np.random.default_rng(3).integers(len(names), size=(50, len(names))):
        resampled = pd.concat([table[table["subject"] == names[s]] for s in draw])
        rows, scores, positives = dichotomy_samples(resampled, endpoint("osteophytes_medial_ge_1"))
        values.append(sk.roc_auc_score(positives, scores))
        assert rows.max() < len(resampled)
    estimate = summarise(table, 50, seed=3)["osteophytes_medial_ge_1"]["roc_auc"]
    np.testing.assert_allclose(
        [estimate["low"], estimate["high"]], np.percentile(values, [2.5, 97.5])
    )


def test_a_pooled_task_draws_whole_knees_within_classes(make_table):
    """Two samples of equal score and truth a knee: intervals as of one, not narrower."""
    table = make_table(30, names=("osfl", "ostl", "jsl"))
    for column in [c for c in table if c.startswith("osfl")]:
        table[column.replace("osfl", "ostl")] = table[column]
        table[column.replace("osfl", "jsl")] = table[column]
    summary = summarise(table, 100, scheme="class")
    pooled, alone = (summary[t] for t in ("osteophytes_lateral_ge_1", "jsn_lateral_ge_1"))
    assert pooled["roc_auc"]["n"] == 2 * alone["roc_auc"]["n"]
    for metric in ("roc_auc", "average_precision"):
        for bound in ("value", "low", "high"):
            assert pooled[metric][bound] == pytest.approx(alone[metric][bound])


def test_a_task_needs_all_of_its_grades(make_table, caplog):
    summary = summarise(make_table(5, names=("kl", "osfl", "jsm")), 5)
    assert list(summary) == ["kl", "osfl", "jsm", "kl_ge_2", "jsn_medial_ge_1"]
    with caplog.at_level(logging.WARNING):
        summary = summarise(make_table(5).assign(ostl=MISSING), 5)
    assert {"ostl", "oarsi", "osteophytes_lateral_ge_1"}.isdisjoint(summary)
    assert "osteophytes_lateral_ge_1: no knee has ostl; it is not scored" in caplog.text


AVERAGED = ("accuracy", "balanced_accuracy", "quadratic_kappa", "rmse")


def test_oarsi_is_the_mean_over_six_grades(make_table):
    summary = summarise(make_table(missing=0.2), 10)
    assert tuple(summary["oarsi"]) == AVERAGED
    for metric in AVERAGED:
        values = [summary[grade][metric]["value"] for grade in OARSI_GRADES]
        assert summary["oarsi"][metric]["value"] == pytest.approx(np.mean(values), rel=1e-12)


def test_the_interval_of_oarsi_is_of_common_resamples(make_table):
    table = make_table(10, missing=0.1)
    names = np.unique(table["subject"])
    values = []
    for draw in np.random.default_rng(3).integers(len(names), size=(40, len(names))):
        resampled = pd.concat([table[table["subject"] == names[s]] for s in draw])
        kappas = []
        for grade in OARSI_GRADES:
            rows = resampled[resampled[grade] != MISSING]
            kappas.append(
                sk.cohen_kappa_score(
                    rows[grade], rows[f"{grade}_pred"], weights="quadratic", labels=range(4)
                )
            )
        values.append(np.mean(kappas))
    estimate = summarise(table, 40, seed=3)["oarsi"]["quadratic_kappa"]
    np.testing.assert_allclose(
        [estimate["low"], estimate["high"]], np.percentile(values, [2.5, 97.5])
    )


def test_progression_is_of_classes_in_no_order_and_of_two(make_table):
    """Fast and slow together are positive from a probability of a half on."""
    table = make_table(40, missing=0.2, names=("progression",))
    summary = summarise(table, 20)
    assert list(summary) == ["progression", "progression_any"]
    rows = table[table["progression"] != MISSING]
    truth, prediction = rows["progression"], rows["progression_pred"]
    p = rows[[f"progression_p{c}" for c in range(3)]].to_numpy(np.float64)
    expected = {
        "accuracy": sk.accuracy_score(truth, prediction),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, prediction),
        "f1_macro": sk.f1_score(truth, prediction, average="macro"),
        "brier": ((p - np.eye(3)[truth]) ** 2).sum(1).mean(),
        "ece": calibration.expected_calibration_error(p.max(1), truth == prediction),
    }
    assert set(summary["progression"]) == set(expected)
    for name, value in expected.items():
        assert summary["progression"][name]["value"] == pytest.approx(value, rel=1e-6)
    positive, score = truth > 0, p[:, 1] + p[:, 2]
    called = score >= 0.5
    assert (called != (prediction > 0)).any()
    expected = {
        "accuracy": sk.accuracy_score(positive, called),
        "balanced_accuracy": sk.balanced_accuracy_score(positive, called),
        "f1": sk.f1_score(positive, called),
        "sensitivity": sk.recall_score(positive, called),
        "specificity": sk.recall_score(positive, called, pos_label=0),
        "ppv": sk.precision_score(positive, called),
        "npv": sk.precision_score(positive, called, pos_label=0),
        "kappa": sk.cohen_kappa_score(positive, called),
        "roc_auc": sk.roc_auc_score(positive, score),
        "average_precision": sk.average_precision_score(positive, score),
        "brier": sk.brier_score_loss(positive, score),
        "ece": calibration.expected_calibration_error(
            np.maximum(score, 1 - score), positive == called
        ),
    }
    assert set(summary["progression_any"]) == set(expected)
    for name, value in expected.items():
        assert summary["progression_any"][name]["value"] == pytest.approx(value, rel=1e-6)


def test_the_deviation_is_that_of_the_papers_resamples(make_table):
    """Panfilov et al. 2022 print it: knees drawn within the positive and the negative ones."""
    table = make_table(30, names=("progression",))
    truth = table["progression"].to_numpy() > 0
    score = table[["progression_p1", "progression_p2"]].to_numpy().sum(1)
    rng = np.random.default_rng(0)
    values = []
    for _ in range(1000):
        rows = np.concatenate([rng.choice(r, len(r)) for r in map(np.flatnonzero, (truth, ~truth))])
        values.append(sk.average_precision_score(truth[rows], score[rows]))
    found = summarise(table, 1000, scheme="class")["progression_any"]["average_precision"]
    assert found["std"] == pytest.approx(np.std(values), rel=0.1)
    assert found["low"] < found["value"] < found["high"]


def test_the_class_scheme_is_the_papers_bootstrap(make_table):
    """Knees drawn within each true grade (Tiulpin & Saarakkala 2020, Table 3)."""
    table = make_table(20)
    truth, prediction = table["kl"].to_numpy(), table["kl_pred"].to_numpy()
    rng = np.random.default_rng(0)
    members = [np.flatnonzero(truth == grade) for grade in range(5)]
    values = []
    for _ in range(2000):
        rows = np.concatenate([rng.choice(rows, len(rows)) for rows in members])
        values.append(sk.recall_score(truth[rows], prediction[rows], average="macro"))
    estimate = summarise(table, 2000, scheme="class")["kl"]["balanced_accuracy"]
    np.testing.assert_allclose(
        [estimate["low"], estimate["high"]], np.percentile(values, [2.5, 97.5]), atol=0.01
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
    assert set(summary) == {*GRADES, "oarsi", *TASKS_OF_GRADES} - {"kl", "kl_ge_2"}
    assert "kl: no knee has this target" in caplog.text


def test_undefined_resamples_are_left_out_and_said(make_table, caplog):
    """One positive subject of six is absent from a third of the resamples."""
    table = make_table(6, names=("kl",))
    table["kl"] = np.where(table["subject"] == "00000", 3, 0)
    with caplog.at_level(logging.WARNING):
        estimate = summarise(table, 300)["kl_ge_2"]["roc_auc"]
    assert re.search(
        r"undefined in some of the 300 resamples.* kl_ge_2 roc_auc \(\d+\)", caplog.text
    )
    assert 0.0 <= estimate["low"] <= estimate["high"] <= 1.0


def test_undefined_values_are_null_in_strict_json(make_table, tmp_path):
    table = make_table(4, names=("kl",)).assign(kl=0)
    summary = summarise(table, 10)
    nothing = dict.fromkeys(("value", "low", "high", "std"))
    assert summary["kl_ge_2"]["roc_auc"] == nothing | {"n": 16}
    write_metrics(tmp_path / "metrics.json", {"test": summary})

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
    text = (tmp_path / "metrics.json").read_text()
    assert json.loads(text, parse_constant=refuse) == {"test": summary}


def test_a_bad_table_or_scheme_is_refused(make_table):
    with pytest.raises(UserError, match="lacks the column kl_pred"):
        summarise(make_table(2).drop(columns="kl_pred"))
    with pytest.raises(UserError, match="unknown bootstrap scheme"):
        summarise(make_table(2), scheme="knees")


def test_intervals_are_those_of_scikit_learn_in_a_loop(make_table):
    """Every subject as often as drawn, and scikit-learn on the table that this makes."""
    num_resamples = 12
    table = make_table(40)
    subjects = np.arange(len(table)) // 4
    draws = np.random.default_rng(3).integers(40, size=(num_resamples, 40))
    found = summarise(table, num_resamples, seed=3)
    for grade in GRADES:
        labels = range(NUM_CLASSES[grade])
        metrics = {
            "accuracy": sk.accuracy_score,
            "f1_macro": lambda t, p, n=labels: sk.f1_score(t, p, labels=n, average="macro"),
            "linear_kappa": lambda t, p, n=labels: sk.cohen_kappa_score(
                t, p, labels=n, weights="linear"
            ),
            "quadratic_kappa": lambda t, p, n=labels: sk.cohen_kappa_score(
                t, p, labels=n, weights="quadratic"
            ),
            "mse": sk.mean_squared_error,
            "mae": sk.mean_absolute_error,
        }
        replicates: dict[str, list[float]] = {name: [] for name in metrics}
        for draw in draws:
            rows = np.concatenate([np.flatnonzero(subjects == subject) for subject in draw])
            truth, prediction = (table[name].to_numpy()[rows] for name in (grade, f"{grade}_pred"))
            for name, metric in metrics.items():
                replicates[name].append(metric(truth, prediction))
        for name, values in replicates.items():
            ours = [found[grade][name][end] for end in ("low", "high")]
            np.testing.assert_allclose(ours, np.percentile(values, [2.5, 97.5]), err_msg=name)


@pytest.mark.slow
def test_the_seven_grades_of_a_study_take_seconds(make_table):
    """11,744 knees, 1,000 resamples, seven grades, thirteen metrics of each."""
    table = make_table(2936)
    assert len(table) == 11_744
    seven = [each for each in scorers_of(table) if each[0] in GRADES]
    start = time.process_time()
    found = summaries.estimate(seven, 1000)
    assert time.process_time() - start < 8, "5 s of a core on a machine that does nothing else"
    assert sum(map(len, found.values())) == 91


def test_measured_values_are_scored_by_errors_bias_and_limits_of_agreement():
    """As Bland & Altman 1986 define them, on the labelled rows alone."""
    table = random_values(60, missing=0.2)
    summary = summarise(table, 200)
    assert list(summary) == ["jsw_medial"]
    rows = table[table["jsw_medial"].notna()]
    truth, predicted = (rows[c].to_numpy(np.float64) for c in ("jsw_medial", "jsw_medial_pred"))
    errors = predicted - truth
    expected = {
        "rmse": sk.root_mean_squared_error(truth, predicted),
        "mae": sk.mean_absolute_error(truth, predicted),
        "bias": errors.mean(),
        "limit_low": errors.mean() - 1.96 * errors.std(ddof=1),
        "limit_high": errors.mean() + 1.96 * errors.std(ddof=1),
    }
    assert set(summary["jsw_medial"]) == set(expected)
    for name, value in expected.items():
        estimate = summary["jsw_medial"][name]
        assert estimate["value"] == pytest.approx(value, rel=1e-9)
        assert estimate["low"] < value < estimate["high"]
        assert estimate["n"] == len(rows)
    # The interval of the bias is that of resampled subjects.
    subjects = rows["subject"].to_numpy()
    rng = np.random.default_rng(0)
    means = []
    for _ in range(400):
        drawn = rng.choice(np.unique(subjects), len(np.unique(subjects)))
        means.append(np.concatenate([errors[subjects == s] for s in drawn]).mean())
    low, high = np.percentile(means, [2.5, 97.5])
    found = summary["jsw_medial"]["bias"]
    np.testing.assert_allclose([found["low"], found["high"]], [low, high], atol=0.02)


def test_a_single_measured_knee_has_no_limits_of_agreement():
    estimates = summarise(random_values(1).head(1), 10)["jsw_medial"]
    assert estimates["limit_low"]["value"] is None
    assert estimates["rmse"]["value"] == pytest.approx(abs(estimates["bias"]["value"]))
