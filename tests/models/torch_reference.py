"""PyTorch networks to compare with; importing this skips the test module where torch is absent."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity with PyTorch needs the `torch` extra")


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
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return net.eval()


def stages(net, image):
    """The four stages' maps of a torchvision ResNet."""
    x = net.maxpool(net.relu(net.bn1(net.conv1(image))))
    maps = []
    for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
        x = layer(x)
        maps.append(x)
    return maps


def to_torch(image) -> "torch.Tensor":
    """[B, H, W, C] to [B, C, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(image), -1, 1)))


def to_ours(tensor) -> np.ndarray:
    """[B, C, H, W] to [B, H, W, C]."""
    return np.moveaxis(tensor.detach().numpy(), 1, -1)


def assert_close(actual, desired, tolerance: float = 1e-4):
    """Equal within `tolerance` of the largest value."""
    desired = np.asarray(desired)
    np.testing.assert_allclose(actual, desired, rtol=0, atol=tolerance * np.abs(desired).max())
