"""Heatmaps read by their mean and spread."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from knee_jax.errors import UserError
from knee_jax.models.landmarks import load, read_heatmaps


def heat(centres, spread, height=32, width=48):
    """Log-heat of Gaussians about centres [maps, 2], in cells."""
    y, x = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    squares = [(x - a) ** 2 + (y - b) ** 2 for a, b in centres]
    return jnp.asarray(-np.stack(squares, -1)[None] / (2 * spread**2), jnp.float32)


def test_mean_and_spread_are_those_of_the_heat():
    centres = np.array([[20.3, 11.7], [17.0, 16.25]])
    found = np.asarray(read_heatmaps(heat(centres, 2.5, 32, 32), jnp.array([0.0, -20.0])))
    np.testing.assert_allclose(found[0, :, :2], centres / 32, atol=2e-3)
    np.testing.assert_allclose(found[0, 0, 2], 2.5 / 32, rtol=0.02)


def test_places_are_shares_of_width_and_height():
    found = np.asarray(read_heatmaps(heat([[24, 16]], 2.0), jnp.array([0.0, -20.0])))
    np.testing.assert_allclose(found[0, 0, :2], 0.5, atol=1e-4)


def test_the_error_is_scaled_and_never_below_its_least():
    plain = read_heatmaps(heat([[16, 16]], 2.0), jnp.array([0.0, -20.0]))[0, 0, 2]
    scaled = read_heatmaps(heat([[16, 16]], 2.0), jnp.log(jnp.array([1.5, 0.01])))[0, 0, 2]
    assert float(scaled) == pytest.approx(1.5 * float(plain) + 0.01, rel=1e-5)


def test_weights_of_an_exported_localiser_are_taken_whole(tmp_path):
    variables = {
        "params": {"trunk": {"conv": {"kernel": np.zeros((3, 3, 1, 2))}}, "error": np.zeros(2)},
        "batch_stats": {"bn": {"mean": np.zeros(2)}},
    }
    rng = np.random.default_rng(0)
    saved = {
        "/".join(path): rng.normal(size=leaf.shape).astype(np.float16)
        for path, leaf in flatten_dict(variables).items()
    }
    save_file(saved, tmp_path / "model.safetensors")
    loaded = flatten_dict(load(variables, str(tmp_path / "model.safetensors")))
    assert len(loaded) == len(saved)
    for path, leaf in loaded.items():
        assert leaf.dtype == jnp.float32
        np.testing.assert_array_equal(leaf, saved["/".join(path)])
    variables["params"]["error"] = np.zeros(3)
    with pytest.raises(UserError, match="not those of this localiser"):
        load(variables, str(tmp_path / "model.safetensors"))
