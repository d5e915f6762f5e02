"""Novelty: the distances are what they say, calibrated, and unlike pictures are not graded."""

import cv2
import numpy as np
import pytest

import knee_jax
from knee_jax.evaluation import familiar
from knee_jax.inference import exported, grade, models, novelty
from knee_jax.inference import run as runs
from knee_jax.ingest.knee_files import Knee


def features(seed, number, channels=40, inside=6):
    """Features that lie near a space of few dimensions."""
    rng = np.random.default_rng([9, seed])
    space = np.random.default_rng(8).normal(size=(inside, channels)) * 3
    noise = 0.1 * rng.normal(size=(number, channels))
    return (5 + rng.normal(size=(number, inside)) @ space + noise).astype(np.float32)


def test_distances_are_those_of_mahalanobis_and_from_the_space(monkeypatch):
    monkeypatch.setattr(novelty, "RANK", 6)
    training, others = features(0, 2000), features(1, 500) + 1
    known = novelty.fit(training, features(2, 1000))
    mean, covariance = training.mean(0), np.cov(training.T)
    values, vectors = np.linalg.eigh(covariance.astype(np.float64))
    values, vectors = values[::-1], vectors[:, ::-1]
    along = (others - mean) @ vectors
    expected = [
        np.sqrt((along[:, :6] ** 2 / values[:6]).mean(1)),
        np.sqrt((along[:, 6:] ** 2).sum(1) / values[6:].sum()),
    ]
    found = np.asarray(novelty._distances(known, others))
    np.testing.assert_allclose(found, np.stack(expected, -1), rtol=2e-3)
    np.testing.assert_allclose(novelty.of(known, others), (found / known.limits).max(-1), rtol=1e-5)


def test_it_is_calibrated_by_held_out_knees_and_sees_what_leaves_the_space():
    known = novelty.fit(features(0, 2000), features(2, 4000))
    fresh = np.asarray(novelty.of(known, features(3, 4000)))
    # Each of two distances exceeds its limit in 1 %.
    assert 0.005 < (fresh > 1).mean() < 0.035
    far_within = features(4, 50) + 40 * (features(5, 1) - features(6, 1))
    off = features(4, 50) + np.random.default_rng(0).normal(size=40).astype(np.float32)
    for unlike in (far_within, off):
        assert (np.asarray(novelty.of(known, unlike)) > 2).all()


def test_features_of_fewer_dimensions_than_components_have_a_distance():
    flat = np.concatenate([features(0, 300, channels=6, inside=3), np.ones((300, 2))], axis=1)
    known = novelty.fit(flat, flat)
    assert np.isfinite(np.asarray(novelty.of(known, flat))).all()
    assert float(np.asarray(novelty.of(known, flat + 100)).min()) > 2


@pytest.fixture
def known(run, monkeypatch):
    """What the small run's knees are like."""
    monkeypatch.setattr(novelty, "LEAST", 10)
    folder, prepared = run
    return familiar.measure(folder, prepared.path.parents[2])


def test_a_file_tells_novelty_as_its_run_would(run, test_knees, known, tmp_path):
    network, (_, knees) = runs.read(run[0]), test_knees
    batch = {name: knees[name][:8] for name in ("image", "keypoints")}
    expected = novelty.of(known, network.features(network.variables, batch))
    exported.write(run[0], tmp_path / "known.knee", known=known)
    model, plain = knee_jax.load(tmp_path / "known.knee"), knee_jax.load(run[0])
    found = model.read(batch["image"], batch["keypoints"])
    np.testing.assert_allclose(found.novelty, expected, rtol=1e-3)
    decoded = plain.predict(batch["image"], batch["keypoints"])
    for name, values in decoded.items():
        np.testing.assert_allclose(found.decoded[name], values, atol=1e-5)
    assert plain.read(batch["image"], batch["keypoints"]).novelty is None
    both = models.average([model, plain]).read(batch["image"], batch["keypoints"])
    np.testing.assert_allclose(both.novelty, found.novelty, rtol=1e-5)
    # The weights to train on from are the network's alone.
    assert models.contents(tmp_path / "known.knee")[1].keys() == models.contents(run[0])[1].keys()


def test_a_set_that_is_gone_or_other_is_not_measured(run, tmp_path, monkeypatch):
    monkeypatch.setattr(novelty, "LEAST", 10)
    assert familiar.measure(run[0], tmp_path) is None
    monkeypatch.setattr(novelty, "LEAST", 10_000)
    assert familiar.measure(run[0], run[1].path.parents[2]) is None


def no_knees():
    """Pictures of other things, by name."""
    rng = np.random.default_rng(0)
    text = np.full((256, 256), 230, np.uint8)
    for line in range(9):
        place = (5, 24 + 26 * line)
        cv2.putText(text, "no knee is here", place, cv2.FONT_HERSHEY_SIMPLEX, 0.8, 20, 2)
    ramp = np.linspace(0, 255, 256).astype(np.uint8)[None].repeat(256, 0)
    disc = cv2.circle(np.full((256, 256), 40, np.uint8), (128, 128), 90, 220, -1)
    squares = np.kron(np.indices((8, 8)).sum(0) % 2, np.ones((32, 32))).astype(np.uint8) * 255
    noise = rng.integers(0, 256, (256, 256), np.uint8)
    grey = np.full((256, 256), 120, np.uint8)
    grey[0, 0] = 121
    return {"text": text, "ramp": ramp, "disc": disc, "squares": squares, "noise": noise} | {
        "grey": grey
    }


@pytest.mark.parametrize(
    ("located", "unlike", "status", "confident"),
    [
        ("crop", 0.9, "graded", True),
        ("crop", 1.1, "graded", False),
        ("crop", 1.3, "refused", False),
        ("middle", 1.3, "refused", False),
        ("localiser", 1.3, "graded", False),
        ("landmarks", 1.3, "graded", False),
        ("crop", None, "graded", True),
    ],
)
def test_what_nothing_vouches_for_is_refused_and_others_are_doubted(
    run, test_knees, located, unlike, status, confident
):
    knees = test_knees[1]
    model = knee_jax.load(run[0])
    image, points = knees["image"][0], knees["keypoints"][0]
    predicted = model.predict(image[None], points[None])
    knee = Knee("a.png", "R", image, points, located, ())
    row = grade.row_of(model, knee, {n: v[0] for n, v in predicted.items()}, unlike)
    assert row["status"] == status
    assert (row.get("kl_confidence") is not None) == confident
    assert ("unlike most" in row["notes"]) == (status == "graded" and not confident)


@pytest.mark.slow
@pytest.mark.parametrize("name", no_knees())
def test_the_shipped_model_refuses_what_is_no_knee(name, tmp_path):
    cv2.imwrite(str(tmp_path / f"{name}.png"), no_knees()[name])
    table = knee_jax.grade("kl-kneekl224", [tmp_path])
    assert table["status"].tolist() == ["refused"]
    assert "kl_pred" not in table or table["kl_pred"].isna().all()


@pytest.mark.slow
@pytest.mark.real
def test_the_shipped_model_grades_real_knees(real_data):
    table = knee_jax.grade("kl-kneekl224", [real_data / "kneekl224" / "val" / "3"])
    assert (table["status"] == "graded").mean() > 0.98
    doubtful = table[table["novelty"] > novelty.DOUBTFUL]
    assert len(doubtful) < 0.08 * len(table)
    assert doubtful["kl_confidence"].isna().all()
    assert doubtful["notes"].str.contains("unlike most training knees").all()
