"""Heat of keypoint pooling is where the evidence is: deletion, and randomised weights.

Deletion: without the hottest tenth of the picture, the class that was predicted loses more than
without a random tenth (Samek et al. 2017). Randomisation: of a network whose weights are drawn anew
the maps are others (Adebayo et al. 2018); a map that only showed edges would stay.
"""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import spearmanr

from knee_jax.config.load import parse
from knee_jax.configs import kpn
from knee_jax.evaluation.evaluate import evaluate_checkpoint
from knee_jax.models import activation
from knee_jax.training import train
from knee_jax.training.run import set_up

SHARE = 0.1
DRAWS = 8
CELL = 8
"""Side of what is removed at a time, pixels."""


def inputs(run, most=24):
    part = run.subsets["validation"]
    knees = part.prepared.load(part.rows[:most])
    return run.preprocessing(knees, jax.random.key(0), run.constants.intensities, train=False)


def heat_of_cells(run, variables, images, keypoints):
    """Mean heat of every cell, [knees, cells]."""
    heat = activation.heat_of(run.model, variables, images, keypoints, run.task.targets[0])
    count = images.shape[1] // CELL
    return (
        np.asarray(heat)
        .reshape(len(heat), count, CELL, count, CELL)
        .mean((2, 4))
        .reshape(len(heat), -1)
    )


def blurred(images):
    """Images without their details. Holes of one value would be details that are never trained."""
    planes, sigma = np.asarray(images), images.shape[1] / 10
    return np.stack([cv2.GaussianBlur(p, (0, 0), sigma).reshape(p.shape) for p in planes])


def deletion(run, variables):
    """Mean loss of the predicted class' logit without the hottest, and without random cells."""
    images, keypoints = inputs(run)
    target, smooth = run.task.targets[0], blurred(images)
    heat = heat_of_cells(run, variables, images, keypoints)
    number, count = round(SHARE * heat.shape[1]), images.shape[1] // CELL
    rng = np.random.default_rng(0)
    logits = np.asarray(run.model.apply(variables, images, keypoints, train=False)[target])
    rows, classes = np.arange(len(logits)), logits.argmax(-1)

    def cost(order):
        chosen = np.zeros(heat.shape, bool)
        np.put_along_axis(chosen, order[:, :number], True, axis=1)
        mask = np.kron(chosen.reshape(-1, count, count), np.ones((1, CELL, CELL), bool))
        without = jnp.where(mask[..., None], smooth, images)
        after = run.model.apply(variables, without, keypoints, train=False)[target]
        return float((logits - np.asarray(after))[rows, classes].mean())

    hottest = cost(np.argsort(-heat, axis=1, kind="stable"))
    at_random = [cost(np.argsort(rng.random(heat.shape), axis=1)) for _ in range(DRAWS)]
    return hottest, float(np.mean(at_random))


def likeness(run, variables):
    """Rank correlation of the heat of trained and of random weights, mean over the knees."""
    images, keypoints = inputs(run)
    drawn = run.random_state().variables
    found = [heat_of_cells(run, each, images, keypoints) for each in (variables, drawn)]
    pairs = [(a, b) for a, b in zip(*found) if np.ptp(a) > 0 and np.ptp(b) > 0]
    return float(np.mean([spearmanr(a, b).statistic for a, b in pairs]))


@pytest.mark.long
def test_heat_is_where_the_evidence_is(tmp_path, data_dir):
    config = kpn.get_config("demo")
    config.epochs = 10
    config.task.coherence.warmup_epochs = 6
    config.evaluation.num_resamples = 5
    config = parse(config)
    train.train(config, tmp_path, data_dir)
    run = set_up(config, tmp_path, data_dir, training=False)
    variables = evaluate_checkpoint(run, tmp_path).variables
    hottest, at_random = deletion(run, variables)
    assert hottest > 2 * at_random, (hottest, at_random)
    assert likeness(run, variables) < 0.8
