"""PyTorch networks to compare with; importing this skips the test module where torch is absent."""

import functools
import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity with PyTorch needs the `torch` extra")


SIZES = ((310, 256), (299, 299), (224, 224), (300, 300))
"""Heights and widths at which networks are compared; of the deepest, all but the first in slow
tests. That one halves to odd and to even numbers."""


CLASSIFIER = re.compile(r"^(fc|last_linear|classifier\.6|head\.fc|classifier)\.(?!\d)")
"""The last layer of the references, whatever they call it."""


def _import_torchvision():
    """Imports torchvision also beside a CPU torch, for which it has no compiled operators.

    Its Python code only needs their names declared.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        pytest.skip("parity with PyTorch needs torchvision", allow_module_level=True)
    registrations = (Path(spec.origin).parent / "_meta_registrations.py").read_text()
    operators = set(re.findall(r'(?:register_meta\("|torchvision::)(\w+)"\)', registrations))
    library = torch.library.Library("torchvision", "DEF")
    for operator in operators:
        library.define(f"{operator}(Tensor x) -> Tensor")
    import torchvision

    return library, torchvision


try:
    import torchvision
except (ImportError, RuntimeError):
    _keep, torchvision = _import_torchvision()


def resnet(depth: int, channels: int = 3, classes: int = 5, seed: int = 0):
    """A torchvision ResNet with random weights and random batch-norm parameters and statistics."""
    torch.manual_seed(seed)
    net = getattr(torchvision.models, f"resnet{depth}")(weights=None, num_classes=classes)
    if channels != 3:
        net.conv1 = torch.nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
    return randomise(net)


def from_timm(name: str, classes: int = 5, seed: int = 0, **kwargs):
    """A network of timm with random weights, batch-norm parameters and statistics."""
    timm = pytest.importorskip("timm", reason="parity with timm needs the `torch` extra")
    torch.manual_seed(seed)
    return randomise(timm.create_model(name, num_classes=classes, **kwargs))


def randomise(net):
    """Gives batch norm random parameters and statistics, and sets the network to evaluation."""
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm3d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return net.eval()


class Blocks(torch.nn.Module):
    """Unpadded 3x3 convolutions, each with batch norm and ReLU; the first with a stride."""

    def __init__(self, inputs: int, features: int, convolutions: int, stride: int, eps: float):
        super().__init__()
        for i in range(1, convolutions + 1):
            step = stride if i == 1 else 1
            self.add_module(f"conv{i}", torch.nn.Conv2d(inputs, features, 3, step))
            self.add_module(f"bn{i}", torch.nn.BatchNorm2d(features, eps=eps))
            inputs = features

    def forward(self, x):
        for i in range(1, len(self._modules) // 2 + 1):
            x = torch.relu(self._modules[f"bn{i}"](self._modules[f"conv{i}"](x)))
        return x


class ChannelAttention(torch.nn.Module):
    """CBAM's, with one hidden unit to eight channels."""

    def __init__(self, channels: int):
        super().__init__()
        self.fc1 = torch.nn.Conv2d(channels, channels // 8, 1, bias=False)
        self.fc2 = torch.nn.Conv2d(channels // 8, channels, 1, bias=False)

    def forward(self, x):
        average = torch.nn.functional.adaptive_avg_pool2d(x, 1)
        maximum = torch.nn.functional.adaptive_max_pool2d(x, 1)
        scores = self.fc2(torch.relu(self.fc1(average))) + self.fc2(torch.relu(self.fc1(maximum)))
        return torch.sigmoid(scores)


def patches(image, size: int):
    """The lateral patch and the mirrored medial one of [B, C, H, W]."""
    top = image.shape[2] // 3
    rows = image[:, :, top : top + size]
    return rows[..., :size], torch.flip(rows[..., image.shape[3] - size :], (3,))


class SiameseGAP(torch.nn.Module):
    """Wang et al.'s network, its parts named as ours: no code of it can be imported."""

    def __init__(
        self,
        width: int = 32,
        attention: bool = True,
        positions=(1, 2, 3, 4),
        pooling: str = "average",
        combine: str = "add",
        patch: int = 128,
        classes: int = 2,
        channels: int = 1,
    ):
        super().__init__()
        self.positions, self.pooling, self.combine = positions, pooling, combine
        self.patch, self.attention = patch, attention
        self.blocks = max(positions)
        inputs = channels
        for i, convolutions in enumerate((2, 3, 4, 4)[: self.blocks], 1):
            features = width * 2 ** (i - 1)
            block = Blocks(inputs, features, convolutions, 1 if i == 1 else 2, 1e-5)
            self.add_module(f"block{i}", block)
            if attention:
                self.add_module(f"attention{i}", ChannelAttention(features))
            inputs = features
        read = sum(width * 2 ** (i - 1) for i in positions)
        self.fc = torch.nn.Linear(read * (2 if combine == "concatenate" else 1), classes)

    def branch(self, x):
        vectors = []
        for i in range(1, self.blocks + 1):
            x = self._modules[f"block{i}"](x)
            if i in self.positions:
                vectors.append(x.mean((2, 3)) if self.pooling == "average" else x.amax((2, 3)))
            if self.attention and i < self.blocks:
                x = x + x * self._modules[f"attention{i}"](x)
        return torch.cat(vectors, 1)

    def forward(self, image):
        lateral, medial = map(self.branch, patches(image, self.patch))
        both = torch.cat((lateral, medial), 1) if self.combine == "concatenate" else None
        return self.fc(lateral + medial if both is None else both)


def stages(net, image):
    """The four stages' maps of a ResNet, or of timm's legacy SENet."""
    if hasattr(net, "layer0"):
        x = net.pool0(net.layer0(image))
    else:
        x = net.maxpool(torch.relu(net.bn1(net.conv1(image))))
    maps = []
    for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
        x = layer(x)
        maps.append(x)
    return maps


def assert_network_equals(net, model, module, height: int, width: int, channels: int = 3):
    """Our stages' maps and KL logits are those of `net`, whose weights also come back as they were.

    Args:
        net: the reference, with a classifier of 5 classes.
        model: our `Model`, reading KL alone.
        module: our file of that model, with `load`.
        height: of the image, in pixels.
        width: of the image, in pixels.
        channels: of the image.
    """
    import jax
    from flax.traverse_util import flatten_dict

    from knee_jax.models import weights

    image = np.random.default_rng(1).normal(size=(1, height, width, channels)).astype(np.float32)
    state = state_dict(net)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    variables = module.load(variables, state)

    # Compiling takes longer than all the rest.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def apply(variables):
        return model.apply(variables, image, capture_intermediates=True)

    logits, captured = apply(variables)
    maps = captured["intermediates"]["trunk"]["__call__"][0]
    with torch.no_grad():
        expected_maps = stages(net, to_torch(image))
        expected_logits = net(to_torch(image))
    for actual, desired in zip(maps, expected_maps, strict=True):
        assert_close(actual, to_ours(desired))
    assert_close(logits["kl"], expected_logits)

    back = weights.to_torch(flatten_dict(variables))
    for name, value in state.items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(back.pop(name), value.numpy())
    assert not back


def assert_training_step_equals(net, model, image):
    """Loss, gradients and running statistics of one step are those of `net`, and logits before it.

    The reference computes in double precision: in single, PyTorch's own gradients are off by up to
    a hundredth behind batch norm of few numbers.

    Args:
        net: the reference, without dropout, with a classifier for the only target of the model.
        model: our `Model`, without dropout.
        image: [batch, height, width, channels].
    """
    import jax
    from flax.traverse_util import flatten_dict

    from knee_jax.models import weights

    (target,) = model.targets
    state = state_dict(net, target)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    variables = weights.fill(variables, state)
    net, inputs = net.double(), to_torch(image).double()
    with torch.no_grad():
        expected = net.eval()(inputs)
    labels = np.arange(len(image)) % expected.shape[1]

    # Compiling takes longer than all the rest.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def step(variables):
        def loss(params):
            logits, state = model.apply(
                {**variables, "params": params}, image, train=True, mutable=["batch_stats"]
            )
            log_p = jax.nn.log_softmax(logits[target])
            return -log_p[np.arange(len(labels)), labels].mean(), state

        value = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        return value, model.apply(variables, image)[target]

    ((value, statistics), gradients), logits = step(variables)
    assert_close(logits, expected)
    expected = torch.nn.functional.cross_entropy(net.train()(inputs), torch.from_numpy(labels))
    expected.backward()
    assert value == pytest.approx(expected.item(), rel=1e-4)

    after = state_dict(net, target)
    names = dict(zip(net.state_dict(), after, strict=True))
    for name, parameter in net.named_parameters():
        unread = parameter.grad is None
        after[names[name]] = torch.zeros_like(parameter) if unread else parameter.grad
    desired, _ = weights.from_source(after)
    assert desired.keys() == flatten_dict({"params": gradients, **statistics}).keys()
    # Batch norm takes the gradients of some layers before it away, but for what is rounded.
    largest = max(np.abs(value).max() for path, value in desired.items() if path[0] == "params")
    for path, value in flatten_dict({"params": gradients, **statistics}).items():
        if path[0] == "params":
            scale = max(np.abs(desired[path]).max(), 1e-3 * largest)
            np.testing.assert_allclose(value, desired[path], rtol=0, atol=1e-3 * scale)
        else:
            assert_close(value, desired[path], 1e-5)


def state_dict(net, target: str = "kl") -> dict:
    """The reference's weights, its classifier named as our head."""
    return {
        CLASSIFIER.sub(f"head_{target}.", name): value for name, value in net.state_dict().items()
    }


def to_torch(image) -> "torch.Tensor":
    """[B, ..., C] to [B, C, ...]."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(image), -1, 1)))


def to_ours(tensor) -> np.ndarray:
    """[B, C, ...] to [B, ..., C]."""
    return np.moveaxis(tensor.detach().numpy(), 1, -1)


def assert_close(actual, desired, tolerance: float = 1e-4):
    """Equal within `tolerance` of the largest value."""
    desired = np.asarray(desired)
    np.testing.assert_allclose(actual, desired, rtol=0, atol=tolerance * np.abs(desired).max())
