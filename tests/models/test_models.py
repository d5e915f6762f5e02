"""What every network promises, and how networks are made by name."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knee_jax import models
from knee_jax.errors import UserError
from knee_jax.grades import GRADES, NUM_CLASSES
from knee_jax.models import heads, resnet, senet

SLICES = {"depth": 18, "grades": ("progression",), "embedding": 16, "heads": 2}
SHUFFLE = {"arch": "shufflenet3d", "blocks": (1, 2, 1), "grades": ("progression",)}
NETWORKS = [
    ("resnet", {"depth": 18, "dropout": 0.5, "pooling": "gwap", "grades": ("kl", "jsm")}),
    ("senet", {"arch": "se_resnet50", "blocks": (1, 1, 1, 1), "dropout": 0.5}),
    (
        "senet",
        {"blocks": (1, 1, 1, 1), "pooling": "gwap_hidden", "grades": ("kl",), "dtype": "bfloat16"},
    ),
    ("keypoint_pooling", {"depth": 18, "dropout": 0.5, "hidden": 8}),
    ("keypoint_pooling", {"depth": 18, "aggregation": "max", "dtype": "bfloat16"}),
    ("resnext", {"hidden": 8, "dropout": 0.5, "grades": ("progression",)}),
    ("slice_sequence", {**SLICES, "dropout": 0.5, "remat": True, "dtype": "bfloat16"}),
    ("slice_sequence", {**SLICES, "aggregation": "linear", "dropout": 0.5}),
    ("volumetric", {"blocks": (1, 1, 1, 1), "grades": ("progression",), "remat": True}),
    ("volumetric", {**SHUFFLE, "dropout": 0.5, "dtype": "bfloat16"}),
]
SHAPES = {"slice_sequence": (3, 4, 16, 24, 1), "volumetric": (3, 16, 16, 24, 1)}
"""Of what networks of volumes read; all others read images."""


def test_every_network_is_tested():
    assert {name for name, _ in NETWORKS} == set(models.names())


@pytest.mark.parametrize(("name", "kwargs"), NETWORKS)
def test_every_network_keeps_the_contract(name, kwargs):
    model = models.create(name, width=8, **kwargs)
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.normal(size=SHAPES.get(name, (3, 48, 64, 1))), jnp.float32)
    keypoints = jnp.asarray(rng.uniform(0, 64, (3, 74, 2)), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image, keypoints)
    assert set(shapes) == {"params", "batch_stats"}
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))
    # Compiling takes longer than all the rest, `init` longest; test_layers.py looks at its values.
    jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    variables = jax.tree.map(lambda leaf: rng.uniform(0.01, 0.2, leaf.shape).astype("f4"), shapes)

    @jit
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
    has_dropout = kwargs.get("dropout", 0) > 0 or kwargs.get("pooling") == "gwap_hidden"
    assert (value != other) == has_dropout

    evaluate = jit(model.apply)
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


@pytest.mark.parametrize(
    ("arch", "trunk", "average", "gwap"),
    [
        ("se_resnet50", 26_039_024, 26_098_445, 26_112_788),
        ("se_resnext50_32x4d", 25_510_896, 25_570_317, 25_584_660),
    ],
)
def test_senets_have_the_published_number_of_parameters(arch, trunk, average, gwap):
    """`systems.md` of paper 000; GWAP adds a weight a channel and a bias to each of seven heads."""
    counts = {}
    for pooling in ("average", "gwap", "gwap_hidden"):
        model = senet.Model(arch=arch, pooling=pooling)
        shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
        counts[pooling] = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
        inside = shapes["params"]["trunk"]
        assert sum(leaf.size for leaf in jax.tree.leaves(inside)) == trunk
        assert {name.partition("_")[0] for name in shapes["params"]} <= {"trunk", "head", "pool"}
    hidden = 9 * 2048 * 128 + 2 * 128 + 128 + 1
    assert counts == {"average": average, "gwap": gwap, "gwap_hidden": average + 7 * hidden}


@pytest.mark.parametrize(("width", "groups"), [(64, 32), (8, 4), (7, 3), (1, 1)])
def test_groups_follow_the_width(width, groups):
    trunk = senet.Trunk(width=width, blocks=(1, 1, 1, 1))
    shapes = jax.eval_shape(trunk.init, jax.random.key(0), jnp.zeros((1, 32, 32, 1)))["params"]
    for stage in (1, 2, 3, 4):
        kernel = shapes[f"layer{stage}_0"]["conv2"]["kernel"].shape
        assert kernel == (3, 3, 2 << stage, (2 << stage) * groups)


def test_weighted_pooling_is_the_mean_with_weights_exp_sigmoid():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    score = {"kernel": rng.normal(size=(5, 1)), "bias": rng.normal(size=1)}
    pooled = heads.WeightedPool(hidden=False).apply({"params": {"score": score}}, x, False)
    w = np.exp(1 / (1 + np.exp(-(x @ score["kernel"] + score["bias"]))))
    desired = [np.average(x[b].reshape(12, 5), axis=0, weights=w[b].ravel()) for b in (0, 1)]
    np.testing.assert_allclose(pooled, desired, rtol=1e-5, atol=1e-6)


def test_every_head_has_a_dropout_of_its_own():
    """With equal heads on equal features, logits differ if what was dropped differs."""

    class Heads(nn.Module):
        @nn.compact
        def __call__(self, x):
            options = {"pooling": "average", "dropout": 0.5, "dtype": jnp.float32, "train": True}
            return heads.read_grades(x, ("osfl", "osfm", "ostl"), **options)

    x = jnp.ones((4, 2, 2, 64))
    shapes = jax.eval_shape(Heads().init, {"params": jax.random.key(0)}, x)
    variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes)
    logits = Heads().apply(variables, x, rngs={"dropout": jax.random.key(1)})
    values = [np.asarray(value[:, 0]) for value in logits.values()]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert not np.array_equal(values[i], values[j])
    # Kept features count double: the mean stays.
    assert abs(np.mean(values) - 65) < 15


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"arch": "senet154"}, "unknown arch 'senet154'; choose from: se_resnet50, se_resnext50"),
        ({"blocks": (1, 1, 1)}, "give the four stages 1 or more each"),
        ({"blocks": (1, 0, 1, 1)}, "give the four stages 1 or more each"),
        ({"pooling": "max"}, "unknown pooling 'max'; choose from: average, gwap, gwap_hidden"),
        ({"grades": ("hip",)}, "unknown grade 'hip'"),
    ],
)
def test_wrong_settings_of_a_senet_are_told(kwargs, message):
    model = models.create("senet", **{"width": 4, "blocks": (1, 1, 1, 1), **kwargs})
    with pytest.raises(UserError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 1)))


def test_unknown_network_is_told():
    with pytest.raises(UserError, match="unknown model 'vgg'; choose from: keypoint_pooling, resn"):
        models.create("vgg")
    with pytest.raises(UserError, match="unknown model 'layers'"):
        models.create("layers")


def test_unknown_argument_is_told():
    with pytest.raises(UserError, match="'resnet' takes no deptth; it takes: depth, dropout"):
        models.create("resnet", deptth=18)
