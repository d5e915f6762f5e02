import dataclasses

import numpy as np

from knee_jax.report.examples import WIDTH, choose_examples, example_drawing
from tests.factories import random_predictions, random_values


def test_examples_are_grouped_by_kl_or_else_by_the_first_grade(examples):
    assert [example.group for example in examples] == ["correct", "wrong", "unread"]
    assert examples[0].target.name == "kl"
    no_kl = type(examples[0])(examples[0].image, {"jsm": 1}, {"jsm": 0})
    assert (no_kl.target.name, no_kl.group) == ("jsm", "wrong")


def test_the_worst_mistakes_come_first_then_right_ones_of_different_grades(table):
    table.loc[:9, "kl"] = -1
    chosen = choose_examples(table, num_each=10)
    assert len(chosen) == len(set(chosen)) == 15
    knees = table.iloc[chosen]
    assert (knees["kl"] != -1).all()
    error = (knees["kl"] - knees["kl_pred"]).abs().to_numpy()
    assert (error[:10] > 0).all()
    assert (np.diff(error[:10]) <= 0).all()
    left = table.drop(index=chosen).query("kl != -1")
    assert error[9] >= (left["kl"] - left["kl_pred"]).abs().max()
    np.testing.assert_array_equal(error[10:], 0)
    assert knees["kl"].tolist()[10:] == [0, 1, 2, 3, 4]
    # Among equal mistakes the surest is the worst.
    surest = knees[[f"kl_p{c}" for c in range(5)]].max(axis=1).to_numpy()[:10]
    assert all(surest[i] >= surest[i + 1] for i in range(9) if error[i] == error[i + 1])


def test_between_classes_without_order_all_mistakes_are_alike():
    table = random_predictions(30, names=("progression",))
    chosen = table.iloc[choose_examples(table, "progression", num_each=6)].head(6)
    assert (chosen["progression"] != chosen["progression_pred"]).all()
    surest = chosen[[f"progression_p{c}" for c in range(3)]].max(axis=1)
    assert (np.diff(surest) <= 0).all()


def test_there_may_be_fewer_than_wanted(table):
    perfect = table.assign(kl_pred=table["kl"])
    assert len(choose_examples(perfect, num_each=8)) == 4
    assert len(choose_examples(perfect.head(2), num_each=8)) == 2
    assert choose_examples(perfect.assign(kl=-1)) == []


def test_a_caption_names_what_is_wrong(examples):
    first, second, third = (example_drawing("knee", each) for each in examples)
    assert first.caption == "KL 2, predicted 2; JSN M 1, predicted 0. a & <b>"
    assert second.alt == "Knee radiograph, KL 0, predicted 3"
    assert third.caption == "KL unread, predicted 1. unread knee"
    assert first.content.shape == (WIDTH, WIDTH, 3)


def test_measured_values_count_as_right_within_their_tolerance(examples):
    knee = type(examples[0])(examples[0].image, {"jsw_medial": 4.0}, {"jsw_medial": 4.5})
    assert knee.group == "correct"
    worse = dataclasses.replace(knee, prediction={"jsw_medial": 4.6})
    assert worse.group == "wrong"
    assert dataclasses.replace(knee, truth={"jsw_medial": np.nan}).group == "unread"
    table = random_values(40, missing=0.2)
    chosen = table.iloc[choose_examples(table, "jsw_medial", num_each=6)]
    errors = (chosen["jsw_medial"] - chosen["jsw_medial_pred"]).abs()
    assert errors.le(0.5).tolist() == [False] * 6 + [True] * 3
    assert (np.diff(errors[:6]) <= 0).all()
