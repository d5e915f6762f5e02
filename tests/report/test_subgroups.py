import numpy as np

from knee_jax.metrics import subgroups
from knee_jax.report.subgroups import ATTRIBUTES, subgroups_section
from knee_jax.report.tables import format_interval, format_value
from tests.factories import endpoint, random_predictions

TASK = endpoint("progression_any")


def test_a_row_for_each_subgroup_and_those_of_one_class_are_said():
    table = random_predictions(30, names=("progression",))
    table["sex"] = np.where(np.arange(len(table)) % 3 == 0, "F", "M")
    table["kl_baseline"] = np.where(table["progression"] == 0, 0, 2)
    scored = subgroups.score(table, TASK, 20)
    (shown,) = subgroups_section(scored, TASK).tables
    assert shown.title == "Progression, fast or slow"
    rows = {row[0]: row for row in shown.rows}
    assert list(rows) == ["KL at baseline: KL 0", "KL at baseline: KL 2", "Sex: F", "Sex: M"]
    negative = (table["progression"] == 0).sum()
    assert rows["KL at baseline: KL 0"][1:] == (str(negative), "0 (0%)", *2 * ["one class only"])
    men = next(each for each in scored if each.name == "M")
    cells = [f"{format_value(s)}\n{format_interval(s)}" for s in men.scores.values()]
    assert rows["Sex: M"][1] == str(men.n)
    assert list(rows["Sex: M"][3:]) == cells


def test_without_anything_to_divide_by_it_is_said():
    table = random_predictions(5, names=("progression",))
    section = subgroups_section(subgroups.score(table, TASK), TASK)
    assert section.tables == ()
    assert "Not shown" in section.notes[0]


def test_every_attribute_has_a_title():
    table = random_predictions(9, names=("progression",))
    table = table.assign(kl_baseline=1, sex="F", age=50, bmi=30, site="A")
    assert list(subgroups.divide(table)) == list(ATTRIBUTES)
