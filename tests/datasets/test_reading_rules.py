"""The configs of `oai_xray` that choose among readings."""

import pytest

from knee_jax import datasets
from knee_jax.phantom.study import write_study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    write_study(root, num_subjects=12, visits=(0, 72), rows=32, progress=False)
    return root


def plan(study, tmp_path, name):
    builder = datasets.builder(f"oai_xray/{name}", tmp_path)
    plan = builder.plan_tree(study)
    files = [job.args[1] for job in plan.jobs["study"]]
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
