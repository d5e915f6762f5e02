"""Variants of config files."""

from collections.abc import Callable, Mapping

import ml_collections

from knee_jax.config import load
from knee_jax.config.fields import nearest
from knee_jax.errors import UserError

Config = ml_collections.ConfigDict


def variant_of(
    config: Config, variant: str, changes: Mapping[str, Callable[[Config], None]]
) -> Config:
    """Apply the named changes, separated by commas; the empty name is the config itself.

    Raises:
        UserError: there is no variant of that name.
    """
    for name in variant.split(",") if variant else ():
        if name not in changes:
            raise UserError(
                f"no variant {name!r} in this config: {nearest(name, sorted(changes))}; several "
                "are separated by commas"
            )
        changes[name](config)
    return config


def paper_row(file: str, variant: str) -> str:
    """Return the name that the papers' tables (`knee_jax.papers`) give a variant.

    At any budget (`demo`), and on the paper's own knees as on others (`oai`).
    """
    named = (name for name in variant.split(",") if name not in ("demo", "oai"))
    return f"{file}:{','.join(named)}".removesuffix(":")


def best(config: Config) -> None:
    """Fine-tune EfficientNet-Lite0 from ImageNet weights on films of 224 px, by a modern recipe."""
    config.model = load.model("efficientnet")
    config.init_from = "imagenet"
    config.input.update({"size": 224, "channels": 1, "statistics": "plain"})
    config.augmentation = load.augmentation(
        "affine",
        translation=0.04,
        rotation=8.0,
        scale=(0.92, 1.08),
        gamma=(0.8, 1.25),
        brightness=0.1,
        mirror=0.3,
    )
    config.task.label_smoothing = 0.1
    config.batch_size = 32
    config.epochs = 9
    config.steps_per_call = 1
    config.log_every = 20
    config.checkpoint_every = 100
    config.optimizer = load.base().optimizer
    config.optimizer.learning_rate = 6e-4
    config.optimizer.weight_decay = 0.02
    config.optimizer.schedule = "one_cycle"
    config.optimizer.ema_decay = 0.995
    config.evaluation.batch_size = 48
    config.evaluation.mirror = True


def quick(config: Config) -> None:
    """Make `best` smaller, for minutes on a CPU."""
    config.input.size = 128
    config.epochs = 5
