import jax.numpy as jnp
import numpy as np
import pandas as pd

from knee_jax.grades import (
    DERIVED,
    GRADES,
    MISSING,
    NUM_CLASSES,
    OWN,
    TARGETS,
    TITLES,
    class_name,
    labels,
    source,
)

KL = np.array([0, 1, 2, 3, 4, MISSING], np.int8)


def test_kl0_vs_kl2_keeps_two_grades_only():
    wanted = [0, MISSING, 1, MISSING, MISSING, MISSING]
    grades = np.full((6, len(GRADES)), 3, np.int8)
    grades[:, 0] = KL
    table = pd.DataFrame(grades, columns=list(GRADES))
    for given in (grades, jnp.asarray(grades), table):
        found = labels(given, "kl0_vs_kl2")
        assert found.tolist() == wanted
        assert found.dtype == np.int8
        assert labels(given, "kl").tolist() == KL.tolist()
        assert labels(given, "jsm").tolist() == [3] * 6


def test_progression_is_a_column_of_its_own():
    table = pd.DataFrame({"kl": KL, "progression": np.array([0, 2, 1, 0, -1, 1], np.int8)})
    assert labels(table, "progression").tolist() == [0, 2, 1, 0, MISSING, 1]
    assert [class_name("progression", c) for c in range(3)] == ["none", "fast", "slow"]
    unknown = labels(table[["kl"]], "progression")
    assert unknown.tolist() == [MISSING] * 6
    assert unknown.dtype == np.int8


def test_every_target_has_a_title_and_its_classes():
    assert set(TITLES) == set(NUM_CLASSES) == set(TARGETS)
    assert {*GRADES, *DERIVED, *OWN} == set(TARGETS)
    for target, (grade, classes) in DERIVED.items():
        assert grade in GRADES
        assert set(classes) < set(range(NUM_CLASSES[grade]))
        assert sorted(classes.values()) == list(range(NUM_CLASSES[target]))


def test_a_target_is_made_of_one_grade():
    assert [source(target) for target in (*GRADES, "kl0_vs_kl2")] == [*GRADES, "kl"]
