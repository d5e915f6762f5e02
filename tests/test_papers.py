"""The papers' tables: typed without slips, as far as the papers agree with themselves."""

import importlib
import re

import numpy as np
import pandas as pd
import pytest

from knee_jax import papers, targets
from knee_jax.config import load
from knee_jax.errors import UserError
from knee_jax.metrics.agreement import METRICS, TWO_CLASS_METRICS
from knee_jax.targets.grades import GRADES, OARSI

SOURCES = {
    "kpn": r"Zheng et al\. 2021, ",
    "oarsi": r"Tiulpin & Saarakkala 2020, ",
    "siamese_gap": r"Wang et al\., ",
    "mri_progression": r"Panfilov et al\. 2022, ",
}
KPN = ("kpn/2", "kpn/3", "kpn/4", "kpn/s1", "kpn/s2")


@pytest.mark.parametrize("name", papers.names())
def test_a_table_is_well_formed(name):
    paper = papers.read(name)
    cells = paper.cells
    assert tuple(cells.columns) == papers.COLUMNS
    assert paper.title
    system = name.partition("/")[0]
    assert re.match(SOURCES[system], paper.source)
    assert all(note and note == note.strip() for note in paper.notes)
    assert not cells.duplicated(["row", "split", "target", "metric"]).any()
    assert set(cells["target"]) <= {*targets.all_targets(), OARSI, *targets.dichotomies()}
    assert set(cells["metric"]) <= {*METRICS, *TWO_CLASS_METRICS, "roc_auc", "average_precision"}
    assert set(cells["split"]) <= {"test", "test_first_visit", "out_of_fold"}
    made = cells["config"] != ""
    assert set(cells.loc[made, "mode"]) == {
        "cv" if system in ("oarsi", "mri_progression") else "train"
    }
    assert (cells.loc[~made, ["mode", "model"]] == "").all().all()
    # A row is one run.
    assert (cells.groupby("row")[["config", "model", "mode"]].nunique() == 1).all().all()
    values = cells["value"].astype(float)
    assert values.between(0, 1).all()
    with_interval = cells["low"] != ""
    low, high = (cells.loc[with_interval, column].astype(float) for column in ("low", "high"))
    assert (low <= values[with_interval]).all()
    assert (values[with_interval] <= high).all()
    assert cells.loc[cells["std"] != "", "std"].astype(float).between(0.005, 0.05).all()


def test_all_printed_numbers_are_there():
    counts = {name: len(papers.read(name).cells) for name in papers.names()}
    assert counts == {
        "kpn/2": 3 * 4 * 8,
        "kpn/3": 4 * 4,
        "kpn/4": 6 * 4,
        "kpn/s1": 2 * 6 * 8,
        "kpn/s2": 2 * (4 * 8 + 1),
        "oarsi/2": 10 * 7 - 2,
        "oarsi/s1": 10 * 7 - 2,
        "oarsi/3": 7 * (4 + 3),
        "oarsi/first_visit": 7 * 2,
        "oarsi/roc": 2,
        "mri_progression/1": 11 * 2,
        "mri_progression/2": 10 * 2,
        "mri_progression/classes": 1,
        "siamese_gap/3": 6 * 2,
        "siamese_gap/4": 17 * 2,
        "siamese_gap/5": 12 * 2,
        "siamese_gap/6": 7 * 2,
        "siamese_gap/7": 4 * 3 + 3,
        "siamese_gap/roc": 5,
    }


@pytest.mark.parametrize("name", KPN)
def test_printed_averages_are_those_of_the_printed_grades(name):
    """Except where the paper is at odds with itself, which the notes then say."""
    cells = papers.read(name).cells
    wide = cells.astype({"value": float}).pivot(
        index=["metric", "row"], columns="target", values="value"
    )
    if not set(GRADES) <= set(wide.columns):
        return
    mean = wide[list(GRADES[1:])].mean(axis=1)
    off = wide[(mean - wide[OARSI]).abs() > 0.0011].index.tolist()
    assert off == (
        [("quadratic_kappa", "ResNet-18"), ("quadratic_kappa", "ResNet-34")]
        if name == "kpn/2"
        else []
    )


def test_two_tables_of_progression_print_the_same_of_the_same_networks():
    first, second = (
        papers.read(f"mri_progression/{name}").cells.set_index(["config", "metric"])[
            ["value", "std"]
        ]
        for name in ("1", "2")
    )
    common = first.index.intersection(second.index)
    assert len(common) == 5 * 2
    pd.testing.assert_frame_equal(first.loc[common], second.loc[common])


def test_rows_that_several_tables_print_agree():
    """Except for the OARSI average of ResNet-50, 0.752 or 0.753, as the notes say."""
    cells = pd.concat([papers.read(name).cells.assign(table=name) for name in KPN])
    cells = cells[cells["config"] != ""]
    printed = cells.groupby(["config", "target", "metric"])["value"].agg(
        lambda v: set(map(float, v))
    )
    assert {key: values for key, values in printed.items() if len(values) > 1} == {
        ("kpn.py:resnet50", "oarsi", "accuracy"): {0.752, 0.753}
    }
    noted = [name for name in KPN if any("0.752" in note for note in papers.read(name).notes)]
    assert noted == list(KPN)


@pytest.mark.parametrize(
    ("name", "row", "target", "metric", "printed"),
    [
        ("oarsi/2", "SE-ResNeXt-50, without KL", "ostl", "quadratic_kappa", ("0.83", "", "")),
        ("oarsi/s1", "Ensemble", "jsl", "balanced_accuracy", ("0.7673", "", "")),
        ("oarsi/s1", "SE-ResNet-50, from scratch", "osfl", "balanced_accuracy", ("0.4858", "", "")),
        ("oarsi/3", "Ensemble", "jsm", "balanced_accuracy", ("0.8066", "0.7982", "0.8154")),
        ("oarsi/3", "Antony 2018", "osfm", "balanced_accuracy", ("0.458", "", "")),
        ("oarsi/first_visit", "Ensemble", "osfm", "quadratic_kappa", ("0.86", "0.84", "0.87")),
        ("mri_progression/1", "2D + TRF, axial", "progression_any", "roc_auc", ("0.78", "", "")),
        ("siamese_gap/3", "P1 P2 P4 GMP", "kl0_vs_kl2", "accuracy", ("0.8689", "", "")),
        ("siamese_gap/4", "DenseNet-169", "kl0_vs_kl2", "f1", ("0.7823", "", "")),
        ("siamese_gap/5", "8:1:1 epsilon 0.15", "kl0_vs_kl2", "f1", ("0.8610", "", "")),
        ("siamese_gap/6", "VGG-11 hybrid", "kl0_vs_kl2", "accuracy", ("0.8306", "", "")),
        ("siamese_gap/7", "Radiologist 3", "kl0_vs_kl2", "sensitivity", ("0.917", "", "")),
        ("kpn/3", "CL", "kl", "rmse", ("0.664", "", "")),
        ("kpn/s1", "tau = 0.75", "osfl", "rmse", ("0.736", "", "")),
    ],
)
def test_numbers_as_printed(name, row, target, metric, printed):
    cells = papers.read(name).cells.set_index(["row", "target", "metric"])
    assert tuple(cells.loc[(row, target, metric), ["value", "low", "high"]]) == printed


def test_an_unknown_table_names_those_there_are():
    with pytest.raises(
        UserError, match=r"'kpn/1': choose kpn/2, .*mri_progression/1, .*siamese_gap/3, "
    ):
        papers.read("kpn/1")


@pytest.mark.parametrize("name", papers.names())
def test_every_row_names_variants_that_there_are(name):
    for config in set(papers.read(name).cells["config"]) - {""}:
        file, _, variant = config.partition(":")
        module = importlib.import_module(f"knee_jax.configs.{file.removesuffix('.py')}")
        for budget in (variant, ",".join(filter(None, [variant, "demo"]))):
            assert load.parse(module.get_config(budget)).paper_row == config


def test_a_run_makes_the_rows_of_its_mode_only():
    assert papers.has("oarsi/3", "oarsi.py", "cv")
    assert not papers.has("oarsi/3", "oarsi.py", "train")
    assert papers.has("kpn/3", "kpn.py:no_cl", "train")
    assert not papers.has("kpn/3", "", "train")


def test_two_tables_of_siamese_gap_print_the_same_of_the_same_networks():
    """Accuracies with cross-entropy stand in Tables III, IV and VI."""
    tables = [papers.read(f"siamese_gap/{name}").cells for name in ("3", "4", "5", "6")]
    cells = pd.concat(tables).query("metric == 'accuracy' and config != ''")
    of_run = cells.groupby("config")["value"].agg(set)
    of_run = of_run[of_run.map(len) > 1]
    assert of_run.empty
    best = papers.read("siamese_gap/5").cells.query(
        "config == 'siamese_gap.py:lambda_721_epsilon_015'"
    )
    assert best["value"].tolist() == ["0.8914", "0.8678"]


def test_the_model_of_siamese_gap_disagrees_with_itself_as_its_notes_say():
    """150 knees of each grade: accuracy is the mean of sensitivity and specificity."""
    cells = papers.read("siamese_gap/7").cells.astype({"value": float})
    rates = cells.pivot_table(index="row", columns="metric", values="value")
    mean = (rates["sensitivity"] + rates["specificity"]) / 2
    readers = rates.index.str.startswith("Radiologist")
    np.testing.assert_allclose(rates["accuracy"][readers], mean[readers], atol=6e-4)
    assert mean["Siamese-GAP"] == pytest.approx(0.890)
    # The kappas are those of readers against labels.
    np.testing.assert_allclose(rates["kappa"][readers], 2 * mean[readers] - 1, atol=0.011)
