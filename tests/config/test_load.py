"""From a config file to typed parts: wrong values are refused at once, by field."""

import dataclasses
import json

import pytest

from knee_jax.config import load
from knee_jax.config.load import parse
from knee_jax.configs import joint_space_width, kl, kpn, mri_progression, oarsi, siamese_gap
from knee_jax.errors import UserError

CONFIGS = (joint_space_width, kl, kpn, mri_progression, oarsi, siamese_gap)

WRONG = {
    "seed": (-1, "a whole number from 0 to 4294967295"),
    "batch_size": (0, "1 or more"),
    "epochs": (0, "1 or more"),
    "steps_per_call": (0, "1 or more"),
    "log_every": (-5, "1 or more"),
    "checkpoint_every": (0, "1 or more"),
    "dtype": ("float16", "did you mean 'bfloat16'? choose from auto, float32, bfloat16"),
    "targets": (("kll",), "unknown target 'kll'; did you mean 'kl'?"),
    "input.size": (0, "from 8 to 4096"),
    "input.channels": (2, "choose from 1, 3"),
    "input.statistics": ("every", "choose from plain, augmented, each"),
    "model.name": ("resnett", "did you mean 'resnet'?"),
    "model.width": (0, "1 or more"),
    "model.dropout": (7.0, "a number from 0 below 1"),
    "model.depth": (19, "choose from 10, 18, 34, 50"),
    "model.landmarks": ("joints", "did you mean 'joint'?"),
    "optimizer.name": ("adamx", "did you mean 'adam'?"),
    "optimizer.learning_rate": (-1.0, "above 0 to 10"),
    "optimizer.weight_decay": (-5.0, "from 0 to 10"),
    "optimizer.drop_epochs": ((-3, 900), "a tuple of whole numbers of 1 or more"),
    "optimizer.drop_factor": (2.0, "from 0 to 1"),
    "optimizer.freeze_epochs": (-2.0, "0 or more"),
    "optimizer.warmup_epochs": (-1, "0 or more"),
    "optimizer.warmup_factor": (1.5, "from 0 to 1"),
    "data.split": ("ratios", "did you mean 'ratio'?"),
    "data.parts": ((0, 1, 1), "only the last may be 0"),
    "data.seed": (-1, "0 or more"),
    "data.num_folds": (1, "2 or more"),
    "data.fold": (9, "not one of the 5 folds"),
    "data.workers": (-3, "from 0 to 512"),
    "data.label_fraction": (0.0, "above 0 to 1"),
    "data.unlabelled": ("some", "choose from none, natural, fixed"),
    "data.unlabelled_share": (7.0, "from 0 below 1"),
    "data.sampling": ("even", "choose from shuffled, balanced, oversampled"),
    "data.mode": ("disk", "choose from auto, resident, streamed"),
    "data.without_keypoints": ("keep", "choose from drop, global"),
    "data.partially_labelled": ("maske", "did you mean 'masked'?"),
    "augmentation.name": ("afine", "did you mean 'affine'?"),
    "augmentation.rotation": (-5.0, "from 0 to 180"),
    "augmentation.scale": ((1.2, 0.8), "the numbers must not decrease"),
    "augmentation.gamma": ((0.0, 1.0), "a tuple of 2 numbers above 0"),
    "augmentation.brightness": (1.5, "from 0 to 1"),
    "task.name": ("gradings", "did you mean 'grading'?"),
    "task.selection": ("accuracy", "did you mean 'mean_accuracy'?"),
    "task.reduction": ("max", "choose from sum, mean"),
    "task.coherence.temperature": (0.0, "above 0"),
    "task.coherence.components": (0, "1 or more"),
    "evaluation.num_resamples": (0, "1 or more"),
    "evaluation.scheme": ("knee", "choose from subject, class"),
    "evaluation.average": ("mean", "choose from probabilities"),
    "sweep.seeds": (0, "1 or more"),
}
"""Field of kpn's config → a wrong value, and what the line says beside the field."""


@pytest.mark.parametrize("field", WRONG)
def test_a_wrong_value_is_refused_by_field_and_range(field):
    value, words = WRONG[field]
    config = kpn.get_config("demo")
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError) as refused:
        parse(config)
    line = str(refused.value)
    assert words in line
    assert "\n" not in line
    named = field.partition(".")[2] if field.endswith(".name") else f"config.{field}"
    assert named in line or value in (("kll",), "resnett", "gradings")


@pytest.mark.parametrize("part", ["", "data", "model", "task.coherence"])
def test_an_unknown_field_is_named_with_the_nearest(part):
    values = load.plain(parse(kpn.get_config()))
    inner = values
    for name in part.split(".") if part else ():
        inner = inner[name]
    wrong = f"{next(name for name in inner if name != 'name')}s"
    inner[wrong] = 1
    with pytest.raises(UserError, match=f"has no field '{wrong}': did you mean '{wrong[:-1]}'"):
        parse(values)


TOGETHER = {
    "a network's fields": ({"model.name": "resnet"}, "config.model has no field"),
    "coherence of few grades": ({"targets": ("kl",)}, "lacks osfl, osfm"),
    "no target": ({"targets": ()}, "names no target"),
    "a test set and a split that has one": (
        {"data.test_dataset": "phantom_most/demo"},
        "sets test knees aside",
    ),
    "a volume for an augmentation of films": (
        {"input.volume": (8, 8, 8)},
        "reads images, and config.input has a volume",
    ),
    "mirrored knees without one of a pair": (
        {
            "targets": ("kl", "jsm"),
            "augmentation.mirror": 0.5,
            "task.coherence.weight": 0.0,
        },
        "jsm is jsl in a mirrored knee, which is not among config.targets",
    ),
    "mirrored images and landmarks": (
        {"augmentation.mirror": 0.5},
        "augmentation.mirror: changes images and not the landmarks",
    ),
    "mixed images and landmarks": ({"mixing.mixup": 0.2}, "mixing.mixup: changes images"),
    "averaged views and landmarks": (
        {"evaluation.mirror": True},
        "evaluation.mirror, scales or shift: changes images",
    ),
    "no labelled knee in a batch": (
        {"data.unlabelled": "fixed", "data.unlabelled_share": 0.99},
        "leaves no labelled knee in a batch of 16",
    ),
}


@pytest.mark.parametrize(("changes", "message"), TOGETHER.values(), ids=TOGETHER)
def test_fields_that_do_not_go_together_are_refused(changes, message):
    config = kpn.get_config("demo")
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        parse(config)


def test_a_canvas_is_for_a_size_of_the_input():
    config = oarsi.get_config()
    config.input.size = 96
    with pytest.raises(UserError, match=r"canvas = 310: a whole number from 96 to 192"):
        parse(config)


@pytest.mark.parametrize("module", CONFIGS)
def test_every_variant_is_accepted_and_survives_json(module):
    for variant in ("", *module.VARIANTS):
        config = parse(module.get_config(variant))
        again = parse(json.loads(load.json_of(config)))
        assert load.plain(again) == load.plain(config)


def test_parts_are_typed_and_nothing_of_a_config_is_lost():
    config = kpn.get_config("demo")
    config.data.label_fraction = 0.4
    parsed = parse(config)
    assert dataclasses.is_dataclass(parsed.data)
    assert parsed.data.label_fraction == 0.4
    assert parsed.model.name == "keypoint_pooling"
    assert parsed.model.options["width"] == 32
    assert (parsed.task.name, parsed.task.coherence.warmup_epochs) == ("grading", 10)
    assert parsed.augmentation.rotation == 5.0
    flat = load.flatten(json.loads(config.to_json()))
    assert flat == load.flatten(load.plain(parsed))


@pytest.mark.parametrize("field", ["data.parts", "augmentation.scale"])
def test_a_fixed_number_of_members_is_never_none(field):
    with pytest.raises(UserError, match=rf"^config.{field} = \(\): a tuple of [23] .* is expected"):
        load.changed(parse(kpn.get_config()), {field: ()})


def test_changes_are_checked_and_leave_the_config_as_it_was():
    config = parse(oarsi.get_config())
    other = load.changed(config, {"data.fold": 3, "optimizer": {"drop_factor": 0.5}})
    assert (other.data.fold, other.optimizer.drop_factor, config.data.fold) == (3, 0.5, 0)
    assert other.optimizer.learning_rate == config.optimizer.learning_rate
    with pytest.raises(UserError, match="not one of the 5 folds"):
        load.changed(config, {"data.fold": 5})


def test_a_wrong_network_of_an_ensemble_is_refused_at_once():
    config = oarsi.get_config()
    config.ensemble.se_resnext50.model.arch = "se_resnext51"
    with pytest.raises(UserError, match=r"config\.model\.arch = 'se_resnext51': did you mean"):
        parse(config)


def test_a_saved_config_is_read_back(tmp_path):
    config = parse(kpn.get_config("demo"))
    path = tmp_path / "config.json"
    path.write_text(load.json_of(config))
    assert load.plain(load.saved(path)) == load.plain(config)
    path.write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        load.saved(path)
    path.write_text('{"grades": ["kl"]}')
    with pytest.raises(UserError, match=r"is no config of this version: config has no field"):
        load.saved(path)
    with pytest.raises(UserError, match="no such file; name the folder of a run"):
        load.saved(tmp_path / "none.json")


def test_the_base_is_neutral():
    config = parse(load.base())
    assert config.targets == ("kl",)
    assert config.task.coherence.weight == 0
    assert config.data.unlabelled == "none"
    assert config.paper_row == ""
