"""Quality of landmarks: distances that were put in come out, by knee, grade and landmark."""

import types

import numpy as np
import pandas as pd
import pytest

from knee_jax import targets
from knee_jax.report import landmark_quality

DISTANCES = np.array([0.5, 0.8, 1.2, 3.0, np.nan])
"""Distance, mm, of every landmark of five knees, the last of which the model does not find."""


@pytest.fixture
def table():
    target = targets.get("landmarks")
    rng = np.random.default_rng(0)
    true = rng.uniform(100, 300, (5, 74, 2))
    turn = rng.uniform(0, 2 * np.pi, (5, 74))
    found = true + DISTANCES[:, None, None] * np.stack([np.cos(turn), np.sin(turn)], -1)
    found[3, 20] = true[3, 20] + (0, 30)
    places = np.concatenate([found, np.full((5, 74, 1), 0.6)], -1)
    rows = pd.DataFrame(
        {
            "subject": list("abcde"),
            "side": ["R"] * 5,
            "visit": [0] * 5,
            "source": [f"{name}/001" for name in "abcde"],
            "kl": [0, 0, 2, 4, 4],
            "by_files": [""] * 5,
            "by_model": ["", "", "", "", "no_knee"],
            "spacing_mm": 1.0,
        }
    )
    columns = target.truths(true) | target.predictions(places)
    return pd.concat([rows, pd.DataFrame(columns)], axis=1)


def test_knees_are_listed_from_the_worst(table):
    rows = landmark_quality.knees(table)
    assert list(rows["subject"]) == ["d", "c", "b", "a", "e"]
    np.testing.assert_allclose(rows["median_mm"], DISTANCES[[3, 2, 1, 0, 4]])
    worst = rows.iloc[0]
    assert (worst["farthest"], worst["largest_mm"]) == (20, 30)
    assert worst["expected_mm"] == pytest.approx(1.2)
    assert rows.iloc[4]["by_model"] == "no_knee"


def test_groups_are_scored_by_their_own_distances(table):
    rows = landmark_quality.quality(table).set_index("group")
    assert rows.loc["all", "n"] == 4
    everything = [*np.repeat(DISTANCES[:4], 74)[:-1], 30]
    assert rows.loc["all", "radial_error"] == pytest.approx(np.mean(everything))
    assert rows.loc["all", "within_1mm"] == pytest.approx(0.5)
    assert rows.loc["all", "knees_within_2.5mm"] == pytest.approx(0.75)
    assert rows.loc["kl 0", "radial_error"] == pytest.approx(0.65)
    assert rows.loc["kl 0", "radial_error_low"] == pytest.approx(0.5)
    assert rows.loc["kl 4", "within_2.5mm"] == 0
    assert rows.loc["landmark 7", "radial_error"] == pytest.approx(DISTANCES[:4].mean())
    assert rows.loc["landmark 20", "radial_error"] == pytest.approx((0.5 + 0.8 + 1.2 + 30) / 4)


def test_tables_picture_and_words_are_written(table, tmp_path):
    points = np.random.default_rng(0).uniform(5, 90, (2, 74, 2))
    worst = types.SimpleNamespace(
        name="d R 0m",
        error_mm=3.4,
        image=np.zeros((96, 96), np.uint8),
        by_files=points[0],
        by_model=points[1],
    )
    assert landmark_quality.words(tmp_path) == ""
    landmark_quality.write(tmp_path, table, [worst])
    assert (tmp_path / landmark_quality.FIGURE).read_bytes().startswith(b"\x89PNG")
    lines = landmark_quality.words(tmp_path).splitlines()
    assert [line.split()[:2] for line in lines[1:5]] == [
        ["all", "4"],
        ["kl", "0"],
        ["kl", "2"],
        ["kl", "4"],
    ]
    assert lines[-1].split() == ["model:", "no_knee", "1"]


def test_a_set_without_landmarks_of_both_has_no_picture(table, tmp_path):
    landmark_quality.write(tmp_path, table.iloc[4:], [])
    assert not (tmp_path / landmark_quality.FIGURE).exists()
    assert "no_knee" in landmark_quality.words(tmp_path)
