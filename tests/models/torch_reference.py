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
        width: likewise.
        channels: likewise.
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


def state_dict(net) -> dict:
    """The reference's weights, its classifier named as our KL head."""
    return {
        re.sub(r"^(fc|last_linear)\.", "head_kl.", name): value
        for name, value in net.state_dict().items()
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
