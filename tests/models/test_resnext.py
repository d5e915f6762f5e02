"""`models/resnext.py` against torchvision, by weights carried over."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from knee_jax.errors import UserError
from knee_jax.models import resnext, weights
from tests.models import torch_reference as reference
from tests.models.torch_reference import assert_close, to_torch, torch, torchvision


def test_logits_equal_torchvision_and_the_weights_come_back():
    torch.manual_seed(0)
    net = reference.randomise(torchvision.models.resnext50_32x4d(weights=None))
    net.fc = torch.nn.Sequential(
        torch.nn.Linear(2048, 512), torch.nn.ReLU(), torch.nn.Linear(512, 3)
    ).eval()
    names = {"fc.0.": "head_progression.hidden.", "fc.2.": "head_progression.logits."}
    state = {}
    for name, value in net.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            state[names.get(name[:5], name[:5]) + name[5:]] = value
    image = np.random.default_rng(1).normal(size=(1, 65, 64, 3)).astype(np.float32)
    model = resnext.Model()
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    variables = resnext.load(variables, state)

    # Compiling takes longer than all the rest.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def apply(variables):
        return model.apply(variables, image, mutable=["intermediates"])

    logits, seen = apply(variables)
    with torch.no_grad():
        assert_close(logits["progression"], net(to_torch(image)))
        maps = reference.stages(net, to_torch(image))[-1]
    assert_close(seen["intermediates"]["maps"][0], reference.to_ours(maps))
    assert_close(seen["intermediates"]["features"][0], maps.mean((2, 3)))

    back = weights.to_torch(flatten_dict(variables))
    assert back.keys() == state.keys()
    for name, value in back.items():
        np.testing.assert_array_equal(value, state[name].numpy())


def test_the_network_has_the_published_number_of_parameters():
    """Panfilov et al. 2022, Table 1: 24 million."""
    params = shapes_of()["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 24_030_531


def test_odd_width_is_reported():
    with pytest.raises(UserError, match="width = 3: resnext wants an even one"):
        shapes_of(width=3)


def shapes_of(**kwargs):
    return jax.eval_shape(
        resnext.Model(**kwargs).init, jax.random.key(0), jnp.zeros((1, 64, 64, 3))
    )
