"""An index of runs of every condition, and the config that each is nearest to."""

import json

import pytest

from knee_jax.errors import UserError
from knee_jax.report import runs
from tests.report.test_page import Page

BASES = {"a": {"x": 1, "y": 2, "data.dataset": "s"}, "a:b": {"x": 1, "y": 5, "data.dataset": "s"}}


def saved(folder, fields, metrics=None, environment=None):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(fields))
    if metrics is not None:
        (folder / "metrics.json").write_text(metrics)
    if environment:
        (folder / "environment.json").write_text(json.dumps(environment))
    return folder


def scores(value, part="test"):
    estimate = {"value": value, "low": None, "high": None, "std": None, "n": 9}
    return json.dumps({part: {"kl": {"quadratic_kappa": estimate}}})


@pytest.fixture
def folder(tmp_path):
    fields = {"x": 1, "y": 2, "data": {"dataset": "s"}}
    saved(tmp_path / "good", fields, scores(0.5), {"started": "2026-11-30 10:00"})
    saved(tmp_path / "deep" / "better", fields | {"y": 5}, scores(0.75, "validation"))
    saved(tmp_path / "nan", fields, scores(None))
    saved(tmp_path / "killed", fields)
    (tmp_path / "killed" / "checkpoints" / "40").mkdir(parents=True)
    saved(tmp_path / "damaged", fields, "{")
    saved(tmp_path / "strange", fields, '{"test": {"kl": 3}}')
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("[")
    # A fold is a part of its run.
    saved(tmp_path / "good" / "fold_0", fields)
    (tmp_path / "nothing").mkdir()
    return tmp_path


def index(folder, sort=""):
    places = list(runs.find(folder))
    found = [runs.read(each, str(each.relative_to(folder))) for each in places]
    return runs.runs_table(found, BASES, sort)


def test_every_run_has_a_row_whatever_its_condition(folder):
    rows = {row[0]: row[1:] for row in index(folder).rows}
    assert set(rows) == {*("good", "deep/better", "nan", "killed", "damaged", "strange", "broken")}
    assert rows["good"] == ("2026-11-30 10:00", "a", "s", "scored: test", "0.500\n")
    assert rows["deep/better"][1:] == ("a:b", "s", "scored: validation", "0.750\n")
    assert rows["nan"][-1] == "undefined\n"
    assert rows["killed"][3:] == ("trained to step 40, not scored", "")
    for name in ("damaged", "strange"):
        assert rows[name][3] == "metrics.json is damaged"
    assert rows["broken"][1:4] == ("unknown", "unknown", "config.json is damaged")


def test_what_differs_from_the_nearest_config_is_named():
    fields = {"x": 1, "y": 5, "z": [1, 2], "data.dataset": "t", "paper_row": "r"}
    assert runs.describe_config(fields, BASES) == "a:b\ndata.dataset=t, z=[1, 2]"
    assert runs.describe_config({"x": 1, "y": 2, "data.dataset": "s"}, BASES) == "a"


def test_metrics_are_sorted_from_the_highest_and_words_in_order(folder):
    assert [row[0] for row in index(folder, "kappa").rows][:2] == ["deep/better", "good"]
    names = [row[0] for row in index(folder, "run").rows]
    assert names == sorted(names)
    with pytest.raises(UserError, match="--sort=mass: the columns are Run, Begun"):
        index(folder, "mass")


def test_many_metrics_share_a_column(folder):
    places = list(runs.find(folder))
    found = [runs.read(each, each.name) for each in places]
    table = runs.runs_table(found, BASES, "kappa", most=0)
    assert table.header[-1] == "Figures"
    assert table.rows[0][-1] == "KL grade: Quadratic kappa 0.750 "


def test_the_page_can_be_sorted_and_asks_no_other_host(folder):
    runs.write_index(folder / "runs.html", folder, index(folder))
    text = (folder / "runs.html").read_text()
    page = Page(text)
    for words in ("7 runs in", "of which 3 are scored", "trained to step 40", "a:b"):
        assert words in page.text
    assert text.count("<script>") == 1
    assert "src=" not in text


def test_a_thousand_runs_have_a_table_with_the_best_first(tmp_path):
    fields = {"x": 1, "data": {"dataset": "s"}}
    for number in range(1000):
        saved(tmp_path / f"{number:04d}", fields | {"y": number}, scores(number / 1000))
    table = index(tmp_path, "kappa")
    assert len(table.rows) == 1000
    assert table.rows[0][0] == "0999"


def test_a_folder_that_is_none_is_named(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        list(runs.find(tmp_path / "none"))
    assert list(runs.find(tmp_path)) == []


def test_first_screens_stand_side_by_side(folder):
    found = [runs.read(folder / name, name) for name in ("good", "deep/better", "killed")]
    rows = {row[0]: row[1:] for row in runs.first_screens(found).rows}
    assert rows["KL grade: Quadratic kappa"] == ("0.500\n", "0.750\n", "")
    assert rows["Begun"] == ("2026-11-30 10:00", "", "")
    assert rows["Scored"] == ("test", "validation", "no")
    table = runs.config_differences(found)
    assert table.rows == (("y", "2", "5", "2"),)
    assert runs.config_differences(found[:1]) is None
