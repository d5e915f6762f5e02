"""Targets: labels, outputs, tables, and the protocol that every kind keeps."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from knee_jax import targets
from knee_jax.errors import UserError
from knee_jax.targets.grades import GRADES, NUM_CLASSES
from knee_jax.targets.kinds import (
    MISSING,
    Binary,
    Classes,
    Continuous,
    Nominal,
    Ordinal,
    Target,
)
from knee_jax.targets.places import Places

KL = np.array([0, 1, 2, 3, 4, MISSING], np.int8)
ALL = tuple(targets.all_targets().values())
INDEX = pd.DataFrame(dict.fromkeys(GRADES, np.minimum(KL, 3)) | {"kl": KL}).assign(
    progression=np.array([0, 2, 1, 0, -1, 1], np.int8),
    jsw_medial=np.array([4.5, np.nan, 3.0, 2.0, 1.0, 5.0], np.float32),
    keypoints_valid=np.array([True, True, True, False, True, False]),
)


def test_there_is_one_of_every_kind():
    for kind in (Ordinal, Nominal, Binary, Continuous, Places):
        assert any(isinstance(target, kind) for target in ALL)
    names = [target.name for target in ALL]
    assert names[:7] == list(GRADES)
    assert {"kl0_vs_kl2", "progression", "jsw_medial"} <= set(names)
    assert len(names) == len(set(names))


def index_of(target):
    """`INDEX`, with a column for a target that is not named there; the last knee was not read."""
    if target.source in INDEX:
        return INDEX
    values = np.append(np.arange(5), target.missing) % max(target.num_outputs, 2)
    values[-1] = target.missing
    return INDEX.assign(**{target.source: values.astype(target.dtype)})


@pytest.mark.parametrize("target", ALL, ids=lambda target: target.name)
def test_every_target_keeps_the_protocol(target):
    assert isinstance(target, Target)
    index = index_of(target)
    labels = target.labels(index)
    assert labels.dtype == target.dtype
    known = np.asarray(target.is_known(labels))
    assert known.any()
    assert not known.all()
    np.testing.assert_array_equal(target.is_known(jnp.asarray(labels)), known)
    # A knee with a label was read; it may be read and belong to no class.
    assert (target.is_read(index) | ~known).all()
    assert not target.is_read(index.drop(columns=target.source)).any()
    outputs = np.random.default_rng(0).normal(size=(6, target.num_outputs)).astype(np.float32)
    decoded = np.asarray(target.decode(jnp.asarray(outputs)))
    assert decoded.dtype == np.float32
    identity = {"subject": list("abcdef"), "side": "L", "visit": 0}
    table = pd.DataFrame(identity | {target.name: labels} | target.predictions(decoded))
    if isinstance(target, Places):
        true = np.where(known[:, None, None], decoded[..., :2] + 3, np.nan)
        truths = pd.DataFrame(target.truths(true) | {"spacing_mm": np.full(6, 0.5)})
        table = pd.concat([table.drop(columns=target.name), truths], axis=1)
    assert set(target.columns()) <= set(table)
    assert target.columns()[0] == target.name
    for fault in target.faults(table):
        assert not fault.wrong.any(), fault
    scorer = target.scorer(table[known])
    values = scorer.statistics(np.ones((2, known.sum()), np.int64))
    assert set(target.table_metrics) <= set(values)
    assert set(target.headlines) <= set(values)
    assert all(value.shape == (2,) for value in values.values())
    assert scorer.num_samples == known.sum()
    averaged = target.average(
        np.stack([table[target.output_columns()].to_numpy(np.float64)] * 3), lambda s: s.mean(0)
    )
    for column, value in averaged.items():
        np.testing.assert_allclose(value, table[column], rtol=1e-6)
    by = target.selections[-1]
    assert np.isfinite(target.selection_score(table, by))
    assert np.isnan(target.selection_score(table[~known], by))
    right = target.agrees(labels[known], labels[known])
    assert np.all(right)
    assert target.format(target.missing) == "-"
    assert target.format(labels[known][0]) != "-"
    assert target.stratify_by in index


def test_grades_are_ordinal_and_read_where_they_are():
    kl, osfl, jsm = targets.get_all(["kl", "osfl", "jsm"])
    assert [t.num_outputs for t in targets.get_all(GRADES)] == list(NUM_CLASSES.values())
    assert (kl.region, osfl.region, jsm.region) == ("all", "fl", "all")
    assert (kl.class_label(3), osfl.class_label(0)) == ("KL 3", "OSFL 0")
    assert kl.labels(INDEX).tolist() == KL.tolist()
    assert kl.positive_from == 2


def test_a_label_that_is_no_class_is_refused():
    knees = INDEX.assign(progression=np.array([0, 1, 3, 0, -1, 1], np.int8))
    with pytest.raises(UserError, match="column progression of the knees holds 3, not a class"):
        targets.get("progression").labels(knees)


def test_kl0_vs_kl2_keeps_two_grades_only():
    early = targets.get("kl0_vs_kl2")
    assert early.labels(INDEX).tolist() == [0, MISSING, 1, MISSING, MISSING, MISSING]
    assert early.is_read(INDEX).tolist() == [True] * 5 + [False]
    assert [early.class_label(c) for c in (0, 1)] == ["KL 0", "KL 2"]
    assert early.source == "kl"


def test_progression_is_a_column_of_its_own():
    progression = targets.get("progression")
    assert progression.labels(INDEX).tolist() == [0, 2, 1, 0, MISSING, 1]
    assert progression.class_names == ("none", "fast", "slow")
    assert progression.labels(INDEX[["kl"]]).tolist() == [MISSING] * 6
    assert progression.stratify_by == "progression"


def test_a_width_is_decoded_in_millimetres():
    width = targets.get("jsw_medial")
    decoded = width.decode(jnp.array([[0.0], [1.0], [-2.0]]))
    np.testing.assert_allclose(decoded, [4.0, 5.5, 1.0])
    np.testing.assert_allclose(width.standardise(np.asarray(decoded)), [0, 1, -2])
    assert width.labels(INDEX[["kl"]]).dtype == np.float32
    assert np.isnan(width.labels(INDEX[["kl"]])).all()
    assert width.agrees(4.0, 4.5)
    assert not width.agrees(4.0, 4.6)
    assert not width.agrees(np.nan, 4.0)
    assert width.format(3.14159) == "3.14"


def test_probabilities_are_a_softmax_in_float32():
    (kl,) = targets.of_kind(["kl"], Classes)
    logits = np.random.default_rng(0).normal(size=(5, 5))
    found = kl.decode(jnp.asarray(logits, jnp.bfloat16))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
    assert kl.predictions(np.eye(5)[[3, 1]])["kl_pred"].tolist() == [3, 1]


def test_dichotomies_are_of_known_classes():
    found = targets.dichotomies()
    assert {"kl_ge_2", "progression_any", "kl0_vs_kl2"} <= set(found)
    for endpoint in found.values():
        for target in targets.of_kind(endpoint.targets, Classes):
            assert 0 < endpoint.lowest < target.num_outputs
        assert len(targets.of_kind(endpoint.targets, Classes)) == len(endpoint.targets)
    assert found["progression_any"].table_metrics
    assert not found["kl_ge_2"].table_metrics


def test_an_unknown_target_is_named_with_the_nearest():
    with pytest.raises(UserError, match="unknown target 'jsw'; did you mean 'jsm'"):
        targets.get("jsw")
    with pytest.raises(UserError, match="choose from: kl, osfl"):
        targets.get_all(["kl", "xyzzy"])
