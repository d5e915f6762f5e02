"""`models/resnet.py` against torchvision, by weights carried over."""

import jax
import numpy as np
import pytest

from knee_jax.models import resnet
from tests.models import torch_reference as reference
from tests.models.torch_reference import SIZES, assert_close, state_dict, to_torch, torch


def ours(net, depth, image):
    """Our model and its variables with the reference's weights."""
    model = resnet.Model(depth=depth, targets=("kl",))
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    return model, resnet.load(variables, state_dict(net))


@pytest.mark.parametrize(
    ("depth", "height", "width", "channels"),
    [
        *((depth, *size, 3) for depth in (18, 34) for size in SIZES),
        *((50, *size, 3) for size in SIZES[:1]),
        *(pytest.param(50, *size, 3, marks=pytest.mark.long) for size in SIZES[1:]),
        *(pytest.param(depth, 64, 66, 3, marks=pytest.mark.long) for depth in (101, 152)),
        (18, 97, 130, 1),
    ],
)
def test_stages_and_logits_equal_torchvision(depth, height, width, channels):
    net = reference.resnet(depth, channels)
    model = resnet.Model(depth=depth, targets=("kl",))
    reference.assert_network_equals(net, model, resnet, height, width, channels)


@pytest.mark.parametrize(
    "depth", [18, 34, 50, *(pytest.param(depth, marks=pytest.mark.long) for depth in (101, 152))]
)
def test_timms_networks_are_the_same(depth):
    net = reference.from_timm(f"resnet{depth}")
    model = resnet.Model(depth=depth, targets=("kl",))
    reference.assert_network_equals(net, model, resnet, 63, 66)


@pytest.mark.slow
def test_training_step_equals_torchvision():
    """Batch statistics, gradients and running statistics, in one forward and backward pass."""
    net = reference.resnet(18, channels=1)
    image = np.random.default_rng(1).normal(size=(6, 65, 64, 1)).astype(np.float32)
    model = resnet.Model(depth=18, targets=("kl",))
    reference.assert_training_step_equals(net, model, image)


def test_stem_for_three_channels_reads_grey_images_alike():
    net = reference.resnet(18)
    grey = np.random.default_rng(1).normal(size=(1, 64, 64, 1)).astype(np.float32)
    model, variables = ours(net, 18, grey)
    with torch.no_grad():
        expected = net(to_torch(np.repeat(grey, 3, axis=-1)))
    assert_close(jax.jit(model.apply)(variables, grey)["kl"], expected)


def test_pth_file_is_read(tmp_path):
    net = reference.resnet(18)
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    image = np.zeros((1, 64, 64, 3), np.float32)
    model = resnet.Model(depth=18, targets=("kl",))
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    heads = {"head_kl": {"kernel": np.zeros((512, 5)), "bias": np.zeros(5)}}
    variables["params"].update(heads)
    loaded = resnet.load(variables, tmp_path / "weights.pth")
    kernel = net.layer2[0].downsample[0].weight.detach().numpy()[:, :, 0, 0].T
    trunk = loaded["params"]["trunk"]
    np.testing.assert_array_equal(trunk["layer2_0"]["downsample_conv"]["kernel"][0, 0], kernel)
