"""What a reader must know first is said, and nothing is said that is not so."""

import numpy as np
import pandas as pd
import pytest

from knee_jax.metrics.summary import summarise
from knee_jax.report import front
from tests.factories import random_predictions, random_values


def test_three_figures_of_several_targets_head_a_page(table):
    found = front.headlines(summarise(table, num_resamples=10))
    assert [(each.target, each.metric) for each in found] == [
        ("KL grade", "Balanced accuracy"),
        ("OARSI average", "Quadratic kappa"),
        ("KL >= 2", "ROC AUC"),
    ]
    assert all(each.interval.startswith("[") for each in found)
    early = random_predictions(40, names=("kl0_vs_kl2",))
    assert len(front.headlines(summarise(early, num_resamples=10))) == 3
    only = {"jsl": summarise(table, num_resamples=10)["jsl"]}
    assert len(front.headlines(only)) == 3


def test_good_results_have_no_troubles():
    table = random_predictions(60, names=("kl",), skill=0.9)
    assert front.troubles(table, summarise(table, num_resamples=50), "test") == []


def test_troubles_are_named():
    table = random_predictions(10, names=("kl",))
    table["kl_pred"] = np.where(table["kl"] < 3, 1, 2)
    table["kl"] = np.random.default_rng(0).permutation(table["kl"])
    found = " ".join(front.troubles(table, summarise(table, num_resamples=50), "validation"))
    count = table["kl"].isin([0, 3, 4]).sum()
    assert f"Never predicted, though read (knees): KL grade 0, 3, 4 ({count})." in found
    assert "stand on 10 subjects only" in found
    assert "There are no test knees" in found
    assert "include chance: KL grade (Quadratic kappa, 0)" in found


def test_a_value_no_better_than_the_mean_is_said():
    table = random_values(40)
    good = front.troubles(table, summarise(table, num_resamples=50), "test")
    assert good == []
    mean = table.assign(jsw_medial_pred=table["jsw_medial"].mean())
    (found,) = front.troubles(mean, summarise(mean, num_resamples=50), "test")
    assert f"{table['jsw_medial'].std(ddof=0):.2f} mm, the error of the labels' mean" in found


def history(scores, last):
    rows = [(step, "validation/kappa", score) for step, score in enumerate(scores, 1)]
    return pd.DataFrame([*rows, (last, "train/loss", 1.0)], columns=["step", "name", "value"])


@pytest.mark.parametrize(
    ("scores", "last", "words"),
    [
        ((0.1, 0.3, 0.2), 100, ""),
        ((0.1, 0.2, 0.3), 100, "more epochs may do better"),
        ((0.1, 0.3, 0.2), 60, "stopped at step 60 of 100"),
        ((np.nan,) * 3, 100, ""),
    ],
)
def test_training_that_ended_early_is_said(scores, last, words):
    found = " ".join(front.troubles_of_training(history(scores, last), 100))
    assert words in found
    assert bool(found) == bool(words)


def test_without_a_record_of_training_that_is_said():
    nothing = pd.DataFrame(columns=["step", "name", "value"])
    assert "Nothing is recorded" in front.troubles_of_training(nothing, 10)[0]


def test_facts_are_those_that_were_recorded():
    full = {
        "command": "knee-jax demo",
        "started": "2026-11-30 12:00:00+00:00",
        "training_seconds": 3725.4,
        "git_commit": "abc-dirty",
        "cpu": "A CPU",
        "devices": ["cpu", "cpu"],
    }
    found = dict(front.facts_of(full))
    assert found == {
        "Command": "knee-jax demo",
        "Begun": "2026-11-30 12:00:00+00:00",
        "Training took": "1 h 2 min",
        "Commit": "abc, and changes that are not in it",
        "Machine": "A CPU",
    }
    assert front.facts_of({}) == []
    assert [front.duration(s) for s in (5, 65, 3600)] == ["5 s", "1 min 5 s", "1 h 0 min"]


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("knee-jax train --config=kpn:demo", "knee-jax train --config=kpn:demo"),
        (
            "knee-jax train --config.data.manual_dir='/data/a person/knees' --workdir=runs/a",
            "knee-jax train --config.data.manual_dir=.../knees --workdir=runs/a",
        ),
        ("/opt/bin/knee-jax evaluate /data/runs/a", ".../knee-jax evaluate .../a"),
        ("", ""),
    ],
)
def test_a_command_tells_no_folders_of_its_machine(typed, shown):
    assert front.without_folders(typed) == shown
