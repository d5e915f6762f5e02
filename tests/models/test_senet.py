"""`models/senet.py` against timm's port of the Caffe networks, by weights carried over."""

import functools

import jax
import numpy as np
import pytest
import torch_reference as reference
from flax.traverse_util import flatten_dict
from torch_reference import SIZES, assert_close, state_dict, to_torch, torch

from knee_jax.models import senet, weights

TIMM = {"se_resnet50": "legacy_seresnet50", "se_resnext50_32x4d": "legacy_seresnext50_32x4d"}


@pytest.mark.parametrize("arch", TIMM)
@pytest.mark.parametrize(
    "size", [*SIZES[:1], *(pytest.param(size, marks=pytest.mark.slow) for size in SIZES[1:])]
)
def test_stages_and_logits_equal_timm(arch, size):
    net = reference.from_timm(TIMM[arch])
    model = senet.Model(arch=arch, grades=("kl",))
    reference.assert_network_equals(net, model, senet, *size)


@pytest.mark.parametrize(
    "arch", [pytest.param("se_resnet50", marks=pytest.mark.slow), "se_resnext50_32x4d"]
)
def test_training_step_equals_timm(arch):
    """Batch statistics, gradients and running statistics, of a network of one block a stage."""
    net = reference.from_timm(TIMM[arch], layers=(1, 1, 1, 1), drop_rate=0.0).train()
    image = np.random.default_rng(1).normal(size=(4, 65, 64, 3)).astype(np.float32)
    labels = np.array([0, 1, 2, 3])
    model = senet.Model(arch=arch, blocks=(1, 1, 1, 1), grades=("kl",))
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    variables = senet.load(variables, state_dict(net))

    # Compiling takes longer than all the rest.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def step(variables):
        def loss(params):
            logits, state = model.apply(
                {**variables, "params": params}, image, train=True, mutable=["batch_stats"]
            )
            log_p = jax.nn.log_softmax(logits["kl"])
            return -log_p[np.arange(len(labels)), labels].mean(), state

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    (value, state), gradients = step(variables)
    expected = torch.nn.functional.cross_entropy(net(to_torch(image)), torch.from_numpy(labels))
    expected.backward()
    assert value == pytest.approx(expected.item(), rel=1e-4)

    state_of_torch = state_dict(net)
    names = dict(zip(net.state_dict(), state_of_torch, strict=True))
    state_of_torch |= {names[name]: p.grad for name, p in net.named_parameters()}
    desired, _ = weights.from_source(state_of_torch)
    for path, value in flatten_dict({"params": gradients, **state}).items():
        assert_close(value, desired[path], 1e-3 if path[0] == "params" else 1e-5)
