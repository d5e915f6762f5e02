import logging

import numpy as np
import pandas as pd
import pytest
from scipy import special

from knee_jax.errors import UserError
from knee_jax.metrics import ensemble
from knee_jax.metrics.predictions import check_predictions
from tests.factories import NUM_CLASSES, probability_columns, random_values


def table_of(logits, **origin):
    """A table of three knees with the given logits {grade: [3, classes]}."""
    table = pd.DataFrame(
        {"subject": ["001", "001", "002"], "side": ["L", "R", "L"], "visit": 0, "cohort": "oai"}
    ).assign(**origin)
    for grade, values in logits.items():
        probabilities = special.softmax(values, axis=1)
        table[grade] = [0, 1, -1]
        table[f"{grade}_pred"] = probabilities.argmax(1)
        table[probability_columns(grade)] = probabilities
    return table


@pytest.fixture
def logits():
    rng = np.random.default_rng(0)
    return [
        {grade: rng.normal(scale=3, size=(3, NUM_CLASSES[grade])) for grade in ("kl", "jsl")}
        for _ in range(4)
    ]


@pytest.mark.parametrize("by", ensemble.AVERAGES)
def test_averages_are_those_of_scipy(logits, by):
    tables = [table_of(each, model="net", fold=fold) for fold, each in enumerate(logits)]
    averaged = ensemble.average(tables, by)
    check_predictions(averaged)
    for grade in ("kl", "jsl"):
        stack = np.stack([each[grade] for each in logits])
        if by == "logits":
            expected = special.softmax(stack.mean(0), axis=1)
        else:
            expected = special.softmax(stack, axis=2).mean(0)
        if by == "softmax_of_mean":
            expected = special.softmax(expected, axis=1)
        np.testing.assert_allclose(averaged[probability_columns(grade)], expected, rtol=1e-12)
        np.testing.assert_array_equal(averaged[f"{grade}_pred"], expected.argmax(1))
        assert averaged[grade].tolist() == [0, 1, -1]


def test_the_two_averages_can_disagree():
    """One member is sure of grade 2, two lean to 0: logits follow the sure one."""
    sure, leaning = np.array([[0, 0, 12.0, 0, 0]] * 3), np.array([[2.0, 0, 0, 0, 0]] * 3)
    tables = [table_of({"kl": each}) for each in (sure, leaning, leaning)]
    assert (ensemble.average(tables, "logits")["kl_pred"] == 2).all()
    assert (ensemble.average(tables, "probabilities")["kl_pred"] == 0).all()


def test_a_second_softmax_keeps_the_order_and_changes_what_is_above_a_threshold():
    """Three classes, as its description says: probabilities of 0.21 to 0.58, and 0.20 is a half."""
    p = np.random.default_rng(0).dirichlet([1.5, 0.7, 0.7], 3000)
    twice = ensemble._mean(np.stack([p, p]), "softmax_of_mean")
    assert (twice.argmax(1) == p.argmax(1)).all()
    assert twice.min() > 0.2119
    assert twice.max() < 0.5762
    positive, before = twice[:, 1:].sum(1), p[:, 1:].sum(1)
    assert (before[positive >= 0.5] > 0.2).all()
    assert (before[positive < 0.5] < 0.205).all()
    assert (positive >= 0.5).mean() > (before >= 0.5).mean() + 0.2


@pytest.mark.parametrize("by", ensemble.AVERAGES)
def test_a_single_table_is_left_as_it_is(logits, by):
    """So that a network alone is not averaged a second time over its folds."""
    (table,) = tables = [table_of(logits[0])]
    pd.testing.assert_frame_equal(ensemble.average(tables, by), table)


def test_averages_of_averages_are_averages_of_all(logits):
    """Two models of two folds each, first over folds and then over models."""
    tables = [table_of(each) for each in logits]
    columns = probability_columns("kl")
    for by in ("probabilities", "logits"):
        pairs = [ensemble.average(tables[:2], by), ensemble.average(tables[2:], by)]
        nested, flat = ensemble.average(pairs, by), ensemble.average(tables, by)
        np.testing.assert_allclose(nested[columns], flat[columns], rtol=1e-9)


def test_rows_are_matched_by_knee(logits):
    tables = [table_of(each) for each in logits]
    shuffled = [tables[0], *(t.sample(frac=1, random_state=1) for t in tables[1:])]
    pd.testing.assert_frame_equal(ensemble.average(shuffled), ensemble.average(tables))


def test_a_probability_that_underflowed_does_not_decide():
    """A zero, as CSV or float32 leaves it, must not turn into minus infinity."""
    certain = table_of({"kl": np.array([[0.0, 500, 0, 0, 0]] * 3)})
    assert certain["kl_p0"].iloc[0] < 1e-100
    averaged = ensemble.average([certain.assign(kl_p0=0.0)] * 2, "logits")
    check_predictions(averaged)
    assert (averaged["kl_pred"] == 1).all()


def test_the_ensemble_says_what_it_is_of(logits, caplog):
    first, second = (
        table_of(each, split="test", model=model, fold=[0, 1, 1], coherence=coherence, site="A")
        for each, model, coherence in zip(logits, ("se_resnet50", "se_resnext50"), (1.0, 2.0))
    )
    with caplog.at_level(logging.WARNING):
        averaged = ensemble.average([first, second])
    assert averaged["model"].tolist() == ["se_resnet50+se_resnext50"] * 3
    assert averaged["fold"].tolist() == [0, 1, 1]
    assert averaged["split"].tolist() == ["test"] * 3
    assert averaged["site"].tolist() == ["A"] * 3
    assert "coherence" not in averaged
    assert "column coherence differs" in caplog.text
    folds = [table_of(each, model="net", fold=fold) for fold, each in enumerate(logits)]
    averaged = ensemble.average(folds)
    assert averaged["fold"].tolist() == ["0+1+2+3"] * 3
    assert averaged["model"].tolist() == ["net"] * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.iloc[:2],
            "table 2 .* same knees as table 1: 1 are .* oai subject 002, side L",
        ),
        (lambda t: t.assign(visit=12), "same knees as table 1: 6 are in one of them only"),
        (lambda t: t.assign(cohort="most"), "same knees as table 1: 6 are"),
        (
            lambda t: t.assign(kl=[0, 2, -1]),
            "another true kl than table 1 for 1 knees, such as oai",
        ),
        (
            lambda t: t.drop(columns=[c for c in t if c.startswith("jsl")]),
            "has the targets kl, table",
        ),
        (lambda t: t.assign(kl_p0=2.0), "table 2 of the ensemble: kl_p0 is not a probability"),
    ],
)
def test_tables_that_do_not_belong_together_are_refused(logits, change, message):
    with pytest.raises(UserError, match=message):
        ensemble.average([table_of(logits[0]), change(table_of(logits[1]))])


def test_nothing_to_average_and_an_unknown_way(logits):
    with pytest.raises(UserError, match="at least one"):
        ensemble.average([])
    with pytest.raises(UserError, match="'votes' is unknown: choose probabilities or logits"):
        ensemble.average([table_of(logits[0])], by="votes")


def test_measured_values_are_averaged_whatever_the_average_of_probabilities():
    first, second = random_values(5, missing=0.2), random_values(5, missing=0.2)
    second["jsw_medial_pred"] += 1
    for by in ensemble.AVERAGES:
        found = ensemble.average([first, second], by)
        np.testing.assert_allclose(found["jsw_medial_pred"], first["jsw_medial_pred"] + 0.5)
    second.loc[1, "jsw_medial"] = 99.0
    with pytest.raises(UserError, match="another true jsw_medial"):
        ensemble.average([first, second])
