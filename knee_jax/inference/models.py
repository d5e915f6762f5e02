"""Models by name, run or file: what `--model` and `knee_jax.load` take."""

import functools
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict

from knee_jax.config.fields import nearest
from knee_jax.config.load import RunConfig
from knee_jax.errors import UserError
from knee_jax.inference import exported, run
from knee_jax.inference.predictor import NOVELTY, Batch, Predictor

LOCALISER = "landmarks"
"""Model that finds knees, and grades none."""


@functools.cache
def names() -> tuple[str, ...]:
    """List the models that come with the project, by name."""
    files = resources.files("knee_jax.weights").iterdir()
    found = (file.name for file in files if file.name.endswith(exported.SUFFIX))
    return tuple(sorted(name.removesuffix(exported.SUFFIX) for name in found))


def graders() -> tuple[str, ...]:
    """List the models that come with the project and grade knees, by name."""
    return tuple(name for name in names() if name != LOCALISER)


def find(model: str | Path) -> Path:
    """Return the file of a model that comes with the project, or the folder or file itself.

    Raises:
        UserError: There is no such model, run or file.
    """
    name, path = str(model), Path(model).expanduser()
    if name in names():
        # The package is installed as files, since it cannot be read from an archive.
        return Path(str(resources.files("knee_jax.weights") / f"{name}{exported.SUFFIX}"))
    if path.exists() or path.suffix == exported.SUFFIX:
        return path
    raise UserError(
        f"{name}: no model of that name, no folder of a run and no file; "
        f"{nearest(name, graders())} (for `knee-jax locate`: {LOCALISER})"
    )


def load(model: str | Path) -> Predictor:
    """Load a model that comes with the project, a finished run, or an exported file.

    Raises:
        UserError: There is no such model, run or file, or it cannot be read.
    """
    place = find(model)
    return run.load(place) if place.is_dir() else exported.load(place)


def contents(model: str | Path) -> tuple[RunConfig, dict[str, np.ndarray]]:
    """Return the config of a model and its weights by path, float32, to train on from them.

    Raises:
        UserError: As `load`; or an exported file does not hold the config.
    """
    place = find(model)
    if not place.is_dir():
        return exported.contents(place)
    network = run.read(place)
    weights = flatten_dict(dict(network.variables))
    return network.config, {
        "/".join(names): np.asarray(array, np.float32) for names, array in weights.items()
    }


def average(models: Sequence[Predictor]) -> Predictor:
    """Average the decoded outputs of several models of the same targets.

    Raises:
        UserError: They predict different targets, or read different things.
    """
    if not models:
        raise UserError("no model is named: choose from " + ", ".join(graders()))
    first, *others = models
    if not others:
        return first
    for other in others:
        if [t.name for t in other.targets] != [t.name for t in first.targets]:
            raise UserError(
                f"{first.name} and {other.name} predict different targets, and cannot be averaged"
            )
        if (other.reads, other.side) != (first.reads, first.side):
            raise UserError(
                f"{first.name} reads {first.reads}s of {first.side} px and {other.name} "
                f"{other.reads}s of {other.side} px, and cannot be averaged"
            )

    def forward(batch: Batch) -> dict[str, np.ndarray]:
        found = [model.forward(batch) for model in models]
        # What is unlike the training knees of one model is not graded with confidence.
        novel = [np.asarray(each[NOVELTY]) for each in found if NOVELTY in each]
        return {
            name: np.mean([np.asarray(each[name]) for each in found], axis=0)
            for name in found[0]
            if name != NOVELTY
        } | ({NOVELTY: np.max(novel, axis=0)} if novel else {})

    return Predictor(
        name=" + ".join(model.name for model in models),
        targets=first.targets,
        needs_landmarks=any(model.needs_landmarks for model in models),
        reads=first.reads,
        side=first.side,
        forward=forward,
        heat=first.heat,
        facts={"models": [dict(model.facts) for model in models]},
        card="\n\n".join(model.card for model in models if model.card),
    )
