"""Sensitivity and specificity by hand, at points that were not chosen on the knees scored."""

import numpy as np
import pytest

from knee_jax.report.operating import decision_drawings, operating_table, youden
from tests.factories import endpoint, random_predictions

NAMES = ("kl",)


def scores(table):
    return table[["kl_p2", "kl_p3", "kl_p4"]].to_numpy(np.float64).sum(1), table["kl"] >= 2


def test_youdens_point_has_the_greatest_sum():
    table = random_predictions(40, names=NAMES)
    found, (score, positive) = youden(table, endpoint("kl_ge_2")), scores(table)

    def gain(threshold):
        called = score >= threshold
        return called[positive].mean() - called[~positive].mean()

    assert gain(found) == pytest.approx(max(gain(each) for each in score))


def test_both_points_are_scored_by_hand():
    test, validation = random_predictions(30, 0, NAMES), random_predictions(30, 1, NAMES)
    tables = {"validation": validation, "test": test}
    table = operating_table(tables, "test", {"kl_ge_2"}, 20, "subject")
    assert len(table.rows) == 2
    score, positive = scores(test)
    for row, threshold in zip(table.rows, (0.5, youden(validation, endpoint("kl_ge_2")))):
        called = score >= threshold
        expected = (
            called[positive].mean(),
            (~called)[~positive].mean(),
            positive[called].mean(),
            (~positive)[~called].mean(),
        )
        assert row[1].startswith(f"{threshold:.2f}")
        for cell, value in zip(row[2:], expected, strict=True):
            assert float(cell.split("\n")[0]) == pytest.approx(value, abs=6e-4)
            assert "[" in cell
    assert "Youden, validation" in table.rows[1][1]


def test_a_point_is_never_chosen_on_the_knees_it_is_scored_on():
    table = random_predictions(30, names=NAMES)
    found = operating_table({"validation": table}, "validation", {"kl_ge_2"}, 5, "subject")
    assert [row[1] for row in found.rows] == ["0.50"]


def test_of_one_class_there_is_no_point():
    table = random_predictions(10, names=NAMES).assign(kl=3)
    assert operating_table({"test": table}, "test", {"kl_ge_2"}, 5, "subject") is None


def test_decision_curves_are_of_the_first_target():
    table = random_predictions(30, names=("kl", "osfl"))
    drawn = decision_drawings(table, {"kl_ge_2", "osfl_ge_1"}, 5)
    assert [each.name for each in drawn] == ["decision_kl_ge_2"]
    assert decision_drawings(table.assign(kl=3), {"kl_ge_2"}, 5) == []
