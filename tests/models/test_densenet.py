"""`models/densenet.py` against torchvision and timm, by weights carried over."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knee_jax.errors import UserError
from knee_jax.models import densenet, weights
from knee_jax.models.densenet import Model
from tests.models import torch_reference as reference
from tests.models.torch_reference import torch, torchvision

BLOCKS = (2, 1, 3, 1)


def narrow(classes=5):
    """torchvision's network, with a growth of 4 and few layers; for 3 channels."""
    torch.manual_seed(0)
    net = torchvision.models.DenseNet(4, BLOCKS, num_init_features=8, num_classes=classes)
    return reference.randomise(net)


def test_training_step_equals_torchvision():
    image = np.random.default_rng(1).normal(size=(5, 107, 94, 3)).astype(np.float32)
    model = Model(width=8, blocks=BLOCKS, targets=("kl",))
    reference.assert_training_step_equals(narrow(), model, image)


@pytest.mark.long
@pytest.mark.parametrize("depth", densenet.BLOCKS)
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_published_networks_equal(depth, library):
    if library == "timm":
        net = reference.from_timm(f"densenet{depth}")
    else:
        net = getattr(torchvision.models, f"densenet{depth}")(weights=None, num_classes=5)
        net = reference.randomise(net)
    image = np.random.default_rng(1).normal(size=(1, 75, 64, 3)).astype(np.float32)
    model = Model(depth=depth, targets=("kl",))
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    variables = densenet.load(variables, reference.state_dict(net))
    with torch.no_grad():
        expected = net(reference.to_torch(image))
    apply = jax.jit(model.apply, compiler_options={"xla_backend_optimization_level": 0})
    reference.assert_close(apply(variables, image)["kl"], expected)


def test_names_of_older_files_are_understood():
    """torchvision's own files call it `denselayer1.norm.1`."""
    state = {name: tensor.numpy() for name, tensor in narrow().state_dict().items()}
    older = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name): array
        for name, array in state.items()
    }
    assert older.keys() != state.keys()
    found, _ = weights.from_source(older)
    same, _ = weights.from_source(state)
    assert found.keys() == same.keys()
    assert weights.describe(found) == ("a DenseNet of 2, 1, 3, 1 layers with a stem of 8 channels")


@pytest.mark.parametrize(
    ("kwargs", "size", "message"),
    [
        ({"depth": 100}, 64, "unknown DenseNet depth 100; choose from: 121, 161, 169, 201"),
        ({"blocks": (1, 2, 3)}, 64, r"blocks = \(1, 2, 3\): give the four blocks"),
        ({"pooling": "max"}, 64, "unknown pooling 'max'"),
        ({}, 28, "too small for this network: a map of 1 x 1 px"),
    ],
)
def test_wrong_settings_are_reported(kwargs, size, message):
    model = Model(**{"width": 4, "blocks": (1, 1, 1, 1), **kwargs})
    if "depth" in kwargs:
        model = Model(width=4, **kwargs)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 1)))
