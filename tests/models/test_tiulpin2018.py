"""`models/tiulpin2018.py` against the same network in PyTorch, by weights carried over."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knee_jax.errors import UserError
from knee_jax.models.tiulpin2018 import Model
from tests.models import torch_reference as reference
from tests.models.torch_reference import torch


class KneeNet(torch.nn.Module):
    """DeepKnee's network, from its description, its parts named as ours."""

    def __init__(self, width, classes, patch, channels):
        super().__init__()
        self.patch = patch
        self.block1 = reference.Blocks(channels, width, 3, 2, 1e-3)
        self.block2 = reference.Blocks(width, 2 * width, 2, 1, 1e-3)
        self.block3 = reference.Blocks(2 * width, 4 * width, 1, 1, 1e-3)
        self.fc = torch.nn.Linear(8 * width, classes)

    def branch(self, x):
        x = torch.nn.functional.max_pool2d(self.block1(x), 2)
        x = torch.nn.functional.max_pool2d(self.block2(x), 2)
        return self.block3(x).mean((2, 3))

    def forward(self, image):
        sides = [self.branch(patch) for patch in reference.patches(image, self.patch)]
        return self.fc(torch.cat(sides, 1))


@pytest.mark.parametrize(
    ("width", "patch", "shape"),
    [
        (8, 57, (5, 90, 88, 3)),
        pytest.param(16, 128, (4, 299, 299, 1), marks=pytest.mark.long),
    ],
)
def test_training_step_equals_pytorch(width, patch, shape):
    torch.manual_seed(0)
    net = reference.randomise(KneeNet(width, 5, patch, shape[-1]))
    image = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    model = Model(width=width, patch=patch, dropout=0.0)
    reference.assert_training_step_equals(net, model, image)


def test_the_last_map_has_ten_pixels_a_side():
    model = Model(width=4)
    image = jnp.zeros((1, 300, 300, 1))
    _, state = jax.eval_shape(
        lambda key, x: model.apply(model.init(key, x), x, mutable="intermediates"),
        jax.random.key(0),
        image,
    )
    assert state["intermediates"]["maps_medial"][0].shape == (1, 10, 10, 16)


def test_a_patch_that_is_too_small_is_reported():
    with pytest.raises(UserError, match="too small for this network: a map of 2 x 2 px"):
        jax.eval_shape(Model(patch=48).init, jax.random.key(0), jnp.zeros((1, 99, 99, 1)))
