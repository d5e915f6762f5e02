"""`models/slice_sequence.py` against PyTorch, by weights carried over."""

import copy
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from knee_jax.errors import UserError
from knee_jax.models import resnet, slice_sequence, weights
from tests.models import torch_reference as reference
from tests.models.torch_reference import assert_close, torch, torchvision

SMALL = {"depth": 18, "embedding": 32, "heads": 4, "blocks": 2}
SHAPE = (2, 3, 32, 40, 1)
"""Of the volumes: knees, slices, rows, columns, channels."""

# Compiling takes longer than all the rest.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class Attention(torch.nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = torch.nn.Linear(width, 3 * width, bias=False)
        self.out = torch.nn.Linear(width, width)

    def forward(self, x):
        query, key, value = (
            torch.stack(part.chunk(self.heads, dim=-1), dim=1)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        self.seen = (query @ key.mT / math.sqrt(x.shape[-1])).softmax(-1)
        return self.out(torch.cat((self.seen @ value).unbind(1), dim=-1))


class Block(torch.nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.norm2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.hidden, self.out = torch.nn.Linear(width, width), torch.nn.Linear(width, width)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.out(torch.nn.functional.gelu(self.hidden(self.norm2(x))))


class Transformer(torch.nn.Module):
    def __init__(self, slices, features, width, heads, blocks):
        super().__init__()
        self.embed = torch.nn.Linear(features, width)
        self.class_token = torch.nn.Parameter(torch.randn(1, 1, width))
        self.positions = torch.nn.Parameter(torch.randn(1, slices + 1, width))
        self.number = blocks
        for i in range(blocks):
            setattr(self, f"block{i}", Block(width, heads))

    def forward(self, x):
        x = torch.cat([self.class_token.repeat(len(x), 1, 1), self.embed(x)], dim=1)
        x = x + self.positions
        for i in range(self.number):
            x = getattr(self, f"block{i}")(x)
        return x[:, 0]


class Head(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = torch.nn.LayerNorm(width)
        self.hidden, self.logits = torch.nn.Linear(width, width), torch.nn.Linear(width, 3)

    def forward(self, x):
        return self.logits(torch.nn.functional.gelu(self.hidden(self.norm(x))))


class Hidden(torch.nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.hidden = torch.nn.Linear(inputs, 512)

    def forward(self, x):
        return self.hidden(x.flatten(1)).relu()


class Reference(torch.nn.Module):
    """The paper's networks; `encoders` is of one ResNet, or of one a view."""

    def __init__(self, aggregation, views, slices, depth, embedding, heads, blocks):
        super().__init__()
        number = 3 if views == "individual" else 1
        make = getattr(torchvision.models, f"resnet{depth}")
        self.encoders = torch.nn.ModuleList(make(weights=None) for _ in range(number))
        self.views, self.aggregation = views, aggregation
        features = self.encoders[0].fc.in_features
        for encoder in self.encoders:
            encoder.fc = torch.nn.Identity()
        if aggregation == "transformer":
            self.aggregator = Transformer(slices, features, embedding, heads, blocks)
            self.head_progression = Head(embedding)
        elif aggregation == "linear":
            self.aggregator = Hidden(slices * features)
            self.head_progression = torch.nn.Linear(512, 3)
        else:
            self.aggregator = torch.nn.LSTM(features, 256, 2, batch_first=True, bidirectional=True)
            self.head_progression = torch.nn.Linear(512, 3)
        for module in self.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.normal_()
        reference.randomise(self)

    def forward(self, volume):
        """Reads [knees, slices, rows, columns]."""
        knees, _, rows, columns = volume.shape
        views = {"sagittal": volume.reshape(-1, rows, columns)}
        if self.views != "one":
            by_row = [volume[k, :, r].T for k in range(knees) for r in range(rows)]
            by_column = [volume[k, :, :, c].T for k in range(knees) for c in range(columns)]
            views |= {"axial": torch.stack(by_row), "coronal": torch.stack(by_column)}
        tokens = []
        for i, images in enumerate(views.values()):
            encoder = self.encoders[i % len(self.encoders)]
            tokens.append(encoder(images[:, None].expand(-1, 3, -1, -1)).unflatten(0, (knees, -1)))
        x = self.aggregator(torch.cat(tokens, dim=1))
        if self.aggregation == "lstm":
            x = torch.cat([x[0][:, -1, :256], x[0][:, 0, 256:]], dim=1)
        return self.head_progression(x)

    def state(self, values=lambda parameter: parameter.data) -> dict:
        """The weights, or what else `values` makes of them, by the names that `load` wants."""
        state = {name: values(value) for name, value in self.named_parameters()}
        state |= {n: v for n, v in self.named_buffers() if not n.endswith("num_batches_tracked")}
        named = {}
        for name, value in state.items():
            view = list(slice_sequence.VIEWS)[int(name[9])] if name.startswith("enc") else ""
            name = name.replace(
                f"encoders.{name[9:10]}.", f"{view}." if len(self.encoders) > 1 else ""
            )
            if self.aggregation == "lstm" and name.startswith("aggregator"):
                kind, part, layer, *reverse = name.split(".")[1].split("_")
                part = {"ih": "input", "hh": "state"}[part]
                kind = kind.replace("weight", "kernel")
                direction = "backwards" if reverse else "forwards"
                name = f"aggregator.{direction}{layer[1]}.{part}_{kind}"
            named[name] = value
        return named


@functools.cache
def pair(aggregation="transformer", views="one", shape=SHAPE, **kwargs):
    """The reference, our model, its variables with the reference's weights, and volumes."""
    torch.manual_seed(0)
    kwargs = {**SMALL, **kwargs}
    slices = shape[1] if views == "one" else sum(shape[1:4])
    net = Reference(aggregation, views, slices, **kwargs)
    model = slice_sequence.Model(aggregation=aggregation, views=views, dropout=0.0, **kwargs)
    volume = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), volume)
    return net, model, slice_sequence.load(variables, net.state()), volume


@pytest.mark.parametrize(
    ("aggregation", "views", "shape", "kwargs"),
    [
        ("transformer", "one", SHAPE, {}),
        pytest.param(*("transformer", "shared", (1, 2, 16, 17, 1), {}), marks=pytest.mark.long),
        ("transformer", "individual", (1, 2, 16, 17, 1), {}),
        ("linear", "one", SHAPE, {}),
        ("lstm", "one", SHAPE, {}),
        pytest.param(
            *("transformer", "one", (1, 4, 64, 64, 1)),
            {"depth": 50, "embedding": 2048, "heads": 8, "blocks": 4},
            marks=pytest.mark.long,
        ),
        *(
            pytest.param(name, "one", (1, 4, 64, 64, 1), {"depth": 50}, marks=pytest.mark.long)
            for name in ("linear", "lstm")
        ),
    ],
)
def test_logits_equal_pytorch(aggregation, views, shape, kwargs):
    net, model, variables, volume = pair(aggregation, views, shape, **kwargs)
    logits, seen = jit(functools.partial(model.apply, mutable=["intermediates"]))(variables, volume)
    with torch.no_grad():
        assert_close(logits["progression"], net(torch.from_numpy(volume[..., 0])))
    seen = seen["intermediates"]
    if aggregation == "transformer":
        last = getattr(net.aggregator, f"block{model.blocks - 1}").attention.seen
        assert_close(seen["attention"][0], last[:, :, 0, 1:])
        tokens = shape[1] if views == "one" else sum(shape[1:4])
        assert seen["attention"][0].shape == (shape[0], model.heads, tokens)
        assert seen["features"][0].shape == (shape[0], model.embedding)
    else:
        assert seen["features"][0].shape == (shape[0], 512)
        assert "attention" not in seen
    channels = 2048 if model.depth == 50 else 512
    if views == "one":
        side = (-(-shape[2] // 32), -(-shape[3] // 32))
        assert seen["maps"][0].shape == (shape[0] * shape[1], *side, channels)
    else:
        assert {len(seen[f"maps_{v}"][0]) for v in slice_sequence.VIEWS} == set(shape[1:4])


def step_of(model, volume, labels):
    """Loss, batch statistics and gradients of a training step."""

    def step(variables):
        def loss(params):
            logits, state = model.apply(
                {**variables, "params": params}, volume, train=True, mutable=["batch_stats"]
            )
            log_p = jax.nn.log_softmax(logits["progression"])
            return -log_p[np.arange(len(labels)), labels].mean(), state

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    return step


@pytest.mark.slow
@pytest.mark.parametrize(
    "aggregation", ["transformer", pytest.param("lstm", marks=pytest.mark.long)]
)
def test_training_step_equals_pytorch(aggregation):
    net, model, variables, volume = pair(aggregation)
    labels = np.array([2, 0])
    (value, state), gradients = jit(step_of(model, volume, labels))(variables)

    net = copy.deepcopy(net)
    expected = torch.nn.functional.cross_entropy(
        net.train()(torch.from_numpy(volume[..., 0])), torch.from_numpy(labels)
    )
    expected.backward()
    desired, _ = weights.from_source(net.state(lambda parameter: parameter.grad))
    assert_close(value, expected.item())
    found = flatten_dict({"params": gradients, **state})
    assert found.keys() == desired.keys()
    for path, actual in found.items():
        assert_close(actual, desired[path], 1e-3 if path[0] == "params" else 1e-5)


def filled(shapes):
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype("f4"), shapes)


@pytest.mark.long
def test_training_step_is_the_same_without_keeping_activations():
    _, model, variables, volume = pair()
    kept, again = (step_of(model.clone(remat=on), volume, np.array([2, 0])) for on in (False, True))
    for actual, desired in zip(
        jax.tree.leaves(jit(again)(variables)), jax.tree.leaves(jit(kept)(variables))
    ):
        assert_close(actual, desired, 1e-5)


def test_remat_changes_neither_values_nor_gradients_of_a_trunk():
    image = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    results = []
    for remat in (False, True):
        trunk = resnet.Trunk(18, width=4, stages=1, remat=remat)
        shapes = jax.eval_shape(trunk.init, jax.random.key(0), image)
        variables = filled(shapes)

        def loss(params, trunk=trunk, variables=variables):
            maps, state = trunk.apply(
                {**variables, "params": params}, image, True, mutable=["batch_stats"]
            )
            return jnp.square(maps[-1] - 1).mean(), state

        step = jax.value_and_grad(loss, has_aux=True)
        assert ("remat" in str(jax.make_jaxpr(step)(variables["params"]))) == remat
        results.append(jit(step)(variables["params"]))
    for actual, desired in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(actual, desired, rtol=1e-4, atol=1e-6)


def test_remat_reaches_every_encoder():
    for views in ("one", "individual"):
        shapes = shapes_of((2, 16, 16), views=views, **SMALL)
        model = slice_sequence.Model(views=views, remat=True, **SMALL)
        text = str(jax.make_jaxpr(model.apply)(shapes, jnp.zeros((1, 2, 16, 16, 1))))
        assert text.count("remat") == (8 if views == "one" else 24)


@pytest.mark.parametrize(
    ("shape", "kwargs", "count", "millions"),
    [
        ((64, 160, 160), {}, 132_766_787, 133),
        ((80, 160, 128), {}, 132_799_555, 133),
        ((160, 160, 64), {}, 132_963_395, 133),
        ((64, 160, 160), {"views": "shared"}, 133_422_147, 133),
        ((64, 160, 160), {"views": "individual"}, 180_438_211, 180),
        ((64, 160, 160), {"aggregation": "linear"}, 90_618_947, 91),
        # The paper prints 29.
        ((64, 160, 160), {"aggregation": "lstm"}, 29_809_219, 30),
    ],
)
def test_networks_have_the_published_number_of_parameters(shape, kwargs, count, millions):
    """Panfilov et al. 2022, Table 1, in millions."""
    params = shapes_of(shape, **kwargs)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
    assert round(count / 1e6) == millions
    encoders = 3 if kwargs.get("views") == "individual" else 1
    assert sum(leaf.size for leaf in jax.tree.leaves(params["trunk"])) == encoders * 23_508_032


def shapes_of(shape, **kwargs):
    model = slice_sequence.Model(**kwargs)
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape, 1)))


@pytest.mark.parametrize("views", ["one", "shared", "individual"])
def test_weights_of_a_resnet_go_to_every_encoder(views):
    net = reference.resnet(18, classes=1000)
    shapes = shapes_of((2, 32, 33), views=views, **SMALL)
    before = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    after = slice_sequence.load(before, net.state_dict())
    assert jax.tree.structure(before) == jax.tree.structure(after)
    kernel = net.layer3[1].conv2.weight.detach().numpy().transpose(2, 3, 1, 0)
    for view in slice_sequence.VIEWS if views == "individual" else [""]:
        for collection, name, leaf, desired in (
            ("params", "conv2", "kernel", kernel),
            ("batch_stats", "bn2", "var", net.layer3[1].bn2.running_var),
        ):
            trunk = after[collection]["trunk"]
            trunk = trunk[view] if view else trunk
            np.testing.assert_array_equal(trunk["layer3_1"][name][leaf], desired)
    rest = {name: value for name, value in after["params"].items() if name != "trunk"}
    assert rest
    assert not any(leaf.any() for leaf in jax.tree.leaves(rest))


@pytest.mark.parametrize(
    "kwargs", [{}, {"views": "individual"}, {"aggregation": "linear"}, {"aggregation": "lstm"}]
)
@pytest.mark.parametrize("layout", [weights.to_own, weights.to_torch])
def test_weights_go_to_a_file_and_back(kwargs, layout, tmp_path):
    shapes = shapes_of((2, 32, 33), width=4, **{**SMALL, **kwargs})
    rng = np.random.default_rng(0)
    values = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype("f4"), shapes)
    weights.write(tmp_path / "weights.npz", layout(flatten_dict(values)))
    loaded = slice_sequence.load(shapes, tmp_path / "weights.npz")
    jax.tree.map(np.testing.assert_array_equal, loaded, values)


def test_initial_values_are_those_of_the_published_code():
    """Positions and class token N(0, 1); an LSTM's all U(-1/sqrt(width), 1/sqrt(width))."""
    x = jnp.zeros((1, 64, 16))
    transformer = slice_sequence.Transformer(128, 4, 1, 0.1, jnp.float32)
    params = jit(transformer.init, static_argnums=2)(jax.random.key(0), x, False)["params"]
    for name in ("positions", "class_token"):
        assert float(params[name].std()) == pytest.approx(1, rel=0.15)
    lstm = slice_sequence.Lstm(256, reverse=False)
    for leaf in jax.tree.leaves(jit(lstm.init)(jax.random.key(0), x)["params"]):
        assert 0.98 / 16 < float(jnp.abs(leaf).max()) <= 1 / 16


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"heads": 5}, "heads = 5 do not divide embedding = 32"),
        ({"aggregation": "gru"}, "unknown aggregation 'gru'; choose from: transformer, linear, ls"),
        ({"views": "two"}, "unknown views 'two'; choose from: one, shared, individual"),
        ({"depth": 51}, "unknown ResNet depth 51"),
        ({"targets": ("hip",)}, "unknown target 'hip'"),
    ],
)
def test_wrong_settings_are_reported(kwargs, message):
    with pytest.raises(UserError, match=message):
        shapes_of((2, 32, 32), **{**SMALL, **kwargs})


@pytest.mark.parametrize("shape", [(1, 32, 32, 1), (1, 2, 32, 32, 3)])
def test_what_is_no_volume_is_reported(shape):
    model = slice_sequence.Model(**SMALL)
    with pytest.raises(UserError, match=r"reads grey volumes, \[batch, slices, rows, columns, 1\]"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))


@pytest.mark.parametrize("aggregation", ["transformer", "linear"])
def test_another_number_of_slices_is_reported(aggregation):
    model = slice_sequence.Model(aggregation=aggregation, **SMALL)
    shapes = shapes_of((3, 32, 32), aggregation=aggregation, **SMALL)
    with pytest.raises(UserError, match="are for another number of slices than 4"):
        jax.eval_shape(model.apply, shapes, jnp.zeros((1, 4, 32, 32, 1)))


def test_an_lstm_reads_any_number_of_slices():
    model = slice_sequence.Model(aggregation="lstm", **SMALL)
    shapes = shapes_of((3, 32, 32), aggregation="lstm", **SMALL)
    logits = jax.eval_shape(model.apply, shapes, jnp.zeros((1, 4, 32, 32, 1)))
    assert logits["progression"].shape == (1, 3)


def test_published_dropout_and_normalisation():
    """Of the published code; a variance of the order of epsilon shows it."""
    assert slice_sequence.DROPOUT == {"transformer": 0.1, "linear": 0.2, "lstm": 0.1}
    x = np.array([[1.0, -1.0]], np.float32) * 1e-5**0.5
    norm = slice_sequence.layer_norm("norm")
    found = norm.apply(norm.init(jax.random.key(0), x), x)
    np.testing.assert_allclose(found, [[0.5**0.5, -(0.5**0.5)]], rtol=1e-4)
