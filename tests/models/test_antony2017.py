"""`models/antony2017.py` against the same network in PyTorch, by weights carried over."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knee_jax.errors import UserError
from knee_jax.models.antony2017 import Model
from tests.models import torch_reference as reference
from tests.models.torch_reference import torch


class Antony(torch.nn.Module):
    """The network from its description, its parts named as ours."""

    def __init__(self, width, classes, inputs, channels):
        super().__init__()
        for i, side in enumerate((11, 5, 3, 3), 1):
            conv = torch.nn.Conv2d(channels, i * width, side, 2 if i == 1 else 1, side // 2)
            self.add_module(f"conv{i}", conv)
            self.add_module(f"bn{i}", torch.nn.BatchNorm2d(i * width))
            channels = i * width
        hidden = torch.nn.Linear(inputs, 32 * width)
        self.classifier = torch.nn.Sequential(hidden, torch.nn.ReLU())
        self.fc = torch.nn.Linear(32 * width, classes)

    def forward(self, x):
        top = x.shape[2] // 6
        x = x[:, :, top : top + 2 * x.shape[2] // 3]
        for i in range(1, 5):
            x = torch.relu(self._modules[f"bn{i}"](self._modules[f"conv{i}"](x)))
            x = torch.nn.functional.max_pool2d(x, 3, 2)
        return self.fc(self.classifier(x.flatten(1)))


def test_training_step_equals_pytorch():
    torch.manual_seed(0)
    net = reference.randomise(Antony(4, 5, 4 * 4 * 1 * 2, 3))
    image = np.random.default_rng(1).normal(size=(6, 96, 99, 3)).astype(np.float32)
    model = Model(width=4, dropout=0.0, hidden_dropout=0.0)
    reference.assert_training_step_equals(net, model, image)


@pytest.mark.parametrize("side", [299, 300])
def test_the_hidden_layer_reads_a_joint_of_200_by_300_px(side):
    shapes = jax.eval_shape(Model().init, jax.random.key(0), jnp.zeros((1, side, side, 1)))
    assert shapes["params"]["classifier_0"]["kernel"].shape == (5 * 8 * 128, 1024)


def test_a_knee_that_is_too_small_is_reported():
    with pytest.raises(UserError, match="too small for this network: a map of 2 x 5 px"):
        jax.eval_shape(Model().init, jax.random.key(0), jnp.zeros((1, 90, 96, 1)))
