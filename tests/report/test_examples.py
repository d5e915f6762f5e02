import dataclasses

import numpy as np

from knee_jax.report.examples import choose_examples
from tests.factories import random_values


def test_examples_are_grouped_by_kl_or_else_by_the_first_grade(examples):
    assert [example.group for example in examples] == ["correct", "wrong", "unread"]
    assert examples[0].target.name == "kl"
    no_kl = type(examples[0])(examples[0].image, {"jsm": 1}, {"jsm": 0})
    assert (no_kl.target.name, no_kl.group) == ("jsm", "wrong")


def test_chosen_are_correct_then_wrong_and_of_different_grades(table):
    table.loc[:9, "kl"] = -1
    chosen = choose_examples(table, num_each=5)
    assert len(chosen) == len(set(chosen)) == 10
    knees = table.iloc[chosen]
    assert (knees["kl"] != -1).all()
    right = (knees["kl"] == knees["kl_pred"]).to_numpy()
    np.testing.assert_array_equal(right, [True] * 5 + [False] * 5)
    assert knees["kl"].tolist() == [0, 1, 2, 3, 4] * 2


def test_the_choice_is_by_chance_and_repeats(table):
    assert choose_examples(table, seed=1) == choose_examples(table, seed=1)
    assert choose_examples(table, seed=1) != choose_examples(table, seed=2)


def test_there_may_be_fewer_than_wanted(table):
    perfect = table.assign(kl_pred=table["kl"])
    assert len(choose_examples(perfect, num_each=5)) == 5
    assert len(choose_examples(perfect.head(2), num_each=5)) == 2


def test_measured_values_count_as_right_within_their_tolerance(examples):
    knee = type(examples[0])(examples[0].image, {"jsw_medial": 4.0}, {"jsw_medial": 4.5})
    assert knee.group == "correct"
    worse = dataclasses.replace(knee, prediction={"jsw_medial": 4.6})
    assert worse.group == "wrong"
    assert dataclasses.replace(knee, truth={"jsw_medial": np.nan}).group == "unread"
    table = random_values(40, missing=0.2)
    chosen = table.iloc[choose_examples(table, "jsw_medial", num_each=6)]
    errors = (chosen["jsw_medial"] - chosen["jsw_medial_pred"]).abs()
    assert errors.le(0.5).tolist() == [True] * 6 + [False] * 6
