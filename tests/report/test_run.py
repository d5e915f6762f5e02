"""Sections of a run's report."""

import pytest

from knee_jax.config.load import parse
from knee_jax.configs import kpn, oarsi
from knee_jax.errors import UserError
from knee_jax.metrics import grade_coherence as coherence
from knee_jax.report import run
from knee_jax.training.run import set_up


def test_the_title_names_networks_and_cohorts():
    assert run.title_of(parse(kpn.get_config("demo")), ()) == (
        "phantom_xray/demo read by keypoint_pooling"
    )
    assert run.title_of(parse(oarsi.get_config()), ("a", "b")) == (
        "phantom_xray/full read by a and b, tested on phantom_most/full"
    )


def test_what_cannot_be_compared_with_the_paper_is_said():
    config = kpn.get_config()
    assert len(run.remarks_on(parse(config))) == 1
    assert len(run.remarks_on(parse(kpn.get_config("demo")))) == 2
    config.data.dataset = "kneekl224"
    assert run.remarks_on(parse(config)) == ()
    config.data.test_dataset, config.data.split = "phantom_most/demo", "k_fold"
    assert "NOT comparable" in run.remarks_on(parse(config))[0]


def test_a_cohort_too_small_for_a_listing_has_a_report_nevertheless(
    config, tmp_path, tiny_data_dir, monkeypatch
):
    experiment = set_up(parse(config), tmp_path, tiny_data_dir)
    (listed, _) = run.coherence_sections(experiment, 0.5, tmp_path)
    assert listed.tables
    assert (tmp_path / "suspects.csv").exists()

    def few(table):
        raise UserError("at least 40 are needed")

    monkeypatch.setattr(coherence, "list_suspects", few)
    (section,) = run.coherence_sections(experiment, 0.5, tmp_path)
    assert section.notes == ("Not listed: at least 40 are needed.",)


@pytest.mark.parametrize("number", [1, 3])
def test_shown_knees_are_those_of_the_rows(number, config, tmp_path, tiny_data_dir):
    prepared = set_up(parse(config), tmp_path, tiny_data_dir).subsets["train"].prepared
    rows = prepared.index.iloc[[7, 2, 30][:number]]
    for knee, (_, row) in zip(run.show(prepared, rows, ("kl", "jsm")), rows.iterrows()):
        assert knee.truth == {"kl": row["kl"], "jsm": row["jsm"]}
        assert row["subject"] in knee.caption
        assert (knee.image == prepared.load([row.name])["image"][0]).all()


@pytest.mark.parametrize(
    ("target", "name"),
    [("progression", "progression_any"), ("kl", "kl_ge_2"), ("osfl", None), ("jsw_medial", None)],
)
def test_subgroups_are_of_the_dichotomy_of_that_target_alone(target, name):
    found = run.dichotomy_of(target)
    assert (found and found.name) == name
