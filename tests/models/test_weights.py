import functools
import pickle

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from knee_jax import models
from knee_jax.errors import UserError
from knee_jax.models import keypoint_pooling, resnet, weights

TRUNK_18 = {"conv1.weight": (4, 3, 7, 7)}
for _stage in (1, 2, 3, 4):
    _in, _out = (4 << max(_stage - 2, 0)), (4 << (_stage - 1))
    for _block in (0, 1):
        _name = f"layer{_stage}.{_block}"
        TRUNK_18[f"{_name}.conv1.weight"] = (_out, _in if _block == 0 else _out, 3, 3)
        TRUNK_18[f"{_name}.conv2.weight"] = (_out, _out, 3, 3)
        if _stage > 1 and _block == 0:
            TRUNK_18[f"{_name}.downsample.0.weight"] = (_out, _in, 1, 1)
for _name in list(TRUNK_18):
    _norm = _name.replace("conv", "bn").replace("downsample.0", "downsample.1")
    for _leaf in ("weight", "bias", "running_mean", "running_var"):
        TRUNK_18[_norm.replace("weight", _leaf)] = TRUNK_18[_name][:1]


@pytest.fixture
def source():
    """A ResNet-18 of width 4 in torchvision's layout, with its classifier and counters."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=shape).astype("f4") for name, shape in TRUNK_18.items()}
    arrays["fc.weight"], arrays["fc.bias"] = np.zeros((1000, 32)), np.zeros(1000)
    arrays["bn1.num_batches_tracked"] = np.array(7)
    return arrays


@functools.cache
def variables(channels=3, name="resnet", **kwargs):
    model = models.create(name, depth=18, width=4, targets=("kl", "osfl"), **kwargs)
    image = np.zeros((1, 32, 32, channels), np.float32)
    keypoints = np.ones((1, 74, 2), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image, keypoints)
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)


def test_every_array_finds_its_place(source):
    before, after = variables(), resnet.load(variables(), source)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    trunk = after["params"]["trunk"]
    np.testing.assert_array_equal(
        trunk["layer3_0"]["downsample_conv"]["kernel"][0, 0],
        source["layer3.0.downsample.0.weight"][:, :, 0, 0].T,
    )
    np.testing.assert_array_equal(
        trunk["conv1"]["kernel"], source["conv1.weight"].transpose(2, 3, 1, 0)
    )
    np.testing.assert_array_equal(
        after["batch_stats"]["trunk"]["bn1"]["var"], source["bn1.running_var"]
    )
    for path, value in flatten_dict(after).items():
        untouched = np.array_equal(value, flatten_dict(before)[path])
        assert untouched == path[1].startswith("head_")


def test_heads_are_taken_where_named(source):
    source["head_osfl.weight"] = np.full((4, 32), 2.0)
    source["head_osfl.bias"] = np.arange(4.0)
    params = resnet.load(variables(), source)["params"]
    np.testing.assert_array_equal(params["head_osfl"]["bias"], np.arange(4))
    np.testing.assert_array_equal(params["head_osfl"]["kernel"], np.full((32, 4), 2))
    np.testing.assert_array_equal(
        params["head_kl"]["kernel"], variables()["params"]["head_kl"]["kernel"]
    )


def test_grey_stem_is_the_sum_over_the_colours(source):
    kernel = resnet.load(variables(channels=1), source)["params"]["trunk"]["conv1"]["kernel"]
    np.testing.assert_allclose(
        kernel[:, :, 0], source["conv1.weight"].sum(1).transpose(1, 2, 0), rtol=1e-5, atol=1e-6
    )


def test_a_stem_of_one_channel_is_spread_over_the_colours(source, caplog):
    grey = {**source, "conv1.weight": source["conv1.weight"].sum(1, keepdims=True)}
    kernel = resnet.load(variables(), grey)["params"]["trunk"]["conv1"]["kernel"]
    one = grey["conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_allclose(kernel, np.repeat(one, 3, axis=2) / 3, rtol=1e-6)
    assert caplog.messages == ["the stem of 1 channels was made one of 3"]


@pytest.mark.parametrize(
    "stem", ["conv1", "layer0.conv1", "features.conv0", "features.0", "block1.conv1"]
)
def test_prefixes_of_every_network(stem):
    names = [f"{stem}.weight", "layer1.0.conv1.weight", "fc.weight"]
    assert weights.prefix_of(names) == ""
    for prefix in ("model.", "net.model.", "_orig_mod.module."):
        named = [prefix + name for name in names]
        assert weights.prefix_of([*named, "loss.weight"]) == prefix
    assert weights.prefix_of(["resnet.conv1.weight", "vgg.conv1.weight"]) == ""


def test_a_prefix_is_logged(source, caplog):
    named = {f"model.{name}": array for name, array in source.items()}
    loaded = resnet.load(variables(), named | {"loss.weight": np.ones(3)})
    jax.tree.map(np.testing.assert_array_equal, loaded, resnet.load(variables(), source))
    assert caplog.messages == ["the weights are those below the prefix 'model.'"]


def test_three_stages_leave_the_fourth_behind(source):
    loaded = keypoint_pooling.load(variables(name="keypoint_pooling"), source)
    assert "layer4_0" not in loaded["params"]["trunk"]
    np.testing.assert_array_equal(
        loaded["params"]["trunk"]["layer3_1"]["bn2"]["scale"], source["layer3.1.bn2.weight"]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("layer2.1.bn2.running_var"), r"lack 'layer2\.1\.bn2\.running_var', which"),
        (lambda s: s.update({"head_kl.bias": np.zeros(5)}), r"lack 'head_kl\.weight'"),
        (lambda s: s.update({"a/b": np.zeros(5)}), "hold 'a/b', which is no variable"),
        (lambda s: s.update(module=np.zeros(3), net={"conv1.weight": 1}), "lack 'bn1.bias'"),
        (lambda s: s.update(model={}, net={}), r"several state dicts \(model, net\)"),
        (lambda s: s.clear(), "holds no weights"),
        (lambda s: s.update(extra=np.zeros(3)), "hold 'extra'"),
        (lambda s: s.update({"layer4.2.conv1.weight": np.zeros(3)}), r"hold 'layer4\.2\.conv1"),
        (
            lambda s: s.update({"layer1.0.conv1.weight": np.zeros((4, 4, 5, 5))}),
            r"'layer1\.0\.conv1\.weight' has shape \(5, 5, 4, 4\).* needs \(3, 3, 4, 4\)",
        ),
        (lambda s: s.update({"bn1.bias": "text"}), r"'bn1\.bias' is not an array"),
        (lambda s: s.update({"bn1.bias": {"a": 1}}), r"'bn1\.bias' is not an array"),
    ],
)
def test_what_does_not_fit_is_named(source, change, message):
    change(source)
    with pytest.raises(UserError, match=message):
        resnet.load(variables(), source)


@pytest.mark.parametrize("nest", ["state_dict", "model_state_dict", "model", "net", None])
def test_wrappings_are_taken_off(source, nest):
    wrapped = {f"module.{name}": array for name, array in source.items()}
    if nest:
        wrapped = {"epoch": 3, nest: wrapped}
    loaded = resnet.load(variables(), wrapped)
    jax.tree.map(np.testing.assert_array_equal, loaded, resnet.load(variables(), source))


def test_weights_of_another_network_are_described(source):
    bottleneck = models.create("resnet", depth=50, width=4)
    shapes = jax.eval_shape(bottleneck.init, jax.random.key(0), np.zeros((1, 32, 32, 3)))
    message = (
        r"lack 'layer1\.0\.bn3\..*' and \d+ more.*; 'layer1\.0\.conv1\.weight' has shape .* They "
        r"look like a ResNet of 2, 2, 2, 2 blocks \(3x3, 3x3\) with a stem of 4 channels"
    )
    with pytest.raises(UserError, match=message):
        resnet.load(shapes, source)


POOLED = {"pooling": "gwap_hidden", "targets": ("kl", "osfl")}


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("resnet", {"depth": 18}),
        ("resnet", {"depth": 34, **POOLED}),
        ("resnet", {"depth": 50}),
        ("senet", {"arch": "se_resnet50"}),
        ("senet", {"arch": "se_resnext50_32x4d", **POOLED}),
        ("keypoint_pooling", {"depth": 18, "hidden": 4}),
        ("siamese_gap", {"patch": 99}),
        ("tiulpin2018", {"patch": 49}),
        ("antony2017", {}),
        ("densenet", {"depth": 121}),
        ("vgg", {"depth": 11}),
    ],
)
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_every_network_goes_to_a_file_and_back_in_both_layouts(name, kwargs, suffix, tmp_path):
    model = models.create(name, width=4, **kwargs)
    inputs = np.zeros((1, 149, 149, 1), np.float32), np.ones((1, 74, 2), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    rng = np.random.default_rng(0)
    values = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype("f4"), shapes)
    flat = flatten_dict(values)
    foreign = weights.to_torch(flat)
    assert len(foreign) == len(flat)
    for i, arrays in enumerate((weights.to_own(flat), foreign)):
        weights.write(tmp_path / f"{i}{suffix}", arrays)
        found, _ = weights.from_source(tmp_path / f"{i}{suffix}")
        assert found.keys() == flat.keys()
        loaded = models.load(name, shapes, tmp_path / f"{i}{suffix}")
        jax.tree.map(np.testing.assert_array_equal, loaded, values)
    assert {path.name for path in tmp_path.iterdir()} == {f"0{suffix}", f"1{suffix}"}


def test_a_file_that_cannot_be_written_is_reported(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"weights can be written to \.npz, \.safetensors, \.pth"):
        weights.write(tmp_path / "weights.h5", {})
    monkeypatch.setitem(__import__("sys").modules, "safetensors.numpy", None)
    with pytest.raises(UserError, match="writing it needs a library: pip install safetensors"):
        weights.write(tmp_path / "weights.safetensors", {})
    assert not any(tmp_path.iterdir())


def test_npz_file_is_read(source, tmp_path):
    np.savez(tmp_path / "weights.npz", **source)
    from_file = resnet.load(variables(), tmp_path / "weights.npz")
    from_memory = resnet.load(variables(), source)
    jax.tree.map(np.testing.assert_array_equal, from_file, from_memory)


def test_safetensors_file_is_read(source, tmp_path):
    import safetensors.numpy as safetensors

    safetensors.save_file(source, tmp_path / "weights.safetensors")
    from_file = resnet.load(variables(), tmp_path / "weights.safetensors")
    jax.tree.map(np.testing.assert_array_equal, from_file, resnet.load(variables(), source))


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


def test_pickled_code_is_not_executed(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, bomb=np.array([Bomb()], dtype=object))
    with pytest.raises(UserError, match=r"weights\.npz: cannot be read"):
        weights.read(path)
    pytest.importorskip("torch", reason="needs the `torch` extra")
    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps({"conv1.weight": Bomb()}))
    with pytest.raises(UserError, match=r"weights\.pth: cannot be read"):
        weights.read(path)


def test_files_that_cannot_be_read_are_reported(tmp_path):
    with pytest.raises(UserError, match=r"gone\.npz: no such file"):
        weights.read(tmp_path / "gone.npz")
    with pytest.raises(UserError, match=r"one of \.npz, \.safetensors, \.pth"):
        weights.read("weights.h5")
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(UserError, match=r"text\.npz: cannot be read"):
        weights.read(tmp_path / "text.npz")


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    (tmp_path / "weights.safetensors").write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, "safetensors.numpy", None)
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    with pytest.raises(UserError, match="pip install safetensors"):
        weights.read(tmp_path / "weights.safetensors")


def test_the_names_asked_for_are_torchvisions():
    """The names that `load` asks for are exactly torchvision's."""
    paths = flatten_dict(variables())
    names = {weights.torch_name(path) for path in paths if path[1] == "trunk"}
    assert names == set(TRUNK_18)


@pytest.mark.parametrize(
    "kwargs", [{"regression": True, "hidden": 4}, {"aggregation": "attention"}, {"kpn": False}]
)
def test_every_head_of_keypoint_pooling_survives_pytorchs_layout(kwargs):
    rng = np.random.default_rng(0)
    before = flatten_dict(variables(name="keypoint_pooling", **kwargs))
    before = {path: rng.normal(size=leaf.shape).astype("f4") for path, leaf in before.items()}
    there, _ = weights.from_source(weights.to_torch(before))
    assert there.keys() == before.keys()
    for path, value in before.items():
        np.testing.assert_array_equal(there[path], value, str(path))
    filled = keypoint_pooling.load(
        variables(name="keypoint_pooling", **kwargs), weights.to_torch(before)
    )
    for path, value in flatten_dict(filled).items():
        np.testing.assert_array_equal(value, before[path], str(path))
