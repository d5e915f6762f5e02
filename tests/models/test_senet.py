"""`models/senet.py` against timm's port of the Caffe networks, by weights carried over."""

import numpy as np
import pytest

from knee_jax.models import senet
from tests.models import torch_reference as reference
from tests.models.torch_reference import SIZES

TIMM = {"se_resnet50": "legacy_seresnet50", "se_resnext50_32x4d": "legacy_seresnext50_32x4d"}


@pytest.mark.parametrize(
    "arch", ["se_resnet50", pytest.param("se_resnext50_32x4d", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "size", [*SIZES[:1], *(pytest.param(size, marks=pytest.mark.long) for size in SIZES[1:])]
)
def test_stages_and_logits_equal_timm(arch, size):
    net = reference.from_timm(TIMM[arch])
    model = senet.Model(arch=arch, targets=("kl",))
    reference.assert_network_equals(net, model, senet, *size)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arch", [pytest.param("se_resnet50", marks=pytest.mark.long), "se_resnext50_32x4d"]
)
def test_training_step_equals_timm(arch):
    """Batch statistics, gradients and running statistics, of a network of one block a stage."""
    net = reference.from_timm(TIMM[arch], layers=(1, 1, 1, 1), drop_rate=0.0)
    image = np.random.default_rng(1).normal(size=(4, 65, 64, 3)).astype(np.float32)
    model = senet.Model(arch=arch, blocks=(1, 1, 1, 1), targets=("kl",))
    reference.assert_training_step_equals(net, model, image)
