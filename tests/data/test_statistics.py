import functools

import jax
import numpy as np
import pytest

from knee_jax.data import augment, statistics
from knee_jax.targets.grades import GRADES


def inputs_of(augmentation, channels=1):
    return functools.partial(
        augment.make_inputs,
        size=32,
        statistics=(0.0, 1.0),
        augmentation=augmentation,
        train=True,
        channels=channels,
    )


def test_of_pixels_they_are_of_all_pixels_together(knees, monkeypatch):
    monkeypatch.setattr(statistics, "CHUNK", 7)
    rows = np.arange(20)
    pixels = knees.load(rows)["image"].astype(np.float64) / 255
    measured = statistics.measure(knees, rows)
    assert measured.mean == pytest.approx(pixels.mean(), rel=1e-9)
    assert measured.std == pytest.approx(pixels.std(), rel=1e-9)


def test_of_inputs_they_are_means_over_batches(knees, monkeypatch):
    monkeypatch.setattr(statistics, "CHUNK", 8)
    monkeypatch.setattr(statistics, "SAMPLE", 29)
    rows = np.arange(40)
    measured = statistics.measure(knees, rows, inputs_of(augment.Affine()))
    # Three batches of eight, evenly spaced over all rows and mixed; resized without any change.
    sample = np.random.default_rng(0).permutation(np.linspace(0, 39, 24).astype(int))
    inputs = jax.jit(inputs_of(augment.Affine()))
    images = [
        np.asarray(inputs(knees.load(part), jax.random.key(0))[0], np.float64)
        for part in sample.reshape(3, 8)
    ]
    assert measured.mean == pytest.approx(np.mean([part.mean() for part in images]), rel=1e-5)
    assert measured.std == pytest.approx(np.mean([part.std() for part in images]), rel=1e-5)


def test_of_inputs_they_follow_the_augmentation_and_repeat(knees, monkeypatch):
    monkeypatch.setattr(statistics, "CHUNK", 8)
    rows = np.arange(30)
    plain = statistics.measure(knees, rows)
    bright = augment.Affine(gamma=(0.4, 0.4))
    first, again = (statistics.measure(knees, rows, inputs_of(bright)) for _ in range(2))
    assert first == again
    assert first.mean > plain.mean + 0.05
    assert first.counts.keys() == set(GRADES)
    assert first.counts == plain.counts


def test_of_a_random_crop_they_include_its_black_corners(knees):
    """Three channels, of fewer knees than a batch."""
    rows = np.arange(20)
    still = augment.RandomCrop(
        canvas=32, rotation=0.0, noise_probability=0.0, gamma_probability=0.0
    )
    corners = augment.RandomCrop(
        canvas=33, rotation=40.0, noise_probability=0.0, gamma_probability=0.0
    )
    plain = statistics.measure(knees, rows)
    measured = statistics.measure(knees, rows, inputs_of(still, channels=3))
    assert measured.mean == pytest.approx(plain.mean, abs=0.01)
    assert statistics.measure(knees, rows, inputs_of(corners)).mean < 0.95 * measured.mean
