"""Conversion of config files to typed parts and back; values are checked here, before any data.

Config files (`configs/*.py`) build on `base`, `model`, `augmentation` and `task`; a run begins with
`parse`, and passes each package its own part.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict, config_dict

from knee_jax.config import fields
from knee_jax.config.schema import RunFields
from knee_jax.errors import UserError

if TYPE_CHECKING:
    from knee_jax.data.augment import Augmentation
    from knee_jax.tasks import Settings

_NAMED = ("model", "augmentation", "task")


@dataclasses.dataclass(frozen=True)
class Model:
    """Part `model` of a config.

    Attributes:
        name: Name of the network.
        options: Fields of the network, by name.
    """

    name: str
    options: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(RunFields):
    """Checked config, divided into typed parts.

    Attributes:
        model: Name and fields of the network.
        augmentation: Augmentation of the training inputs.
        task: Settings of the task.
    """

    model: Model
    augmentation: "Augmentation"
    task: "Settings"


def base() -> ConfigDict:
    """Return the neutral config: KL grades of phantom knees, predicted by a small ResNet."""
    config = ConfigDict(fields.defaults(RunFields))
    config.model = model("resnet")
    config.augmentation = augmentation("affine")
    config.task = task("grading")
    return config


def model(name: str, **changes: Any) -> ConfigDict:
    """Return the part `model`: the network's fields with their defaults, except for the changes."""
    from knee_jax import models

    return _part(models.find(name), name, changes)


def augmentation(name: str, **changes: Any) -> ConfigDict:
    """Return the part `augmentation` in the same way."""
    from knee_jax.data import augment

    return _part(augment.find(name), name, changes)


def task(name: str, **changes: Any) -> ConfigDict:
    """Return the part `task` in the same way; nested parts are changed by mappings."""
    from knee_jax import tasks

    return _part(tasks.find(name), name, changes)


def _part(kind: type, name: str, changes: Mapping[str, Any]) -> ConfigDict:
    part = ConfigDict({"name": name, **fields.defaults(kind)})
    for field, hint, _ in fields.options(kind):
        if part[field.name] is None:
            part[field.name] = _placeholder(hint)
    part.update(dict(changes))
    return part


def _placeholder(hint: Any) -> Any:
    """Return a None that a flag may replace, by a tuple, an integer or a float."""
    for kind in (int, float):
        if kind in getattr(hint, "__args__", ()):
            return config_dict.placeholder(kind)
    return config_dict.placeholder(tuple)


def parse(config: ConfigDict | Mapping[str, Any]) -> RunConfig:
    """Check a config and divide it into its typed parts.

    Args:
        config: Config as a config file makes it, or as `plain` or the `config.json` of a run holds
            it.

    Raises:
        UserError: A field is unknown, has the wrong type or is out of range (the first is
            reported); or fields do not go together.
    """
    values = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    found = fields.checked(RunFields, values)
    parts = {name: _named(name, found.get(name)) for name in _NAMED}
    parsed = RunConfig(**{**found, **parts})
    _check_together(parsed)
    for name in parsed.ensemble:
        parse(member(parsed, name))
    return parsed


def _named(part: str, values: Mapping[str, Any] | None) -> Any:
    """Return a part that has several kinds as an instance of its kind."""
    from knee_jax import models, tasks
    from knee_jax.data import augment

    options = dict(values or {})
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise UserError(f"config.{part}.name = {name!r}: name one")
    find = {"model": models.find, "augmentation": augment.find, "task": tasks.find}[part]
    kind: type = find(name)
    try:
        made = fields.checked(kind, options, f"config.{part}")
    except UserError as error:
        raise UserError(f"{error} (config.{part}.name = {name!r})") from None
    return Model(name, made) if part == "model" else kind(**made)


def _check_together(config: RunConfig) -> None:
    """Raise UserError for fields that do not go together."""
    from knee_jax import targets
    from knee_jax.data import augment

    data = config.data
    config.task.check(targets.get_all(config.targets), data)
    augment.check_input(config.augmentation, config.input)
    augment.check_mirror(config.augmentation, targets.get_all(config.targets))
    _check_pixels_only(config)
    if not 0 <= data.fold < data.num_folds:
        raise UserError(
            f"config.data.fold = {data.fold}: is not one of the {data.num_folds} folds, 0 to "
            f"{data.num_folds - 1}"
        )
    if min(data.parts[:2]) < 1:
        raise UserError(
            f"config.data.parts = {data.parts}: training and validation need knees; only the last "
            "may be 0"
        )
    if data.test_dataset and data.split not in ("k_fold", "group_k_fold"):
        raise UserError(
            f"config.data.test_dataset = '{data.test_dataset}', but the split '{data.split}' sets "
            "test knees aside: choose config.data.split = k_fold, or no test_dataset"
        )
    size = config.batch_size
    if data.unlabelled == "fixed" and round(data.unlabelled_share * size) >= size:
        raise UserError(
            f"config.data.unlabelled_share = {data.unlabelled_share}: leaves no labelled knee in "
            f"a batch of {size}"
        )


def _check_pixels_only(config: RunConfig) -> None:
    """Raise UserError for what only networks that read nothing but pixels of films can do."""
    from knee_jax import models
    from knee_jax.data import augment

    evaluation, mixing = config.evaluation, config.mixing
    averaged = evaluation.mirror or evaluation.scales != (1.0,) or evaluation.shift
    films_only = {
        "mixing.cutmix": mixing.cutmix,
        "evaluation.mirror, scales or shift": averaged,
    }
    pixels_only = {
        **films_only,
        "mixing.mixup": mixing.mixup,
        "augmentation.mirror": augment.mirror_probability(config.augmentation),
    }
    for name, value in films_only.items():
        if value and config.input.volume:
            raise UserError(f"config.{name}: is for films, and config.input has a volume")
    model = models.create(config.model.name, targets=config.targets, **config.model.options)
    for name, value in pixels_only.items():
        if value and model.needs_keypoints:
            raise UserError(
                f"config.{name}: changes images and not the landmarks, which the network "
                f"{config.model.name} reads: switch it off, or choose another network"
            )


def plain(config: RunConfig) -> dict[str, Any]:
    """Return a config as plain values, which `parse` accepts and JSON can hold."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(RunFields):
        value = getattr(config, field.name)
        if field.name in _NAMED:
            options = (
                dict(value.options)
                if isinstance(value, Model)
                else {f.name: getattr(value, f.name) for f, _, _ in fields.options(type(value))}
            )
            values[field.name] = {"name": value.name} | options
        else:
            values[field.name] = value
    return {name: _without_classes(value) for name, value in values.items()}


def _without_classes(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: _without_classes(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_classes(each) for each in value]
    return value


def changed(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """Return a config with some fields changed, nested ones by mappings or dotted names."""
    return parse(_merged(plain(config), changes))


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for name, change in changes.items():
        name, _, rest = name.partition(".")
        change = {rest: change} if rest else change
        if isinstance(change, Mapping) and isinstance(merged.get(name), Mapping):
            merged[name] = _merged(merged[name], change)
        else:
            merged[name] = change
    return merged


def member(config: RunConfig, name: str) -> dict[str, Any]:
    """Return the plain config of one network of the ensemble."""
    return _merged({**plain(config), "ensemble": {}}, config.ensemble[name])


def saved(path: Path) -> RunConfig:
    """Read the `config.json` of a run.

    Raises:
        UserError: There is no such file, or it is not a config of this version.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; name the folder of a run") from None
    except ValueError as error:
        raise UserError(f"{path}: is not JSON ({error})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no config")
    try:
        return parse(values)
    except UserError as error:
        raise UserError(f"{path}: is no config of this version: {error}") from error


def json_of(config: RunConfig) -> str:
    """Return a config as JSON text."""
    return json.dumps(plain(config), indent=2) + "\n"


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the plain fields of a config by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
