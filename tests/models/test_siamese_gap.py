"""`models/siamese_gap.py` against the same network in PyTorch, by weights carried over."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knee_jax.errors import UserError
from knee_jax.models import siamese_gap
from knee_jax.models.siamese_gap import Model
from tests.models import torch_reference as reference

GRADES = ("kl0_vs_kl2",)


def normal(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("kwargs", "patch", "shape"),
    [
        pytest.param({}, 108, (4, 163, 170, 1), marks=pytest.mark.slow),
        pytest.param({"attention": False}, 128, (3, 299, 299, 3), marks=pytest.mark.long),
        ({"positions": (1, 2), "combine": "concatenate"}, 32, (3, 49, 50, 3)),
        ({"positions": (2,), "pooling": "max", "attention": False}, 33, (3, 50, 49, 1)),
    ],
)
def test_training_step_equals_pytorch(kwargs, patch, shape):
    """Logits, loss, gradients, and running statistics that both sides have entered."""
    reference.torch.manual_seed(0)
    net = reference.SiameseGAP(8, patch=patch, channels=shape[-1], **kwargs)
    model = Model(width=8, targets=GRADES, dropout=0.0, patch=patch, **kwargs)
    image = normal(*shape)
    reference.assert_training_step_equals(reference.randomise(net), model, image)


def test_published_network_has_as_many_parameters_as_that_in_pytorch():
    for attention, count in ((True, 2_710_242), (False, 2_688_482)):
        net = reference.SiameseGAP(attention=attention)
        assert sum(parameter.numel() for parameter in net.parameters()) == count


@pytest.mark.parametrize(
    ("kwargs", "inputs"),
    [
        ({}, 480),
        ({"positions": (4,)}, 256),
        ({"positions": (1, 4)}, 288),
        ({"positions": (4, 2, 2)}, 320),
        ({"positions": (1, 2, 4), "combine": "concatenate"}, 704),
    ],
)
def test_heads_read_the_blocks_that_are_named(kwargs, inputs):
    shapes = jax.eval_shape(Model(**kwargs).init, jax.random.key(0), jnp.zeros((1, 299, 299, 1)))
    assert shapes["params"]["head_kl0_vs_kl2"]["kernel"].shape == (inputs, 2)


def test_a_mirrored_knee_is_read_alike():
    """One trunk reads both sides, the medial one mirrored, and their features are added."""
    image = normal(2, 60, 60, 1)
    model = Model(width=8, positions=(1,), patch=33)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    variables = jax.tree.map(lambda leaf: normal(*leaf.shape) ** 2, shapes)
    logits, mirrored = (model.apply(variables, x)[GRADES[0]] for x in (image, image[:, :, ::-1]))
    np.testing.assert_allclose(logits, mirrored, rtol=1e-5, atol=1e-6)


def test_initial_values_are_those_of_the_published_code():
    model = Model(width=32, positions=(1,), patch=5)
    params = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))["params"]
    conv = params["trunk"]["block1"]["conv2"]
    bound = (6 / (9 * 32)) ** 0.5
    assert 0.98 * bound < np.abs(conv["kernel"]).max() <= bound
    np.testing.assert_array_equal(conv["bias"], np.full(32, 0.1, "f4"))
    np.testing.assert_array_equal(params["head_kl0_vs_kl2"]["bias"], np.full(2, 0.1, "f4"))
    bound = 32**-0.5
    assert 0.9 * bound < np.abs(params["trunk"]["attention1"]["fc1"]["kernel"]).max() <= bound


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"positions": ()}, r"positions = \(\): name one or more of the blocks 1 to 4"),
        ({"positions": (0, 4)}, r"positions = \(0, 4\)"),
        ({"positions": (5,)}, r"positions = \(5,\)"),
        ({"pooling": "gwap"}, "unknown pooling 'gwap'; choose from: average, max"),
        ({"combine": "multiply"}, "unknown combination 'multiply'; choose from: add, concatenate"),
        ({"targets": ("hip",)}, "unknown target 'hip'"),
        ({"patch": 201}, "side patches of 201 px do not fit a knee of 299 x 299 px"),
        ({"patch": 98}, "too small for this network: a map of 2 x 2 px .* or the patch"),
    ],
)
def test_wrong_settings_are_reported(kwargs, message):
    with pytest.raises(UserError, match=message):
        jax.eval_shape(Model(**kwargs).init, jax.random.key(0), jnp.zeros((1, 299, 299, 1)))


def test_weights_of_siamese_networks_are_described():
    shapes = jax.eval_shape(Model().init, jax.random.key(0), jnp.zeros((1, 299, 299, 3)))
    with pytest.raises(UserError, match="a Siamese network of 13 convolutions with a stem of 32"):
        siamese_gap.load(
            jax.eval_shape(Model(width=8).init, jax.random.key(0), jnp.zeros((1, 299, 299, 3))),
            reference.SiameseGAP(channels=3).state_dict(),
        )
    loaded = siamese_gap.load(
        jax.tree.map(lambda leaf: np.zeros(leaf.shape, "f4"), shapes),
        reference.SiameseGAP(channels=3).state_dict(),
    )
    assert jax.tree.structure(loaded) == jax.tree.structure(shapes)
