"""Answers of a run to the items of reporting guidelines."""

import dataclasses

from knee_jax.config.load import parse
from knee_jax.configs import kpn, mri_progression, oarsi
from knee_jax.report import checklist


def test_every_answer_is_asked_for_and_every_question_is_known():
    known = checklist.answers(parse(kpn.get_config("demo")), None)
    asked = {name for items in (checklist._TRIPOD, checklist._CLAIM) for _, _, name in items}
    assert asked - {""} == set(known)


def test_the_answers_are_the_runs():
    config = parse(kpn.get_config("demo"))
    found = checklist.answers(config, "abc")
    assert "knees drawn by a program" in found["data"]
    assert "160 x 160 px" in found["preparation"]
    assert found["disjoint"] == "subject"
    assert "commit abc" in found["code"]
    leaking = dataclasses.replace(config.data, split="image_ratio")
    leaky = checklist.answers(dataclasses.replace(config, data=leaking), "abc")
    assert leaky["disjoint"].startswith("image")
    ensemble = checklist.answers(parse(oarsi.get_config("demo")), None)
    assert ensemble["ensemble"] == ", ".join(oarsi.get_config("demo").ensemble)
    assert "another cohort, phantom_most" in ensemble["evaluation"]
    volumes = checklist.answers(parse(mri_progression.get_config("demo")), None)
    assert "crops" in volumes["preparation"]


def test_what_a_run_cannot_know_is_left_to_the_authors():
    section = checklist.checklists_section(parse(kpn.get_config("demo")), None)
    tripod, claim = section.tables
    rows = {row[0]: row[2] for row in tripod.rows}
    assert rows["17"] == rows["19"] == checklist.AUTHORS
    assert rows["20a"] == "Knees and subjects"
    assert {row[0]: row[2] for row in claim.rows}["42"] == checklist.AUTHORS
