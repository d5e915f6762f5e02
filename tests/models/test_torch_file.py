"""`models/torch_file.py`: what PyTorch wrote, and what somebody wrote to do harm."""

import collections
import contextlib
import os
import pickle
import zipfile

import numpy as np
import pytest

from knee_jax.models import torch_file


def saved(path, value, legacy):
    torch = pytest.importorskip("torch", reason="needs the `torch` extra")
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_of_every_type_and_layout_come_back(tmp_path, legacy):
    torch = pytest.importorskip("torch", reason="needs the `torch` extra")
    base = torch.arange(24.0).reshape(4, 6)
    value = {
        "plain": base,
        "transposed": base.T,
        "part": base[1:3, 2:5],
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "half": base.half(),
        "brain": base.bfloat16(),
        "long": torch.arange(5),
        "truth": torch.tensor([True, False]),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "nested": {"list": [torch.ones(1), 2, "text"]},
    }
    found = torch_file.read(saved(tmp_path / "a.pth", value, legacy))
    for name in value.keys() - {"nested"}:
        desired = value[name].detach().float().numpy()
        np.testing.assert_array_equal(found[name].astype(np.float32), desired)
    assert found["nested"]["list"][1:] == [2, "text"]


@pytest.mark.parametrize("legacy", [False, True])
def test_other_objects_are_opaque_and_nothing_is_called(tmp_path, legacy):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    value = {"weight": None, "harm": Harm(), "settings": collections.Counter("ab")}
    torch = pytest.importorskip("torch", reason="needs the `torch` extra")
    value["weight"] = torch.ones(2)
    found = torch_file.read(saved(tmp_path / "a.pth", value, legacy))
    assert not (tmp_path / "harm").exists()
    assert isinstance(found["harm"], torch_file.Opaque)
    np.testing.assert_array_equal(found["weight"], [1, 1])


def test_bare_pickles_and_other_files_are_refused(tmp_path):
    for name, content in {
        "pickle": pickle.dumps({"a": 1}),
        "text": b"not weights",
        "empty": b"",
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"damaged|not a file"):
            torch_file.read(path)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.txt", "text")
    with pytest.raises(ValueError, match=r"damaged|unpack"):
        torch_file.read(tmp_path / "other.zip")


@pytest.mark.parametrize("legacy", [False, True])
def test_damage_is_an_error_of_one_kind(tmp_path, legacy):
    torch = pytest.importorskip("torch", reason="needs the `torch` extra")
    path = saved(tmp_path / "a.pth", {"a": torch.arange(64.0), "b": torch.ones(3, 3)}, legacy)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        data = bytearray(whole)
        if rng.random() < 0.3:
            data = data[: rng.integers(len(data))]
        for place in rng.integers(max(len(data), 1), size=3):
            if data:
                data[place] = rng.integers(256)
        path.write_bytes(bytes(data))
        with contextlib.suppress(ValueError, OSError):
            torch_file.read(path)


def test_a_view_beyond_its_storage_is_refused():
    tensor = torch_file._Tensor(torch_file._Storage("0", np.float32), 2, (3, 3), (3, 1))
    with pytest.raises(ValueError, match="beyond its storage"):
        tensor.read(np.zeros(10, np.float32))
    assert tensor.read(np.arange(11, dtype=np.float32))[-1, -1] == 10
