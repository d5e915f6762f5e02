"""The papers' numbers of knees, and a prepared set beside them."""

import pandas as pd
import pytest

from knee_jax.errors import UserError
from knee_jax.papers import knees
from knee_jax.targets.grades import GRADES


def printed(dataset):
    return knees.compare(dataset, pd.DataFrame(columns=["subject", "progression", *GRADES]))


@pytest.mark.parametrize(
    ("dataset", "total"),
    [
        ("oai_xray/oarsi", "knees"),
        ("most_xray/oarsi", "knees"),
        ("oai_xray/default", "knees_with_every_grade"),
    ],
)
def test_each_grade_s_numbers_add_up_to_the_knees(dataset, total):
    paper = printed(dataset).set_index("quantity")["paper"]
    for grade in GRADES:
        assert paper[paper.index.str.startswith(f"{grade}_")].sum() == paper[total]


def test_the_numbers_of_the_mr_study_add_up():
    paper = printed("oai_mri/sagittal_published").set_index("quantity")["paper"]
    assert paper[paper.index.str.startswith("progression_")].sum() == paper["knees"] == 4866
    assert paper[paper.index.str.startswith("kl_")].sum() == 4866


def test_knees_are_counted_by_grade_where_every_grade_is_known():
    rows = [("1", *[2, 0, 1, 0, 3, 0, 1]), ("1", *[2, -1, 1, 0, 3, 0, 1]), ("2", *[-1] * 7)]
    found = knees.quantities(pd.DataFrame(rows, columns=["subject", *GRADES]))
    assert found["knees"] == 3
    assert found["subjects"] == 2
    assert found["knees_with_every_grade"] == found["knees_without_a_grade"] == 1
    assert found["kl_2"] == found["ostm_3"] == found["jsm_1"] == 1
    assert sum(found[f"kl_{grade}"] for grade in range(5)) == 1


def index_of(dataset):
    """The index of a set that has the paper's knees, for its KL and its numbers of knees."""
    paper = printed(dataset).set_index("quantity")["paper"]
    columns = {}
    for grade in GRADES:
        of_grade = paper[paper.index.str.startswith(f"{grade}_")]
        columns[grade] = [
            int(name.rpartition("_")[2]) for name, count in of_grade.items() for _ in range(count)
        ]
    return pd.DataFrame(columns | {"subject": "1"})


def test_a_set_of_the_paper_s_knees_passes_and_another_is_named():
    index = index_of("oai_xray/oarsi")
    knees.check("oai_xray/oarsi", index)
    with pytest.raises(UserError, match=r"knees: 19,703 instead of 19,704; kl_4: 1,401 instead"):
        knees.check("oai_xray/oarsi", index.iloc[:-1])


def test_a_set_that_no_paper_counts_is_named():
    with pytest.raises(UserError, match="no paper counts phantom_xray/demo; choose most_xray"):
        knees.check("phantom_xray/demo", index_of("most_xray/oarsi"))
