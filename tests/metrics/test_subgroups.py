import numpy as np
import pytest
from sklearn import metrics as sk

from knee_jax.metrics import subgroups
from knee_jax.targets.kinds import MISSING
from tests.factories import endpoint

TASK = endpoint("progression_any")


@pytest.fixture
def table(make_table):
    """Progression of knees of which something is known, and in places is not."""
    table = make_table(50, missing=0.1, names=("progression",))
    rng = np.random.default_rng(1)
    number = len(table)
    return table.assign(
        kl_baseline=rng.integers(-1, 4, number),
        sex=rng.choice(["F", "M"], number),
        age=rng.choice([45.0, 54.9, 55.0, 64.0, 65.0, 79.0, np.nan], number),
        bmi=rng.choice([22, 25, 29.9, 30, 41], number),
        site=rng.choice(["A", "D"], number),
    )


def test_every_row_has_a_group(table):
    groups = subgroups.divide(table)
    assert list(groups) == ["kl_baseline", "sex", "age", "bmi", "site"]
    for group in groups.values():
        assert group.notna().all()
    for row, grade in enumerate(table["kl_baseline"]):
        expected = "unknown" if grade == MISSING else f"KL {grade}"
        assert groups["kl_baseline"].iloc[row] == expected
    ages = dict(zip(table["age"], groups["age"]))
    assert {age: name for age, name in ages.items() if age == age} == {
        **dict.fromkeys((45.0, 54.9), "< 55"),
        **dict.fromkeys((55.0, 64.0), "55 to < 65"),
        **dict.fromkeys((65.0, 79.0), ">= 65"),
    }
    assert set(groups["age"][table["age"].isna()]) == {"unknown"}
    assert set(groups["bmi"][table["bmi"] >= 30]) == {">= 30"}
    assert set(groups["bmi"][table["bmi"].between(25, 29.9)]) == {"25 to < 30"}


def test_a_subgroup_is_scored_as_a_table_of_its_own(table):
    read = table[table["progression"] != MISSING]
    found = subgroups.score(table, TASK, 50)
    by_name = {(each.attribute, each.name): each for each in found}
    assert ("age", "unknown") in by_name
    assert ("kl_baseline", "KL 4") not in by_name
    for attribute in ("kl_baseline", "sex", "age", "bmi", "site"):
        assert sum(each.n for each in found if each.attribute == attribute) == len(read)
    knees = read[read["sex"] == "F"]
    positive = knees["progression"] > 0
    score = knees["progression_p1"] + knees["progression_p2"]
    women = by_name["sex", "F"]
    assert (women.n, women.positive) == (len(knees), positive.sum())
    expected = {
        "average_precision": sk.average_precision_score(positive, score),
        "roc_auc": sk.roc_auc_score(positive, score),
    }
    assert list(women.scores) == list(expected)
    for metric, value in expected.items():
        estimate = women.scores[metric]
        assert estimate["value"] == pytest.approx(value, rel=1e-6)
        assert estimate["low"] < value < estimate["high"]
        assert estimate["n"] == women.n


def test_a_group_of_one_class_is_there_without_a_score(table):
    table.loc[table["kl_baseline"] == 0, "progression"] = 0
    table.loc[table["kl_baseline"] == 3, "progression"] = 2
    found = {each.name: each for each in subgroups.score(table, TASK, 10)}
    assert found["KL 0"].scores is None
    assert found["KL 0"].positive == 0
    assert found["KL 3"].scores is None
    assert found["KL 3"].positive == found["KL 3"].n > 0
    tidy = subgroups.tidy(list(found.values()))
    of_group = tidy[tidy["group"] == "KL 0"]
    assert of_group["metric"].tolist() == list(subgroups.METRICS)
    assert of_group["value"].isna().all()
    assert (of_group["n"] == found["KL 0"].n).all()
    assert tidy.loc[tidy["group"] == "F", "value"].notna().all()


def test_what_nothing_is_known_of_does_not_divide(table):
    blank = table.assign(site="", sex=np.nan, kl_baseline=MISSING)
    assert list(subgroups.divide(blank)) == ["age", "bmi"]
    assert (
        subgroups.score(table[[c for c in table if c not in subgroups.divide(table)]], TASK) == []
    )
