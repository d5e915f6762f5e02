"""The configs of `oai_xray` that choose among readings."""

import pandas as pd
import pytest

from knee_jax import datasets
from knee_jax.ingest.inventory import Rules
from knee_jax.ingest.readings import OTHER_SIGNS, read_readings
from knee_jax.phantom.study import write_study
from knee_jax.targets.grades import GRADES


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    write_study(root, num_subjects=12, visits=(0, 72), rows=32, progress=False)
    return root


def plan(study, tmp_path, name):
    builder = datasets.builder(f"oai_xray/{name}", tmp_path)
    plan = builder.plan_tree(study)
    files = [job.file for job in plan.jobs["study"]]
    unusable = [
        (file.visit, reading.unusable) for file in files for reading in file.readings.values()
    ]
    return plan, unusable


def test_project_15_alone_has_no_later_visits_and_says_so(study, tmp_path):
    plan_of_all, unusable_of_all = plan(study, tmp_path, "default")
    plan_of_15, unusable = plan(study, tmp_path, "project_15")
    assert not any(reason == "other_project" for _, reason in unusable_of_all)
    assert not any("left_out" in name for name in plan_of_all.notes)
    lost = [visit for visit, reason in unusable if reason == "other_project"]
    assert set(lost) == {72}
    left_out = sum(count for name, count in plan_of_15.notes.items() if "left_out" in name)
    assert left_out >= len(lost) > 10


def test_file_order_ignores_the_projects(study, tmp_path):
    plan_of_order, unusable = plan(study, tmp_path, "file_order")
    assert not any(reason == "other_project" for _, reason in unusable)
    assert not any("left_out" in name for name in plan_of_order.notes)


def test_subjects_are_planned_for(study, tmp_path):
    plan_of_all, _ = plan(study, tmp_path, "default")
    assert plan_of_all.subjects["subject"].is_unique
    assert set(plan_of_all.subjects["sex"]) <= {"M", "F"}


def test_whole_readings_are_those_with_thirteen_values(study, tmp_path):
    """Counted again with pandas, straight from the tables."""
    expected = 0
    for code in ("00", "08"):
        table = pd.read_csv(study / "tables" / f"kxr_sq_bu{code}.txt", sep="|", dtype=str)
        table.columns = table.columns.str.upper()
        signs = table.columns[table.columns.str.match(r"V\d\dXR")]
        assert len(signs) == 13
        whole = table[signs].apply(pd.to_numeric, errors="coerce").notna().all(axis=1)
        filmed = table[whole].drop_duplicates(["ID", "SIDE"])
        expected += len(filmed)
    _, unusable = plan(study, tmp_path, "oarsi")
    kept = [visit for visit, reason in unusable if not reason]
    assert len(kept) == expected < len(unusable)
    assert {"not_wholly_read"} < {reason for _, reason in unusable}
    assert sum(reason == "not_wholly_read" for _, reason in unusable) > 0


def test_a_row_with_every_sign_counts_before_one_without(make_table, tmp_path):
    rows = [("1", 1, 15, 2, ""), ("1", 1, 37, 3, 1), ("2", 1, 15, 1, "")]
    make_table(tmp_path, rows)
    found, _ = read_readings(tmp_path, [0], Rules(fully_read=True))
    assert found["1", "R", 0].grades[0] == 3
    assert found["1", "R", 0].fully_read
    assert not found["2", "R", 0].fully_read
    found, _ = read_readings(tmp_path, [0])
    assert found["1", "R", 0].grades[0] == 2


@pytest.fixture
def make_table():
    """Writes month 0; a row is (subject, side, project, KL, medial attrition), all else is 0."""

    def write(folder, rows):
        signs = [f"V00XR{name.upper()}" for name in (*GRADES, *OTHER_SIGNS)]
        lines = [["ID", "SIDE", "READPRJ", *signs]]
        lines += [[*row[:3], row[3], *[0] * (len(signs) - 2), row[4]] for row in rows]
        text = "\n".join("|".join(map(str, line)) for line in lines)
        (folder / "kxr_sq_bu00.txt").write_text(text + "\n")

    return write
