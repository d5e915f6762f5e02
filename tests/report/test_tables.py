import re

from knee_jax.grades import GRADES, TITLES
from knee_jax.metrics import agreement
from knee_jax.metrics.summary import TASKS, summarise
from knee_jax.report import tables


def test_every_metric_and_target_has_a_title():
    assert set(agreement.METRICS) <= set(tables.METRIC_TITLES)
    assert {*GRADES, *TASKS} == set(tables.TARGET_TITLES)


def test_estimates_as_text():
    estimate = {"value": 0.71249, "low": 0.6951, "high": 0.7299, "n": 10}
    assert tables.format_estimate(estimate) == "0.712 [0.695, 0.730]"
    undefined = {"value": None, "low": None, "high": None, "n": 10}
    assert tables.format_estimate(undefined) == "undefined"


def test_the_terminal_table_has_a_row_for_each_grade(table):
    summary = summarise(table, num_resamples=20)
    lines = tables.terminal_table(summary).splitlines()
    assert re.split(" {2,}", lines[0].strip()) == [
        *("n", "Accuracy", "Balanced accuracy", "Quadratic kappa", "RMSE")
    ]
    assert [line[: len(TITLES[g])] for line, g in zip(lines[2:9], GRADES)] == list(TITLES.values())
    for line, grade in zip(lines[2:9], GRADES):
        for metric in ("accuracy", "balanced_accuracy", "quadratic_kappa", "rmse"):
            assert tables.format_estimate(summary[grade][metric]) in line
    # Columns are aligned: every interval closes where the one above does.
    closings = [[i for i, c in enumerate(line) if c == "]"] for line in lines[2:9]]
    assert all(row == closings[0] for row in closings)
    assert lines[10].startswith("KL >= 2: ROC AUC 0.")
    assert lines[10].endswith("(n = 60)")
    assert "\n".join(lines).isascii()


def test_the_terminal_table_of_one_grade(table):
    summary = summarise(table[[c for c in table if not c.startswith(("os", "js"))]], 20)
    lines = tables.terminal_table(summary).splitlines()
    assert len(lines) == 5
    assert "KL grade" in lines[2]
