"""Heat lies where the heads read, and nowhere else."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knee_jax import models
from knee_jax.landmarks import PRESETS, compartment
from knee_jax.models import activation, keypoint_pooling
from knee_jax.models.activation import class_activation
from knee_jax.models.layers import observe
from knee_jax.models.patches import first_row

pytestmark = pytest.mark.usefixtures("few_optimisations")

STRIDE, SIDE = keypoint_pooling.STRIDE, 10
SIZE = STRIDE * SIDE
NAMES = ("kl", "osfl")


def landmarks(number=2):
    """Landmarks on two lines across the middle third, between two rows of the map."""
    points = np.zeros((number, 74, 2), np.float32)
    for first, count, y in ((0, 37, 4.9), (37, 37, 5.1)):
        points[:, first : first + count, 0] = np.linspace(3.0, 7.0, count) * STRIDE
        points[:, first : first + count, 1] = y * STRIDE
    return points


def cells_read(points, target):
    """Cells of the map that a target's head reads, by the corners about each of its points."""
    read = np.zeros((SIDE, SIDE), bool)
    for index in PRESETS["joint"]:
        if target == "kl" or "fl" in compartment(index):
            x, y = points[index] / STRIDE - 0.5
            for row in (np.floor(y), np.ceil(y)):
                for column in (np.floor(x), np.ceil(x)):
                    read[int(row), int(column)] = True
    return read


@pytest.fixture(scope="module")
def network():
    return made()


def made():
    model = models.create("keypoint_pooling", targets=NAMES, depth=10, width=4)
    image = np.random.default_rng(0).normal(size=(2, SIZE, SIZE, 1)).astype(np.float32)
    # The planted feature: by far the strongest of the picture, and far from all landmarks.
    image[:, :32, :32] += 30
    return model, jax.jit(model.init)(jax.random.key(0), image, landmarks()), image


@pytest.mark.parametrize("target", NAMES)
def test_a_planted_feature_that_no_head_reads_has_no_heat(target, network):
    model, variables, image = network
    points = landmarks()
    heat = np.asarray(activation.heat_of(model, variables, image, points, target, 1))
    read = cells_read(points[0], target)
    # Padded alike before and behind, a cell is centred on the pixel that its stride leads to.
    at = np.minimum(np.floor(np.arange(SIZE) / STRIDE + 0.5).astype(int), SIDE - 1)
    inside = read[np.ix_(at, at)]
    assert 0 < read.sum() < SIDE * SIDE / 3
    assert not heat[:, ~inside].any()
    np.testing.assert_allclose(heat.max((1, 2)), 1.0)
    # Grad-CAM, which averages the gradient, would show the planted feature.
    seen, gradients = activation.evidence(model, variables, image, points, target, 1)
    weights = gradients["maps"].mean((1, 2), keepdims=True)
    everywhere = np.maximum(np.asarray((weights * seen["maps"]).sum(-1)), 0)
    assert everywhere[:, ~read].max() > 0


@pytest.mark.parametrize("target", NAMES)
def test_cells_add_up_to_the_logit(target, network):
    """Behind the maps the network is linear: evidence for and against, and the bias, are all."""
    model, variables, image = network
    points = landmarks()
    seen, gradients = activation.evidence(model, variables, image, points, target, 2)
    total = np.asarray((seen["maps"] * gradients["maps"]).sum((1, 2, 3)))
    bias = variables["params"][f"head_{target}"]["logits"]["bias"][2]
    logits = model.apply(variables, image, points)[target][:, 2]
    np.testing.assert_allclose(total + bias, logits, rtol=1e-4, atol=1e-5)


def test_a_knee_without_landmarks_is_read_everywhere(network):
    model, variables, image = network
    points = np.full((2, 74, 2), np.nan, np.float32)
    _, gradients = activation.evidence(model, variables, image, points, "kl", 1)
    gradient = np.asarray(gradients["maps"])
    assert gradient.any()
    np.testing.assert_allclose(gradient, np.broadcast_to(gradient[:, :1, :1], gradient.shape), 1e-5)


def test_a_linear_network_by_hand():
    """Of two channels with weights 2 and -1, evidence is their difference where it is positive."""
    maps = np.zeros((1, 2, 2, 2), np.float32)
    maps[0, ..., 0] = [[1, 2], [3, 0]]
    maps[0, ..., 1] = [[0, 5], [1, 4]]
    gradients = np.broadcast_to(np.float32([2, -1]), maps.shape)
    np.testing.assert_allclose(class_activation(maps, gradients)[0], [[2, 0], [5, 0]])
    uneven = np.zeros_like(maps)
    uneven[0, 0, 0] = [2, -1]  # Only one place is read.
    np.testing.assert_allclose(class_activation(maps, uneven)[0], [[2, 0], [0, 0]])


def test_growing_keeps_cold_cells_cold():
    heat = np.zeros((1, 3, 3), np.float32)
    heat[0, 1, 1] = 1
    grown = np.asarray(activation.grow(jnp.asarray(heat), (12, 12)))[0]
    inside = np.zeros((12, 12), bool)
    inside[4:8, 4:8] = True
    assert (grown[inside] > 0).all()
    assert not grown[~inside].any()


BLOCKS = {"blocks": (1, 1, 1, 1)}
PLACED = [
    ("resnet", {"depth": 10}, ("evidence", "maps")),
    ("senet", {**BLOCKS, "arch": "se_resnet50"}, ("evidence", "maps")),
    ("senet", BLOCKS, ("evidence", "maps")),
    ("densenet", BLOCKS, ("evidence", "maps")),
    ("vgg", {"depth": 11}, ("evidence", "maps")),
    ("antony2017", {}, ("evidence", "maps")),
    ("efficientnet", {}, ("evidence", "maps")),
    ("siamese_gap", {"patch": 112}, [f"evidence_lateral{end}" for end in ("_1", "_2", "")]),
    ("tiulpin2018", {"patch": 112}, ["maps_lateral"]),
]


@pytest.mark.parametrize(
    ("name", "options", "names"),
    [pytest.param(*each, marks=() if i < 1 else pytest.mark.slow) for i, each in enumerate(PLACED)],
)
def test_a_planted_spot_changes_the_cells_about_it(name, options, names):
    """A cell is drawn about the middle of what it reads: the mean place of a spot's effect."""
    model = models.create(name, targets=("kl",), width=8, **options)
    patch = options.get("patch", 0)
    size = 192 if patch else 256
    top, rows = getattr(model, "rows_read", lambda size: (0, size))(size)
    if patch:
        top, rows = first_row(size, size, patch), patch
    read = (rows, patch or size)
    # All positions within a cell of 32 pixels, in the middle.
    places = [np.random.default_rng(i).permutation(32) + read[i] // 2 - 16 for i in (0, 1)]
    spots = np.zeros((32, size, size, 1), np.float32)
    for image, row, column in zip(spots, *places):
        image[top + row - 1 : top + row + 2, column - 1 : column + 2] = 3

    def mirrored(leaf):
        """Kernels that are their own mirror images, so that a cell weighs both sides alike."""
        if leaf.ndim < 4:
            return leaf
        return ((leaf + leaf[::-1])[:, ::-1] + leaf + leaf[::-1]) / 4

    variables = jax.tree.map(mirrored, jax.jit(model.init)(jax.random.key(0), spots[:1]))

    @jax.jit
    def see(image):
        _, seen = model.apply(variables, image, mutable=["intermediates"])
        return activation.by_name(seen["intermediates"])

    before, after = see(np.zeros_like(spots[:1])), see(spots)
    for each in names:
        change = np.asarray(jnp.abs(after[each] - before[each]).sum(-1))
        # What channel attention changes, it changes in all cells.
        change = np.maximum(change - np.median(change, axis=(1, 2), keepdims=True), 0)
        for axis, where in enumerate(places):
            of_axis = change.sum(2 - axis)
            cells = activation.cells_of(model, each, read[axis], of_axis.shape[1])
            centres = cells.first + cells.step * np.arange(of_axis.shape[1])
            off = (of_axis * centres).sum(1) / of_axis.sum(1) - (where + 0.5)
            assert abs(off.mean()) < 0.1 * cells.step + 0.5, (each, axis, off.mean(), cells)


class Middle(nn.Module):
    """Reads some rows of an image."""

    @staticmethod
    def rows_read(height):
        return height // 4, height // 2

    @nn.compact
    def __call__(self, image, keypoints=None, train=False):
        top, rows = self.rows_read(image.shape[1])
        maps = observe(self, "maps", image[:, top : top + rows : 2, ::2])
        return {"kl": maps.mean((1, 2))}


def test_heat_of_some_rows_lies_in_these():
    image = np.ones((1, 16, 16, 1), np.float32)
    heat = np.asarray(activation.heat_of(Middle(), {}, image, None, "kl", 0))[0]
    assert (heat[4:12] == 1).all()
    assert not heat[:4].any()
    assert not heat[12:].any()
