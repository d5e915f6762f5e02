"""One file that holds a model: equal to its run, and refused in words where it is damaged."""

import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest

import knee_jax
from knee_jax.config import load
from knee_jax.configs import kl
from knee_jax.errors import UserError
from knee_jax.inference import exported, models
from tests.commands import REPOSITORY


@pytest.mark.parametrize("batch_size", [3, 32])
def test_it_predicts_and_shows_what_the_run_does(run, test_knees, exported_file, batch_size):
    _, knees = test_knees
    images, points = knees["image"], knees["keypoints"]
    of_run, of_file = knee_jax.load(run[0]), knee_jax.load(exported_file)
    expected, found = (m.predict(images, points, batch_size) for m in (of_run, of_file))
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-5)
    heat = of_run.explain(images[:4], points[:4])
    np.testing.assert_allclose(of_file.explain(images[:4], points[:4]), heat, atol=1e-3)
    assert (of_file.needs_landmarks, of_file.side) == (of_run.needs_landmarks, of_run.side)
    assert of_file.facts["made_for"] == "tests"
    assert of_file.temperatures == of_run.temperatures


def test_half_precision_is_half_the_size(run, exported_file, tmp_path):
    exported.write(run[0], tmp_path / "half.knee", half=True)
    sizes = [
        zipfile.ZipFile(path).getinfo(exported.WEIGHTS).file_size
        for path in (exported_file, tmp_path / "half.knee")
    ]
    assert sizes[1] == pytest.approx(sizes[0] / 2, rel=0.2)


def test_it_holds_what_training_goes_on_from(run, exported_file, tmp_path):
    config, weights = models.contents(exported_file)
    ours, expected = models.contents(run[0])
    assert config == ours
    assert weights.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(weights[name], array)
    assert exported.learnt(exported_file) == ""
    exported.write(run[0], tmp_path / "known.knee", learnt="a list")
    assert exported.learnt(tmp_path / "known.knee") == "a list"


def test_it_names_no_folder_of_this_machine():
    config = load.changed(load.parse(load.base()), {"data.manual_dir": "/a", "init_from": "/b"})
    config = exported._without_paths(config)
    assert (config.data.manual_dir, config.init_from) == ("", "")
    kept = load.changed(load.parse(kl.get_config("best")), {"data.test_manual_dir": "/a"})
    assert exported._without_paths(kept).init_from == "imagenet"


def test_a_file_without_its_config_cannot_be_trained_on(exported_file, tmp_path):
    old = copy_without(exported_file, tmp_path / "old.knee", exported.CONFIG)
    assert knee_jax.load(old).targets
    with pytest.raises(UserError, match="does not hold the config of its run"):
        models.contents(old)


def copy_without(source, path, name):
    """A copy of an archive without one member."""
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(path, "w") as part:
        for member in whole.namelist():
            if member != name:
                part.writestr(member, whole.read(member))
    return path


@pytest.mark.slow
def test_it_needs_no_training_code_no_network_and_no_data(test_knees, exported_file, tmp_path):
    _, knees = test_knees
    np.savez(tmp_path / "knees.npz", image=knees["image"], keypoints=knees["keypoints"])
    code = f"""
import sys, numpy as np
class Trap:
    def find_spec(self, name, path=None, target=None):
        banned = ("tensorflow_datasets", "grain", "knee_jax.datasets", "knee_jax.training",
                  "knee_jax.cohort", "knee_jax.tasks.grading", "knee_jax.models.resnet", "optax")
        assert not name.startswith(banned), name
sys.meta_path.insert(0, Trap())
from knee_jax.inference import exported
knees = np.load({str(tmp_path / "knees.npz")!r})
found = exported.load({str(exported_file)!r}).predict(knees["image"], knees["keypoints"])
np.save({str(tmp_path / "kl.npy")!r}, found["kl"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ.copy(),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    expected = knee_jax.load(exported_file).predict(knees["image"], knees["keypoints"])["kl"]
    np.testing.assert_allclose(np.load(tmp_path / "kl.npy"), expected, atol=1e-5)


def rewritten(path, out, change):
    """A copy of an archive, whose members pass through `change`; None leaves one out."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
    return out


def with_format(number):
    def change(name, content):
        if name != exported.METADATA:
            return content
        return json.dumps(json.loads(content) | {"format": number}).encode()

    return change


def without(member):
    return lambda name, content: None if name == member else content


DAMAGE = {
    "a newer format": (with_format(99), "is of format 99, and this version reads up to 1"),
    "no metadata": (without(exported.METADATA), "metadata.json is missing or damaged"),
    "no weights": (without(exported.WEIGHTS), "model.safetensors is missing or damaged"),
    "no program": (without("forward.cpu"), "forward.cpu is missing or damaged"),
    "metadata that are none": (
        lambda name, content: b"[]" if name == exported.METADATA else content,
        "metadata.json is damaged",
    ),
    "weights that are none": (
        lambda name, content: content[:50] if name == exported.WEIGHTS else content,
        "model.safetensors is damaged",
    ),
    "a program that is none": (
        lambda name, content: b"x" * 99 if name == "forward.cpu" else content,
        "its program cannot be read",
    ),
}


@pytest.mark.parametrize(("change", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_refused_in_words(exported_file, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        exported.load(rewritten(exported_file, tmp_path / "a.knee", change))


def test_a_file_that_was_cut_short_or_is_none_is_refused(exported_file, tmp_path):
    whole = exported_file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"text"):
        (tmp_path / "a.knee").write_bytes(content)
        with pytest.raises(UserError, match="is no exported model, or was cut short"):
            exported.load(tmp_path / "a.knee")
    with pytest.raises(UserError, match="no model of that name, no folder of a run and no file"):
        models.load("nothing_of_that_name")
    with pytest.raises(UserError, match="no such file"):
        models.load(tmp_path / "absent.knee")


def test_models_are_averaged_if_they_predict_the_same(run, test_knees, exported_file):
    _, knees = test_knees
    images, points = knees["image"][:3], knees["keypoints"][:3]
    model = knee_jax.load(exported_file)
    both = models.average([model, knee_jax.load(run[0])])
    expected = model.predict(images, points)
    for name, values in both.predict(images, points).items():
        np.testing.assert_allclose(values, expected[name], atol=1e-5)
    import dataclasses

    other = dataclasses.replace(model, targets=model.targets[:2])
    with pytest.raises(UserError, match="predict different targets"):
        models.average([model, other])
    with pytest.raises(UserError, match="cannot be averaged"):
        models.average([model, dataclasses.replace(model, side=10)])
