"""Loss, table and score of the localiser's task."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from knee_jax import targets
from knee_jax.config.schema import Data
from knee_jax.errors import UserError
from knee_jax.metrics.summary import summarise
from knee_jax.tasks.landmarks import Landmarks, Settings, laplace_loss

PLACES = targets.get("landmarks")
TASK = Landmarks(("knee_shown", "landmarks"), 1.0)


def outputs(places, error):
    return jnp.concatenate([places, jnp.full((*places.shape[:2], 1), error)], axis=-1)


def test_loss_is_least_where_the_error_is_half_the_mean_distance():
    rng = np.random.default_rng(0)
    true = jnp.full((40, 74, 2), 0.5)
    found = true + 0.02 * jnp.asarray(rng.normal(size=true.shape))
    mask = jnp.ones(40, bool)
    distance = float(jnp.linalg.norm(found - true, axis=-1).mean())
    errors = distance / 2 * np.exp(np.linspace(-0.5, 0.5, 21))
    losses = [float(laplace_loss(outputs(found, error), true, mask)[0]) for error in errors]
    assert int(np.argmin(losses)) == 10
    assert float(laplace_loss(outputs(found, 0.1), true, mask)[1]) == pytest.approx(distance, 1e-4)


def test_places_that_are_unknown_beyond_the_picture_or_masked_do_not_count():
    true = np.full((3, 74, 2), 0.5, np.float32)
    true[0, :40] = np.nan
    true[1, 5:] = 1.01
    found = np.full_like(true, 0.5)
    found[0, :40], found[1, 5:], found[2] = 0.9, 0.1, 0.2
    mask = jnp.array([True, True, False])
    loss, distance = laplace_loss(outputs(jnp.asarray(found), 0.1), jnp.asarray(true), mask)
    assert float(distance) == pytest.approx(0, abs=1e-4)
    assert float(loss) == pytest.approx(2 * np.log(0.1), abs=1e-3)
    nothing, _ = laplace_loss(outputs(jnp.asarray(found), 0.1), jnp.asarray(true), mask & False)
    assert float(nothing) == 0


def index(number):
    return pd.DataFrame(
        {
            "subject": [str(i) for i in range(number)],
            "side": "R",
            "visit": 0,
            "cohort": "c",
            "site": "",
            "kl": -1,
            "knee_shown": 1,
            "keypoints_valid": True,
            "spacing_mm": np.linspace(0.5, 1.0, number),
        }
    )


def test_planted_errors_are_what_the_metrics_say():
    rng = np.random.default_rng(1)
    number = 30
    true = rng.uniform(40, 80, (number, 74, 2))
    angle = rng.uniform(0, 2 * np.pi, (number, 74))
    planted = rng.exponential(1.5, (number, 74))
    knees = index(number)
    step = (planted / knees["spacing_mm"].to_numpy()[:, None])[..., None]
    found = true + step * np.stack([np.cos(angle), np.sin(angle)], -1)
    true[0, 10:] = np.nan
    known = np.isfinite(true).all(-1)
    classes = np.eye(5)[np.ones(number, int)]
    places = np.concatenate([found, np.ones((number, 74, 1)), true], axis=-1)
    table = TASK.table(knees, np.arange(number), {"knee_shown": classes, "landmarks": places})
    scores = summarise(table, num_resamples=20)["landmarks"]
    of_known = planted[known]
    assert scores["radial_error"]["value"] == pytest.approx(of_known.mean(), abs=1e-6)
    assert scores["radial_error_median"]["value"] == pytest.approx(np.median(of_known), abs=0.011)
    for limit in (1, 1.5, 2, 2.5):
        share = (of_known <= limit).mean()
        assert scores[f"within_{limit:g}mm"]["value"] == pytest.approx(share, abs=1e-6)
    assert TASK.score(table) == pytest.approx(-of_known.mean(), abs=1e-6)
    means = np.where(known, planted, np.nan)
    good = (np.nanmean(means, axis=1) <= 2.5).mean()
    assert scores["knees_within_2.5mm"]["value"] == pytest.approx(good, abs=1e-6)


def test_pictures_without_a_knee_are_scored_by_class_alone():
    knees = index(4).assign(keypoints_valid=[True, False, False, True], knee_shown=[1, 0, 0, 1])
    true = np.full((4, 74, 2), 5.0)
    true[1:3] = np.nan
    places = np.concatenate([np.full((4, 74, 3), 6.0), true], axis=-1)
    decoded = {"knee_shown": np.eye(5)[[1, 0, 0, 1]], "landmarks": places}
    summary = summarise(TASK.table(knees, np.arange(4), decoded), num_resamples=5)
    assert summary["knee_shown"]["accuracy"]["n"] == 4
    assert summary["landmarks"]["radial_error"]["n"] == 2


def test_knees_of_unknown_spacing_have_no_error_in_mm():
    knees = index(3).assign(spacing_mm=[0.5, np.nan, 0.5])
    true = np.full((3, 74, 2), 5.0)
    places = np.concatenate([true + np.array([2, 0]), np.ones((3, 74, 1)), true], axis=-1)
    decoded = {"knee_shown": np.eye(5)[[1, 1, 1]], "landmarks": places}
    table = TASK.table(knees, np.arange(3), decoded)
    scores = summarise(table, num_resamples=5)["landmarks"]
    assert scores["radial_error"]["value"] == pytest.approx(1.0)
    assert scores["radial_error"]["n"] == 2
    assert scores["knees_within_2.5mm"]["value"] == 1
    unknown = TASK.table(knees.assign(spacing_mm=np.nan), np.arange(3), decoded)
    scores = summarise(unknown, num_resamples=5).get("landmarks", {})
    assert all(each["value"] is None and each["n"] == 0 for each in scores.values())
    assert np.isnan(TASK.score(unknown))
    assert TASK.score(table) == pytest.approx(-1.0)


def test_settings_ask_for_landmarks_and_take_classes_only():
    settings = Settings()
    settings.check(targets.get_all(("knee_shown", "landmarks")), Data())
    for names in (("knee_shown",), ("landmarks", "jsw_medial")):
        with pytest.raises(UserError, match=r"config\.targets"):
            settings.check(targets.get_all(names), Data())
    with pytest.raises(UserError, match="no knee with all landmarks"):
        settings.check_part("train", index(3).assign(keypoints_valid=False), [PLACES])
