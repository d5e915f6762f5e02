import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from knee_jax.report.folds import folds_section
from tests.factories import random_predictions, random_values


def dealt(table, folds=3):
    """Subjects of a table dealt to folds."""
    return table.assign(fold=table["subject"].astype(int) % folds)


def test_each_fold_is_scored_by_itself():
    table = dealt(random_predictions(40))
    section = folds_section(table)
    (found,) = section.tables
    assert found.header == ("", "Metric", "Fold 0", "Fold 1", "Fold 2", "Mean (SD)", "Range")
    assert found.rows[0][2:5] == tuple(str(n) for n in table.groupby("fold").size())
    (row,) = (r for r in found.rows if r[:2] == ("KL grade", "Quadratic kappa"))
    kappas = [
        cohen_kappa_score(knees["kl"], knees["kl_pred"], weights="quadratic")
        for _, knees in table.groupby("fold")
    ]
    np.testing.assert_allclose([float(cell) for cell in row[2:5]], kappas, atol=6e-4)
    assert row[5] == f"{np.mean(kappas):.3f} ({np.std(kappas, ddof=1):.3f})"
    assert row[6] == f"{min(kappas):.3f} to {max(kappas):.3f}"


def test_a_fold_without_one_of_two_classes_is_undefined_and_left_out_of_the_mean():
    table = dealt(random_predictions(40, names=("kl",)))
    table.loc[table["fold"] == 1, "kl"] = 0
    (found,) = folds_section(table).tables
    (row,) = (r for r in found.rows if r[:2] == ("KL >= 2", "ROC AUC"))
    assert row[3] == "undefined"
    mean = (float(row[2]) + float(row[4])) / 2
    assert float(row[5].split()[0]) == pytest.approx(mean, abs=1e-3)


def test_folds_of_a_continuous_target_are_scored_too():
    (found,) = folds_section(dealt(random_values(20))).tables
    assert any(row[1] == "RMSE" for row in found.rows)


@pytest.mark.parametrize("folds", [["0"], ["0+1", "1+0"]])
def test_without_folds_that_all_networks_share_there_is_no_section(folds):
    table = random_predictions(8, names=("kl",))
    assert folds_section(table) is None
    assert folds_section(table.assign(fold=np.resize(folds, len(table)))) is None
