"""Weights from PyTorch's layout to ours and back, as files and as a run's folder."""

import functools

import jax
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from knee_jax import models
from knee_jax.errors import UserError
from knee_jax.inference import conversion
from knee_jax.models import weights
from knee_jax.workdir.checkpoint import Checkpoints
from tests import commands

CLASSIFIERS = {
    "se_resnet": "last_linear",
    "se_resnext50_32x4d": "last_linear",
    "densenet": "classifier",
    "vgg": "classifier.6",
}


@functools.cache
def variables(model, width=4):
    """Random variables of a narrow network, in our layout, heads included."""
    name, attributes = conversion.MODELS[model]
    network = models.create(name, width=width, targets=("kl", "osfl"), **attributes)
    shapes = jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, 32, 32, 3), "f4"))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype("f4"), shapes)


@functools.cache
def published(model, classifier="fc"):
    """A state dict as others publish it: a trunk, a classifier of 1000 classes, counters."""
    state = weights.to_torch(flatten_dict(variables(model)))
    state = {name: array for name, array in state.items() if not name.startswith("head_")}
    state[f"{classifier}.weight"] = np.zeros((1000, 8), np.float32)
    state[f"{classifier}.bias"] = np.zeros(1000, np.float32)
    state["layer1.0.bn1.num_batches_tracked"] = np.array(9)
    return state


@pytest.mark.parametrize("model", conversion.MODELS)
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_there_and_back_keeps_every_bit(model, suffix, tmp_path):
    foreign, own, back = (tmp_path / name for name in (f"a{suffix}", "own.npz", f"b{suffix}"))
    classifier = CLASSIFIERS.get(model.rstrip("_bn0123456789"), "fc")
    weights.write(foreign, published(model, classifier))
    summary = conversion.convert(foreign, own, model, width=4)
    assert f"left out  {classifier}, 1 counters of batch norm\n" in summary
    heads = "classifier_0, classifier_3" if model.startswith("vgg") else "none"
    assert f"heads: {heads}" in summary
    conversion.convert(own, back, layout="torch")
    before, after = weights.read(foreign), weights.read(back)
    assert before.keys() - after.keys() == {
        f"{classifier}.weight",
        f"{classifier}.bias",
        "layer1.0.bn1.num_batches_tracked",
    }
    assert not after.keys() - before.keys()
    for name, array in after.items():
        assert array.tobytes() == before[name].tobytes()
        assert array.shape == before[name].shape
    name, _ = conversion.MODELS[model]
    loaded, direct = (models.load(name, variables(model), file) for file in (own, foreign))
    jax.tree.map(np.testing.assert_array_equal, loaded, direct)


def test_heads_travel_unless_they_shall_not(tmp_path):
    source, kept, bare = (tmp_path / f"{name}.npz" for name in ("source", "kept", "bare"))
    weights.write(source, weights.to_own(flatten_dict(variables("resnet18"))))
    summary = conversion.convert(source, kept, layout="torch")
    assert "heads: head_kl, head_osfl\n" in summary
    state = weights.read(kept)
    desired = variables("resnet18")["params"]["head_kl"]
    np.testing.assert_array_equal(state["head_kl.weight"], desired["kernel"].T)
    np.testing.assert_array_equal(state["head_kl.bias"], desired["bias"])
    summary = conversion.convert(source, bare, "resnet18", width=4, heads=False)
    assert "left out  params.head_kl, params.head_osfl\n" in summary
    assert not any("head" in name for name in weights.read(bare))


def test_pth_is_read_and_written(tmp_path):
    torch = pytest.importorskip("torch", reason="needs the `torch` extra")
    state = {name: torch.from_numpy(array) for name, array in published("se_resnet50").items()}
    torch.save(
        {"epoch": 1, "state_dict": {f"module.{name}": value for name, value in state.items()}},
        tmp_path / "a.pth",
    )
    conversion.convert(tmp_path / "a.pth", tmp_path / "b.pth", "se_resnet50", width=4)
    back = torch.load(tmp_path / "b.pth", weights_only=True)
    assert {name for name in state if name not in back} == {
        "fc.weight",
        "fc.bias",
        "layer1.0.bn1.num_batches_tracked",
    }
    assert all(torch.equal(back[name], state[name]) for name in back)


@pytest.mark.slow
def test_a_runs_best_network_is_converted(tmp_path):
    run, out = tmp_path / "run", tmp_path / "best.safetensors"
    best = variables("se_resnext50_32x4d")
    worse = jax.tree.map(lambda value: value + 1, best)
    (run / "checkpoints").mkdir(parents=True)
    with Checkpoints(run / "checkpoints") as checkpoints:
        for step, values, score in ((1, best, 0.7), (2, worse, 0.6)):
            moments = optax.adam(1e-3).init(values["params"])
            state = {"step": np.int32(step), "opt_state": moments, **values}
            checkpoints.save(step, jax.tree.map(jax.numpy.asarray, state), score)
    conversion.convert(run, out)
    found, _ = weights.from_source(out)
    assert found.keys() == flatten_dict(best).keys()
    for path, value in flatten_dict(best).items():
        np.testing.assert_array_equal(found[path], value)


PREFIXES = ("model.", "backbone.", "encoder.", "net.", "module.", "module.model.", "model.net.")


@pytest.mark.parametrize(
    ("model", "prefix"),
    [
        *(("resnet18", prefix) for prefix in PREFIXES),
        *((model, "model.") for model in ("vgg11_bn", "se_resnet50")),
    ],
)
def test_a_prefix_is_taken_off_and_said(model, prefix, tmp_path):
    plain, named = tmp_path / "plain.npz", tmp_path / "named.npz"
    state = published(model, CLASSIFIERS.get(model.rstrip("_bn0123456789"), "fc"))
    weights.write(plain, state)
    others = {"criterion.weight": np.zeros(3, np.float32)}
    weights.write(named, {f"{prefix}{name}": array for name, array in state.items()} | others)
    without = conversion.convert(plain, tmp_path / "a.npz", model, width=4)
    summary = conversion.convert(named, tmp_path / "b.npz", model, width=4)
    assert f"\nprefix    {prefix} is taken off the names\n" in summary
    assert "criterion" in summary.split("\nleft out")[1]
    assert "\nprefix" not in without
    a, b = (weights.read(tmp_path / f"{name}.npz") for name in "ab")
    assert a.keys() == b.keys()
    assert all(np.array_equal(a[name], b[name]) for name in a)


def test_two_networks_in_a_file(tmp_path):
    state = published("resnet18")
    names = ("encoder.", "model.encoder.")
    weights.write(tmp_path / "a.npz", {f"{p}{n}": a for p in names for n, a in state.items()})
    with pytest.raises(UserError, match=r"several networks \(encoder\., model\.encoder\.\)"):
        conversion.convert(tmp_path / "a.npz", tmp_path / "b.npz", "resnet18", width=4)


def checkpoint(state, **others):
    """A checkpoint as PyTorch Lightning writes it."""
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {f"model.{name}": value for name, value in state.items()},
        "optimizer_states": [{"state": {}, "param_groups": []}],
        "hyper_parameters": {"lr": 0.1, "name": "resnet18"},
    } | others


class Executed:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


def test_files_of_lightning_and_hugging_face(tmp_path):
    torch = pytest.importorskip("torch", reason="needs the `torch` extra")
    state = {name: torch.from_numpy(array) for name, array in published("resnet18").items()}
    torch.save(checkpoint(state), tmp_path / "last.ckpt")
    torch.save(state, tmp_path / "pytorch_model.bin")
    desired = flatten_dict(variables("resnet18"))
    for name in ("last.ckpt", "pytorch_model.bin"):
        conversion.convert(tmp_path / name, tmp_path / "out.npz", "resnet18", width=4)
        found, _ = weights.from_source(tmp_path / "out.npz")
        assert found
        assert all(np.array_equal(array, desired[path]) for path, array in found.items())
    # Other objects, such as callbacks, are neither made nor run.
    torch.save(checkpoint(state, callbacks=Executed()), tmp_path / "more.ckpt")
    conversion.convert(tmp_path / "more.ckpt", tmp_path / "more.npz", "resnet18", width=4)
    found, _ = weights.from_source(tmp_path / "more.npz")
    assert all(np.array_equal(array, desired[path]) for path, array in found.items())


def test_stems_of_one_and_three_channels(tmp_path):
    source, one, three = (tmp_path / f"{name}.npz" for name in ("source", "one", "three"))
    weights.write(source, published("resnet18"))
    summary = conversion.convert(source, one, "resnet18", width=4, channels=1)
    assert "\nstem      its 3 input channels are summed to 1\n" in summary
    summary = conversion.convert(one, three, "resnet18", width=4, channels=3)
    assert "\nstem      its 1 input channels are spread over 3 in thirds\n" in summary
    name = "params/trunk/conv1/kernel"
    kernels = [weights.read(file).get(name) for file in (one, three)]
    colours = published("resnet18")["conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_allclose(kernels[0], colours.sum(2, keepdims=True), rtol=1e-6)
    # The same response to a grey image that is repeated three times.
    np.testing.assert_allclose(kernels[1].sum(2), colours.sum(2), rtol=1e-5, atol=1e-6)
    assert np.array_equal(kernels[1][:, :, 0], kernels[1][:, :, 2])


@pytest.mark.slow
def test_a_network_without_its_last_stage(tmp_path):
    """The stages of a keypoint pooling network begin a ResNet of four, by an explicit switch."""
    network = models.create("keypoint_pooling", depth=18, width=4, targets=("kl",))
    image, points = np.zeros((1, 32, 32, 3), "f4"), np.ones((1, 74, 2), "f4")
    shapes = jax.eval_shape(network.init, jax.random.key(0), image, points)
    rng = np.random.default_rng(1)
    three = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype("f4"), shapes)
    source, out = tmp_path / "kpn.npz", tmp_path / "kl.npz"
    weights.write(source, weights.to_own(flatten_dict(three)))
    with pytest.raises(UserError, match=r"does not hold a resnet18: .* lack "):
        conversion.convert(source, out, "resnet18", width=4)
    summary = conversion.convert(source, out, "resnet18", width=4, partial=True)
    (random,) = (line for line in summary.splitlines() if line.startswith("random"))
    assert "layer4.0.conv1, layer4.0.conv2" in random
    assert "layer3" not in random
    assert "params.head_kl" in summary.split("left out")[1]
    loaded = models.load("resnet", variables("resnet18"), out)["params"]
    before = three["params"]["trunk"]["layer3_1"]["conv2"]["kernel"]
    np.testing.assert_array_equal(loaded["trunk"]["layer3_1"]["conv2"]["kernel"], before)
    np.testing.assert_array_equal(
        loaded["head_kl"]["kernel"], variables("resnet18")["params"]["head_kl"]["kernel"]
    )
    assert np.isfinite(loaded["trunk"]["layer4_0"]["conv1"]["kernel"]).all()
    with pytest.raises(UserError, match="nothing fits a vgg11_bn"):
        conversion.convert(source, out, "vgg11_bn", width=4, partial=True)
    with pytest.raises(UserError, match=r"--partial fits .* name it, --model=resnet18"):
        conversion.convert(source, out, partial=True)


def test_mistakes_are_reported(tmp_path):
    source, out = tmp_path / "a.npz", tmp_path / "b.npz"

    def refused(message, state=None, **kwargs):
        np.savez(source, **(state or published("se_resnet50")))
        with pytest.raises(UserError, match=message):
            conversion.convert(source, out, **{"model": "se_resnet50", "width": 4, **kwargs})
        assert not out.exists()

    looks = r"a SE-ResNet of 3, 4, 6, 3 blocks \(1x1, 3x3, 1x1\) with a stem of 4 channels"
    refused(f"name the network .*, --model=resnet18.*; they look like {looks}", model=None)
    refused(
        f"does not hold a resnet50: .* lack 'bn1.* and \\d+ more.* hold 'layer0.*look like {looks}",
        model="resnet50",
    )
    refused(r"'layer1\.0\.bn1\..* and \d+ more\)", model="se_resnext50_32x4d")
    refused(r"has shape .* the model needs", width=64)
    fewer = dict(published("se_resnet50"))
    del fewer["layer3.5.se_module.fc2.bias"]
    refused(r"lack 'layer3\.5\.se_module\.fc2\.bias'", fewer)
    refused("hold 'extra'", {**published("se_resnet50"), "extra": np.zeros(2)})
    refused("--model=vgg: choose from resnet18", model="vgg")
    refused("look like no network known here", {"features.weight": np.zeros((2, 2))})


def test_folders_without_a_run_are_reported(tmp_path):
    with pytest.raises(UserError, match=r"holds no run \(checkpoints/ is missing\)"):
        conversion.convert(tmp_path, tmp_path / "b.npz")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="holds no checkpoint yet"):
        conversion.convert(tmp_path, tmp_path / "b.npz")


def test_the_command_converts_and_reports_mistakes_in_one_line(tmp_path):
    weights.write(tmp_path / "a.npz", published("resnet18"))
    flags = ["knee_jax.convert", f"--weights={tmp_path}/a.npz", f"--out={tmp_path}/b.npz"]
    done = commands.run_here(*flags, "--model=resnet18", "--width=4")
    assert done.returncode == 0, done.stderr
    assert f"wrote     {tmp_path}/b.npz, in our layout" in done.stdout
    assert (tmp_path / "b.npz").exists()
    done = commands.run_here(*flags)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
