"""Contract of every network, and creation of networks by name."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from knee_jax import models, targets
from knee_jax.errors import UserError
from knee_jax.models import activation, efficientnet, heads, landmarks, resnet, senet
from knee_jax.models.layers import BatchNorm, Conv, Linear

pytestmark = pytest.mark.usefixtures("few_optimisations")

SLICES = {"depth": 18, "targets": ("progression",), "embedding": 16, "heads": 2}
SHUFFLE = {"arch": "shufflenet3d", "blocks": (1, 2, 1), "targets": ("progression",)}
NETWORKS = [
    ("resnet", {"depth": 18, "dropout": 0.5, "pooling": "gwap", "targets": ("kl", "jsm")}),
    ("senet", {"arch": "se_resnet50", "blocks": (1, 1, 1, 1), "dropout": 0.5}),
    (
        "senet",
        {"blocks": (1, 1, 1, 1), "pooling": "gwap_hidden", "targets": ("kl",), "dtype": "bfloat16"},
    ),
    ("keypoint_pooling", {"depth": 18, "dropout": 0.5, "hidden": 8}),
    ("keypoint_pooling", {"depth": 18, "aggregation": "max", "dtype": "bfloat16"}),
    ("siamese_gap", {"patch": 32, "positions": (1, 2)}),
    ("siamese_gap", {"patch": 32, "positions": (2,), "pooling": "max", "dtype": "bfloat16"}),
    ("tiulpin2018", {"patch": 49, "targets": ("kl", "kl0_vs_kl2"), "dropout": 0.0}),
    ("antony2017", {"targets": ("kl0_vs_kl2",)}),
    ("densenet", {"blocks": (1, 1, 2, 1), "targets": ("kl0_vs_kl2", "kl")}),
    ("efficientnet", {"dropout": 0.5, "targets": ("kl",)}),
    ("landmarks", {"pyramid": 8, "dropout": 0.5}),
    ("vgg", {"depth": 11, "targets": ("kl0_vs_kl2",), "dtype": "bfloat16"}),
    ("resnext", {"hidden": 8, "dropout": 0.5, "targets": ("progression",)}),
    ("slice_sequence", {**SLICES, "dropout": 0.5, "remat": True, "dtype": "bfloat16"}),
    ("slice_sequence", {**SLICES, "aggregation": "linear", "dropout": 0.5}),
    ("volumetric", {"blocks": (1, 1, 1, 1), "targets": ("progression",), "remat": True}),
    ("volumetric", {**SHUFFLE, "dropout": 0.5, "dtype": "bfloat16"}),
]
SHAPES = {"slice_sequence": (3, 4, 16, 24, 1), "volumetric": (3, 16, 16, 24, 1)}
"""Shapes of what networks of volumes read; all others read images."""


UNREAD = {("trunk", "attention2")}
"""Behind the last block of `siamese_gap` there is an attention whose result is not read."""


def test_every_network_is_tested():
    assert {name for name, _ in NETWORKS} == set(models.names())


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        # A second setting of a network, in bfloat16, is among the slow tests.
        pytest.param(*each, marks=pytest.mark.slow if "bfloat16" in each[1].values() else ())
        for each in NETWORKS
    ],
)
def test_every_network_keeps_the_contract(name, kwargs):
    model = models.create(name, width=8, **kwargs)
    has_dropout = model.dropout > 0 or kwargs.get("pooling") == "gwap_hidden"
    check_contract(model, SHAPES.get(name, (3, 96, 64, 1)), has_dropout)


def drawn(model, shapes, rng):
    """Small positive variables; signed kernels where activations would all reach their limit."""
    low = -0.2 if isinstance(model, efficientnet.Model | landmarks.Model) else 0.01
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: rng.uniform(
            low if path[-1].key == "kernel" else 0.01, 0.2, leaf.shape
        ).astype("f4"),
        shapes,
    )


def check_contract(model, shape, has_dropout):
    """Check outputs, types, gradients, dropout, and that knees do not depend on each other.

    A network may have no batch statistics; those that it has must follow the batch in training.
    """
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.normal(size=shape), jnp.float32)
    keypoints = jnp.asarray(rng.uniform(0, 64, (3, 74, 2)), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image, keypoints)
    assert {"params"} <= set(shapes) <= {"params", "batch_stats"}
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))
    # Compiling takes longer than all the rest, `init` longest; test_layers.py looks at its values.
    jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    variables = drawn(model, shapes, rng)

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
    for path, gradient in flatten_dict(jax.device_get(gradients)).items():
        assert np.isfinite(gradient).all()
        assert gradient.any() == (path[:2] not in UNREAD)
        assert gradient.dtype == np.float32
    assert set(state) == set(shapes) - {"params"}
    same = jax.tree.map(np.array_equal, dict(state), {name: variables[name] for name in state})
    assert not any(jax.tree.leaves(same))
    (other, _), _ = train(variables["params"], jax.random.key(2))
    assert (value != other) == has_dropout

    evaluate = jit(model.apply)
    logits = evaluate(variables, image, keypoints)
    assert {target: (value.shape, value.dtype) for target, value in logits.items()} == {
        target: ((3, targets.get(target).num_outputs), jnp.float32) for target in model.targets
    }
    jax.tree.map(np.testing.assert_array_equal, logits, evaluate(variables, image, keypoints))
    mixed = evaluate(variables, image.at[1:].set(0.5), keypoints)
    for target, value in mixed.items():
        np.testing.assert_array_equal(value[0], logits[target][0])
        assert not np.array_equal(value[1], logits[target][1])


class LayerNormNetwork(nn.Module):
    """A network without batch norm, as a ConvNeXt is; with `frozen` it has batch norm at rest."""

    targets: tuple[str, ...] = ("kl", "jsm")
    frozen: bool = False

    @nn.compact
    def __call__(self, image, keypoints=None, train=False):
        x = nn.LayerNorm(name="norm")(Conv(8, 3, 2, name="conv")(image))
        if self.frozen:
            x = BatchNorm(name="bn")(x, train=False)
        x = nn.gelu(x).mean((1, 2))
        return {
            name: Linear(targets.get(name).num_outputs, name=f"head_{name}")(x)
            for name in self.targets
        }


def test_the_contract_asks_for_no_batch_norm():
    check_contract(LayerNormNetwork(), (3, 24, 16, 1), has_dropout=False)


def test_the_contract_refuses_batch_statistics_that_training_does_not_update():
    with pytest.raises(AssertionError):
        check_contract(LayerNormNetwork(frozen=True), (3, 24, 16, 1), has_dropout=False)


@pytest.mark.parametrize(("name", "kwargs"), NETWORKS)
def test_every_network_lets_explanations_see_into_it(name, kwargs):
    """Maps whose perturbation reaches the logits, and features that the heads map to them."""
    model = models.create(name, width=8, **kwargs)
    rng = np.random.default_rng(0)
    shape = SHAPES.get(name, (3, 96, 64, 1))
    image = jnp.asarray(rng.normal(size=(2, *shape[1:])), jnp.float32)
    keypoints = jnp.asarray(rng.uniform(0, 64, (2, 74, 2)), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image, keypoints)
    variables = drawn(model, shapes, rng)

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def see(variables):
        seen = ["intermediates", "perturbations"]
        logits, state = model.apply(variables, image, keypoints, mutable=seen)

        def score(perturbations):
            logits = model.apply({**variables, "perturbations": perturbations}, image, keypoints)
            return sum(value[:, 0].sum() for value in logits.values())

        return logits, state["intermediates"], jax.grad(score)(state["perturbations"])

    logits, intermediates, gradients = see(variables)
    maps = {
        "siamese_gap": set(),
        "tiulpin2018": {"maps_lateral", "maps_medial"},
    }.get(name, {"maps"})
    blocks = ("", "_1") if kwargs.get("positions") == (1, 2) else ("",)
    evidence = {
        "keypoint_pooling": set(),
        "tiulpin2018": set(),
        "siamese_gap": {f"evidence_{s}{b}" for s in ("lateral", "medial") for b in blocks},
    }.get(name, {"evidence"})
    one_for_all = (
        name not in ("keypoint_pooling", "landmarks")
        and kwargs.get("pooling") not in heads.POOLINGS[1:]
    )
    intermediates, gradients = map(activation.by_name, (intermediates, gradients))
    own = {key for key in intermediates if key.startswith(("evidence", "maps", "features"))}
    assert own == maps | evidence | ({"features"} if one_for_all else set())
    for key in own:
        value = intermediates[key]
        assert value.shape == gradients[key].shape
        assert value.ndim == (2 if key == "features" else 5 if name == "volumetric" else 4)
        assert jnp.any(gradients[key] != 0)
    heads_of = {target: variables["params"][f"head_{target}"] for target in logits}
    if one_for_all and all("kernel" in head for head in heads_of.values()):
        for target, value in logits.items():
            head = heads_of[target]
            features = np.asarray(intermediates["features"])
            np.testing.assert_allclose(
                value, features @ head["kernel"] + head["bias"], rtol=1e-5, atol=1e-6
            )


PARAMETERS = [
    # Table IV of Wang et al.: millions as printed, and the exact number.
    ("densenet", {"depth": 121}, 6.95, 6_949_634),
    ("densenet", {"depth": 161}, 26.47, 26_467_010),
    ("densenet", {"depth": 169}, 12.48, 12_481_538),
    ("densenet", {"depth": 201}, 18.09, 18_090_498),
    ("resnet", {"depth": 18}, 11.17, 11_171_266),
    ("resnet", {"depth": 34}, 21.28, 21_279_426),
    ("resnet", {"depth": 50}, 23.51, 23_505_858),
    ("resnet", {"depth": 101}, 42.50, 42_497_986),
    ("resnet", {"depth": 152}, 58.14, 58_141_634),
    ("vgg", {"depth": 11}, 195.89, 195_887_746),
    ("vgg", {"depth": 13}, 196.07, 196_072_642),
    ("vgg", {"depth": 16}, 201.38, 201_384_898),
    ("vgg", {"depth": 19}, 206.70, 206_697_154),
    ("siamese_gap", {}, 2.71, 2_710_242),
    # The paper's text, without the attention that its number contains.
    ("siamese_gap", {"attention": False}, None, 2_688_482),
    # Printed 2.36, which is this without its head of 2,050.
    ("tiulpin2018", {"width": 128}, None, 2_366_722),
    ("tiulpin2018", {"targets": ("kl",)}, None, 595_077),
    # Printed 5.40: an approximation.
    ("antony2017", {}, None, 5_467_874),
]


@pytest.mark.parametrize(("name", "kwargs", "millions", "count"), PARAMETERS)
def test_networks_of_paper_002_have_the_printed_number_of_parameters(name, kwargs, millions, count):
    """Of one channel, 299 px and two outputs."""
    model = models.create(name, **{"targets": ("kl0_vs_kl2",), **kwargs})
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 299, 299, 1)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == count
    assert millions is None or round(count / 1e6, 2) == millions


@pytest.mark.parametrize(
    ("name", "kwargs", "count"),
    [
        (name, kwargs, count)
        for name, kwargs, _, count in PARAMETERS
        if name in ("resnet", "densenet", "vgg")
    ],
)
def test_torchvisions_networks_have_as_many(name, kwargs, count):
    """With a stem for one channel, and VGG's first hidden layer for 9 x 9 pixels."""
    reference = pytest.importorskip(
        "tests.models.torch_reference", reason="needs the `torch` extra"
    )
    torch = reference.torch
    full = f"{name}{kwargs['depth']}{'_bn' if name == 'vgg' else ''}"
    with torch.device("meta"):
        net = getattr(reference.torchvision.models, full)(weights=None, num_classes=2)
    stem = {"resnet": "conv1", "densenet": "features.conv0", "vgg": "features.0"}[name]
    replaced = 2 * net.get_submodule(stem).weight[:, 0].numel()
    if name == "vgg":
        replaced -= (9 * 9 - 7 * 7) * 512 * 4096
    assert sum(parameter.numel() for parameter in net.parameters()) - replaced == count


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
            return heads.read_targets(self, x, ("osfl", "osfm", "ostl"), **options)

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
        ({"arch": "senet154"}, "config.model.arch = 'senet154': .*choose from se_resnet50, se_"),
        ({"blocks": (1, 1, 1)}, r"config.model.blocks = \(1, 1, 1\): a tuple of 4 whole numbers"),
        ({"blocks": (1, 0, 1, 1)}, r"config.model.blocks = .*a tuple of 4 .* of 1 or more"),
        ({"pooling": "max"}, "config.model.pooling = 'max': choose from average, gwap, gwap_hid"),
        ({"dropout": 1.0}, "config.model.dropout = 1.0: a number from 0 below 1"),
        ({"targets": ("hip",)}, "unknown target 'hip'"),
    ],
)
def test_wrong_settings_of_a_senet_are_reported(kwargs, message):
    with pytest.raises(UserError, match=message):
        init(models.create("senet", **{"width": 4, "blocks": (1, 1, 1, 1), **kwargs}))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"arch": "senet154"}, "unknown arch 'senet154'; choose from: se_resnet50, se_resnext50"),
        ({"blocks": (1, 1, 1)}, "give the four stages 1 or more each"),
        ({"blocks": (1, 0, 1, 1)}, "give the four stages 1 or more each"),
        ({"pooling": "max"}, "unknown pooling 'max'; choose from: average, gwap, gwap_hidden"),
    ],
)
def test_a_senet_that_is_made_in_code_reports_them_too(kwargs, message):
    with pytest.raises(UserError, match=message):
        init(senet.Model(**{"width": 4, "blocks": (1, 1, 1, 1), **kwargs}))


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("densenet", {"depth": 100}, "depth = 100: .*choose from 121, 161, 169, 201"),
        ("densenet", {"blocks": (1, 0, 1, 1)}, "blocks = .* whole numbers of 1 or more"),
        ("keypoint_pooling", {"landmarks": "ankle"}, "landmarks = 'ankle': choose from joint, all"),
        ("keypoint_pooling", {"aggregation": "sum"}, "aggregation = 'sum': .*concat, mean, max"),
        ("keypoint_pooling", {"depth": 19}, "depth = 19: .*choose from 10, 18, 34, 50"),
        ("keypoint_pooling", {"kpn": 1}, "kpn = 1: a truth value"),
        ("resnext", {"hidden": 0}, "hidden = 0: a whole number of 1 or more"),
        ("siamese_gap", {"positions": (0, 4)}, r"positions = \(0, 4\): .*choose from 1, 2, 3, 4"),
        ("siamese_gap", {"pooling": "gwap"}, "pooling = 'gwap': .*choose from average, max"),
        ("siamese_gap", {"combine": "multiply"}, "combine = 'multiply': .*add, concatenate"),
        ("slice_sequence", {"aggregation": "gru"}, "aggregation = 'gru': .*transformer, linear, l"),
        ("slice_sequence", {"views": "two"}, "views = 'two': .*choose from one, shared, indiv"),
        ("slice_sequence", {"depth": 51}, "depth = 51: .*choose from 10, 18, 34, 50"),
        ("vgg", {"depth": 12}, "depth = 12: .*choose from 11, 13, 16, 19"),
        ("vgg", {"dropout": 1.5}, "dropout = 1.5: a number from 0 below 1"),
        ("volumetric", {"arch": "c3d"}, "arch = 'c3d': .*choose from r2plus1d_34, resnext3d_50"),
        ("volumetric", {"blocks": (1, 1, 0, 1)}, "blocks = .* whole numbers of 1 or more"),
    ],
)
def test_wrong_settings_are_refused_before_a_network_is_made(name, kwargs, message):
    with pytest.raises(UserError, match=f"config.model.{message}"):
        models.create(name, **kwargs)


def init(model):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 1)))


def test_unknown_network_is_reported():
    message = r"unknown model 'unet': .*choose from antony2017, densenet"
    with pytest.raises(UserError, match=message):
        models.create("unet")
    with pytest.raises(UserError, match="unknown model 'layers'"):
        models.create("layers")


def test_unknown_argument_is_reported():
    message = "config.model has no field 'deptth': did you mean 'depth'.* choose from depth, width"
    with pytest.raises(UserError, match=message):
        models.create("resnet", deptth=18)
