import re

import numpy as np
import pandas as pd
import pytest

from knee_jax.errors import UserError
from knee_jax.metrics.predictions import (
    check_predictions,
    first_visit,
    read_predictions,
    subjects_of,
    targets_in,
    write_predictions,
)
from knee_jax.targets.grades import GRADES
from tests.factories import random_predictions, random_values


def test_a_table_survives_the_csv(make_table, tmp_path):
    table = make_table(missing=0.2)
    table.to_csv(tmp_path / "test.csv", index=False)
    back = read_predictions(tmp_path / "test.csv")
    assert back["subject"].iloc[0] == "00000"  # leading zeros are part of the name
    pd.testing.assert_frame_equal(back, table, check_dtype=False)


def test_written_tables_keep_six_digits_and_other_columns(make_table, tmp_path):
    table = make_table(4).assign(coherence_given=-12.5, cohort="oai", note="said twice")
    write_predictions(tmp_path / "test.csv", table)
    back = read_predictions(tmp_path / "test.csv")
    pd.testing.assert_frame_equal(back, table, check_dtype=False, rtol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["test.csv"]


def test_the_first_visit_is_month_zero(make_table):
    table = make_table(3)
    first = first_visit(table)
    assert (first["visit"] == 0).all()
    assert len(first) == len(table) / 2
    pd.testing.assert_frame_equal(first, table[table["visit"] == 0].reset_index(drop=True))
    assert first_visit(first.assign(visit=12)).empty
    check_predictions(first_visit(table.assign(visit=table["visit"].map({0: "00", 24: "24"}))))


def test_the_grades_come_in_their_order(make_table):
    table = make_table(2)
    assert targets_in(table[list(reversed(table.columns))]) == list(GRADES)
    assert targets_in(make_table(2, names=("jsm", "kl"))) == ["kl", "jsm"]


def test_cohorts_may_share_subject_numbers(make_table):
    table = pd.concat(
        [make_table(3).assign(cohort="oai"), make_table(3).assign(cohort="most")],
        ignore_index=True,
    )
    check_predictions(table)
    assert len(set(subjects_of(table))) == 6


def damaged(table, row, column, value):
    table = table.astype({column: object})
    table.loc[row, column] = value
    return table


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("kl", 5, "kl is not one of -1, 0, 1, 2, 3, 4 in row 4 (found 5)"),
        ("osfl", 4, "osfl is not one of -1, 0, 1, 2, 3 in row 4 (found 4)"),
        ("kl", 1.5, "kl is not one of"),
        ("kl", None, "kl is not one of"),
        ("kl_pred", -1, "kl_pred is not one of 0, 1, 2, 3, 4 in row 4 (found -1)"),
        ("kl_p2", np.nan, "kl_p2 is not a probability in row 4 (found nan)"),
        ("kl_p2", "many", "kl_p2 is not a probability in row 4 (found many)"),
        ("kl_p2", -0.1, "kl_p2 is not a probability in row 4 (found -0.1)"),
        ("kl_p2", 1.2, "kl_p2 is not a probability in row 4 (found 1.2)"),
        ("kl_p2", 0.99, "kl_p0 to kl_p4 do not sum to 1 in row 4"),
        ("kl_p2", 0.0, "kl_p0 to kl_p4 do not sum to 1 in row 4"),
        ("subject", None, "subject is empty in row 4"),
        ("side", "L", "row 4 repeats the knee subject 00000, side L, visit 24"),
    ],
)
def test_a_bad_value_is_named(make_table, column, value, message):
    table = make_table(5)
    assert tuple(table.loc[3, ["subject", "side", "visit"]]) == ("00000", "R", 24)
    with pytest.raises(UserError, match=re.escape(f"test.csv: {message}")):
        check_predictions(damaged(table, 3, column, value), "test.csv")


@pytest.mark.parametrize("column", ["subject", "visit", "kl", "jsm_pred", "kl_p4"])
def test_a_missing_column_is_named(make_table, column):
    with pytest.raises(UserError, match=f"predictions: lacks the column {column}$"):
        check_predictions(make_table(2).drop(columns=column))


def test_a_table_without_grades_or_rows(make_table):
    with pytest.raises(UserError, match="has no target"):
        check_predictions(make_table(2, names=()))
    with pytest.raises(UserError, match="has no rows"):
        check_predictions(make_table(2).head(0))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such predictions table"),
        (b"", "is empty"),
        (b"a,b\n1,2,3\n1,2,3,4,5\n", "line 2 has 3 fields, the header 2"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe\x00", "byte 1 .0x89., in line 1, is not UTF-8"),
        (b"subject,side,visit\n1,L,0\n", "has no target"),
    ],
)
def test_a_file_that_is_no_table(tmp_path, content, message):
    path = tmp_path / "test.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_predictions(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("jsw_medial", "wide", r"jsw_medial is not a number \(mm\), nor empty in row 3"),
        ("jsw_medial_pred", np.nan, r"jsw_medial_pred is not a number \(mm\) in row 3"),
        ("jsw_medial_pred", np.inf, r"jsw_medial_pred is not a number \(mm\) in row 3"),
    ],
)
def test_measured_values_are_numbers_and_labels_may_be_missing(column, value, problem):
    table = random_values(4, missing=0.3)
    check_predictions(table)
    table[column] = table[column].astype(object)
    table.loc[2, column] = value
    with pytest.raises(UserError, match=problem):
        check_predictions(table)


def test_joined_tables_are_not_taken_for_repeats():
    """`pd.concat` keeps the labels of the rows, which then repeat."""
    first, second = (random_predictions(5, seed).assign(cohort=c) for seed, c in enumerate("AB"))
    check_predictions(pd.concat([first, second]))
    with pytest.raises(UserError, match="row 11 repeats the knee"):
        check_predictions(pd.concat([first, first]))
