"""`models/vgg.py` against torchvision and timm, by weights carried over."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from knee_jax.errors import UserError
from knee_jax.models import vgg, weights
from knee_jax.models.vgg import Model
from tests.models import torch_reference as reference
from tests.models.torch_reference import torch, torchvision

WIDTH = 4


def narrow(depth, pixels, channels, classes=5):
    """torchvision's network with few channels, for images of which `pixels` are left at the end."""
    torch.manual_seed(0)
    layers = []
    for factor, convolutions in zip(vgg.CHANNELS, vgg.CONVOLUTIONS[depth], strict=True):
        layers += convolutions * [factor * WIDTH] + ["M"]
    features = torchvision.models.vgg.make_layers(layers, batch_norm=True)
    features[0] = torch.nn.Conv2d(channels, WIDTH, 3, padding=1)
    net = torchvision.models.VGG(features, num_classes=classes, init_weights=False, dropout=0.0)
    net.avgpool = torch.nn.Identity()
    net.classifier[0] = torch.nn.Linear(8 * WIDTH * pixels, 64 * WIDTH)
    net.classifier[3] = torch.nn.Linear(64 * WIDTH, 64 * WIDTH)
    net.classifier[6] = torch.nn.Linear(64 * WIDTH, classes)
    return reference.randomise(net)


@pytest.mark.parametrize(
    ("depth", "channels"),
    [(11, 3), *(pytest.param(depth, 1, marks=pytest.mark.long) for depth in (13, 16, 19))],
)
def test_training_step_equals_torchvision(depth, channels):
    image = np.random.default_rng(1).normal(size=(4, 67, 96, channels)).astype(np.float32)
    model = Model(depth=depth, width=WIDTH, dropout=0.0)
    reference.assert_training_step_equals(narrow(depth, 6, channels), model, image)


@pytest.mark.long
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_published_network_equals(library):
    if library == "timm":
        net = reference.from_timm("vgg11_bn")
    else:
        net = reference.randomise(torchvision.models.vgg11_bn(weights=None, num_classes=5))
    image = np.random.default_rng(1).normal(size=(1, 224, 224, 3)).astype(np.float32)
    model = Model(depth=11)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    variables = vgg.load(variables, reference.state_dict(net))
    with torch.no_grad():
        expected = net(reference.to_torch(image))
    reference.assert_close(jax.jit(model.apply)(variables, image)["kl"], expected)


def test_timms_names_are_understood():
    """Its hidden layers are convolutions, 7x7 and 1x1 for images of 224 px."""
    state = {name: tensor.numpy() for name, tensor in narrow(11, 49, 3).state_dict().items()}
    timms = dict(state)
    shapes = {0: (64 * WIDTH, 8 * WIDTH, 7, 7), 3: (64 * WIDTH, 64 * WIDTH, 1, 1)}
    for number, (index, shape) in enumerate(shapes.items(), 1):
        kernel = timms.pop(f"classifier.{index}.weight")
        timms[f"pre_logits.fc{number}.weight"] = kernel.reshape(shape)
        timms[f"pre_logits.fc{number}.bias"] = timms.pop(f"classifier.{index}.bias")
    for leaf in ("weight", "bias"):
        timms[f"head.fc.{leaf}"] = timms.pop(f"classifier.6.{leaf}")
    found, _ = weights.from_source(timms)
    same, _ = weights.from_source(state)
    assert found.keys() == same.keys()
    for path, array in same.items():
        np.testing.assert_array_equal(found[path], array)
    assert weights.describe(found) == "a VGG of 8 convolutions with a stem of 4 channels"


def test_weights_for_another_size_are_reported_and_fit_without_hidden_layers():
    model = Model(depth=11, width=WIDTH)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 299, 299, 1)))
    state = narrow(11, 49, 3).state_dict()
    message = r"'classifier\.0\.weight' has shape .*; knee_jax\.convert --noheads leaves it out"
    with pytest.raises(UserError, match=message):
        vgg.load(shapes, state)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, "f4"), shapes)
    convolutions = {name: value for name, value in state.items() if name.startswith("features")}
    loaded = flatten_dict(vgg.load(zeros, convolutions))
    assert all(value.any() == (path[1] == "trunk") for path, value in loaded.items())


@pytest.mark.parametrize(
    ("kwargs", "size", "message"),
    [
        ({"depth": 12}, 64, "unknown VGG depth 12; choose from: 11, 13, 16, 19"),
        ({"targets": ("hip",)}, 64, "unknown target 'hip'"),
        ({}, 31, "too small for this network: a map of 1 x 1 px"),
    ],
)
def test_wrong_settings_are_reported(kwargs, size, message):
    model = Model(width=WIDTH, **kwargs)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 1)))
