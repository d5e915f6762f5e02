import re

from knee_jax import targets
from knee_jax.metrics import agreement
from knee_jax.metrics.summary import summarise
from knee_jax.report import tables
from knee_jax.targets.grades import GRADES
from tests.factories import random_predictions, random_values

TITLES = {name: target.title for name, target in targets.all_targets().items()}


def test_every_metric_and_target_has_a_title():
    metrics = {*agreement.METRICS, *agreement.TWO_CLASS_METRICS, *agreement.NOMINAL_METRICS}
    assert metrics | {"brier", "ece"} <= set(tables.METRIC_TITLES)
    assert {"rmse", "mae", "bias", "limit_low", "limit_high"} <= set(tables.METRIC_TITLES)
    names = (*targets.all_targets(), *targets.dichotomies(), "oarsi")
    titles = [tables.target_title(name) for name in names]
    assert "KL grade" in titles
    assert not {name for name, title in zip(names, titles) if title == name.replace("_", " ")}


def test_estimates_as_text():
    estimate = {"value": 0.71249, "low": 0.6951, "high": 0.7299, "std": 0.0091, "n": 10}
    assert tables.format_estimate(estimate) == "0.712 [0.695, 0.730]"
    assert tables.format_deviation(estimate) == "0.712 ± 0.009"
    undefined = dict.fromkeys(("value", "low", "high", "std")) | {"n": 10}
    assert tables.format_estimate(undefined) == "undefined"
    assert tables.format_deviation(undefined) == "undefined"


def test_the_terminal_table_has_a_row_for_each_grade(table):
    summary = summarise(table, num_resamples=20)
    lines = tables.terminal_table(summary).splitlines()
    assert re.split(" {2,}", lines[0].strip()) == [
        *("n", "Accuracy", "Balanced accuracy", "Quadratic kappa", "RMSE")
    ]
    assert [line[: len(TITLES[g])] for line, g in zip(lines[2:], GRADES)] == [
        TITLES[g] for g in GRADES
    ]
    for line, grade in zip(lines[2:9], GRADES):
        for metric in ("accuracy", "balanced_accuracy", "quadratic_kappa", "rmse"):
            assert tables.format_estimate(summary[grade][metric]) in line
    # Columns are aligned: every estimate starts below its title.
    for title in ("Accuracy", "Balanced accuracy", "Quadratic kappa", "RMSE"):
        start = lines[0].index(title)
        assert all(line[start - 2 : start] == "  " and line[start] != " " for line in lines[2:9])
    assert lines[9].startswith("OARSI average")
    assert tables.format_estimate(summary["oarsi"]["rmse"]) in lines[9]
    assert lines[11].startswith("KL >= 2: ROC AUC 0.")
    assert lines[11].endswith("(n = 60)")
    assert lines[12].startswith("Osteophytes >= 1, lateral: ROC AUC")
    assert lines[12].endswith("(n = 120)")
    assert "\n".join(lines).isascii()


def test_the_terminal_table_of_one_grade(table):
    summary = summarise(table[[c for c in table if not c.startswith(("os", "js"))]], 20)
    lines = tables.terminal_table(summary).splitlines()
    assert len(lines) == 5
    assert "KL grade" in lines[2]


def test_the_terminal_table_of_two_classes():
    summary = summarise(random_predictions(30, names=("kl0_vs_kl2",)), 20)
    lines = tables.terminal_table(summary).splitlines()
    assert re.split(" {2,}", lines[0].strip()) == [
        *("n", "Accuracy", "F1", "Sensitivity", "Specificity", "ROC AUC")
    ]
    assert len(lines) == 4
    assert lines[2].startswith("KL 0 against KL 2  60  ")
    for metric in ("accuracy", "f1", "sensitivity", "specificity", "roc_auc"):
        assert tables.format_estimate(summary["kl0_vs_kl2"][metric]) in lines[2]


def test_the_terminal_table_of_progression():
    summary = summarise(random_predictions(30, names=("progression",)), 20)
    lines = tables.terminal_table(summary).splitlines()
    assert len(lines) == 8
    assert "F1, macro" in lines[0]
    assert lines[2].startswith("Progression  60  ")
    assert tables.format_estimate(summary["progression"]["balanced_accuracy"]) in lines[2]
    assert "Average precision" in lines[4]
    assert lines[6].startswith("Progression, fast or slow  60  ")
    for metric in ("average_precision", "roc_auc", "balanced_accuracy"):
        assert tables.format_estimate(summary["progression_any"][metric]) in lines[6]


def test_models_of_two_classes_stand_beside_each_other():
    table = random_predictions(20, names=("kl0_vs_kl2",))
    summaries = {name: summarise(table, 20) for name in "ab"}
    (balanced,) = tables.selection_tables(summaries)
    assert balanced.header == ("Model", "KL 0/2")


def test_models_stand_beside_each_other(table):
    rest = table.drop(columns=[c for c in table if c.startswith("kl")])
    summaries = {"SE-ResNet-50": summarise(table, 20), "without KL": summarise(rest, 20)}
    kappa, balanced = tables.selection_tables(summaries)
    assert (kappa.title, balanced.title) == ("Quadratic kappa", "Balanced accuracy")
    names = [*GRADES, "oarsi"]
    assert kappa.header == ("Model", *map(tables.short_title, names))
    for row, (name, summary) in zip(balanced.rows, summaries.items(), strict=True):
        assert row[0] == name
        for target, cell in zip(names, row[1:], strict=True):
            if target in summary:
                estimate = summary[target]["balanced_accuracy"]
                assert " ".join(cell.split("\n")) == tables.format_estimate(estimate)
            else:
                assert (name, target, cell) == ("without KL", "kl", "-")
    long = tables.tidy_metrics(summaries)
    assert len(long) == sum(len(e) for s in summaries.values() for e in s.values())
    one = long.query("row == 'without KL' and target == 'jsm' and metric == 'rmse'").iloc[0]
    assert one.drop(["row", "target", "metric"]).to_dict() == summaries["without KL"]["jsm"]["rmse"]


def test_a_table_as_text():
    table = tables.Table(
        "Kappa", ("Model", "KL"), (("a", "0.1\n[0.0, 0.2]"), ("long name", "-")), ("A note.",)
    )
    assert table.text().splitlines() == [
        "Kappa",
        "Model      KL",
        "---------------------",
        "a          0.1",
        "           [0.0, 0.2]",
        "long name  -",
        "---------------------",
        "A note.",
    ]


def test_knees_are_counted_by_cohort_and_grade(table):
    counts = tables.counts_table({"OAI": table.assign(jsm=-1), "MOST": table[["kl", "osfl"]]})
    assert [row[:2] for row in counts.rows] == [
        *(("OAI", "0"), ("", "1"), ("", "2"), ("", "3"), ("", "4")),
        *(("MOST", "0"), ("", "1"), ("", "2"), ("", "3"), ("", "4")),
    ]
    for value in range(5):
        kl, osfl, *_, jsm = counts.rows[value][2:]
        assert kl == str((table["kl"] == value).sum())
        assert osfl == (str((table["osfl"] == value).sum()) if value < 4 else "-")
        assert jsm == ("0" if value < 4 else "-")
        assert counts.rows[5 + value][2:] == (kl, osfl, *["-"] * 5)


def test_measured_values_have_a_row_of_errors():
    summary = summarise(random_values(20), 20)
    header, _, row, _ = tables.terminal_table(summary).splitlines()
    assert re.split(" {2,}", header.strip()) == [
        *("n", "RMSE", "MAE", "Bias", "Lower limit of agreement", "Upper limit of agreement")
    ]
    assert row.startswith("Joint space width, medial  40  ")
    for metric in ("rmse", "mae", "bias", "limit_low", "limit_high"):
        assert tables.format_estimate(summary["jsw_medial"][metric]) in row
