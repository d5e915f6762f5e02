"""What every network promises, and how networks are made by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knee_jax import models
from knee_jax.errors import UserError
from knee_jax.grades import GRADES, NUM_CLASSES
from knee_jax.models import resnet

NETWORKS = [
    ("resnet", {"depth": 18, "dropout": 0.5, "grades": ("kl", "jsm")}),
    ("keypoint_pooling", {"depth": 18, "dropout": 0.5, "hidden": 8}),
    ("keypoint_pooling", {"depth": 18, "aggregation": "max", "dtype": "bfloat16"}),
]


def test_every_network_is_tested():
    assert {name for name, _ in NETWORKS} == set(models.names())


@pytest.mark.parametrize(("name", "kwargs"), NETWORKS)
def test_every_network_keeps_the_contract(name, kwargs):
    model = models.create(name, width=8, **kwargs)
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.normal(size=(3, 48, 64, 1)), jnp.float32)
    keypoints = jnp.asarray(rng.uniform(0, 64, (3, 74, 2)), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image, keypoints)
    assert set(shapes) == {"params", "batch_stats"}
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))
    # Compiling `init` takes longer than all the rest; test_layers.py looks at its values.
    variables = jax.tree.map(lambda leaf: rng.uniform(0.01, 0.2, leaf.shape).astype("f4"), shapes)

    @jax.jit
    def train(params, key):
        def loss(params):
            logits, state = model.apply(
                {**variables, "params": params},
                image,
                keypoints,
                train=True,
                rngs={"dropout": key},
                mutable=["batch_stats"],
            )
            return sum(jax.nn.log_softmax(value)[:, 1].mean() for value in logits.values()), state

        return jax.value_and_grad(loss, has_aux=True)(params)

    (value, state), gradients = train(variables["params"], jax.random.key(1))
    assert jnp.isfinite(value)
    for gradient in jax.tree.leaves(jax.device_get(gradients)):
        assert np.isfinite(gradient).all()
        assert gradient.any()
        assert gradient.dtype == np.float32
    same = jax.tree.map(np.array_equal, state["batch_stats"], variables["batch_stats"])
    assert not any(jax.tree.leaves(same))
    (other, _), _ = train(variables["params"], jax.random.key(2))
    assert (value != other) == (kwargs.get("dropout", 0) > 0)

    evaluate = jax.jit(model.apply)
    logits = evaluate(variables, image, keypoints)
    assert {grade: (value.shape, value.dtype) for grade, value in logits.items()} == {
        grade: ((3, NUM_CLASSES[grade]), jnp.float32) for grade in kwargs.get("grades", GRADES)
    }
    jax.tree.map(np.testing.assert_array_equal, logits, evaluate(variables, image, keypoints))
    mixed = evaluate(variables, image.at[1:].set(0.5), keypoints)
    for grade, value in mixed.items():
        np.testing.assert_array_equal(value[0], logits[grade][0])
        assert not np.array_equal(value[1], logits[grade][1])


@pytest.mark.parametrize(
    ("depth", "stages", "count"),
    [(18, 4, 11_176_512), (34, 4, 21_284_672), (50, 4, 23_508_032), (50, 3, 8_543_296)],
)
def test_trunks_have_the_published_number_of_parameters(depth, stages, count):
    trunk = resnet.Trunk(depth, stages=stages)
    shapes = jax.eval_shape(trunk.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == count


def test_unknown_network_is_told():
    with pytest.raises(UserError, match="unknown model 'vgg'; choose from: keypoint_pooling, resn"):
        models.create("vgg")
    with pytest.raises(UserError, match="unknown model 'layers'"):
        models.create("layers")


def test_unknown_argument_is_told():
    with pytest.raises(UserError, match="'resnet' takes no deptth; it takes: depth, dropout"):
        models.create("resnet", deptth=18)
