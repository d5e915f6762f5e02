"""Predictor made from a finished run, built from the run's folder alone.

Neither the training set nor a data set library is needed: the folder holds the config, the mean and
standard deviation to normalise by, and the checkpoints.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from flax.traverse_util import flatten_dict

from knee_jax import models, targets
from knee_jax.config import load as configs
from knee_jax.config.load import RunConfig
from knee_jax.data import statistics, views
from knee_jax.data.preprocessing import Intensities, Preprocessing
from knee_jax.errors import UserError
from knee_jax.inference import novelty
from knee_jax.inference.novelty import Novelty
from knee_jax.inference.predictor import NOVELTY, Predictor
from knee_jax.landmarks import NUM_LANDMARKS
from knee_jax.models import activation
from knee_jax.models.precision import compute_dtype
from knee_jax.targets.kinds import Classes, Target
from knee_jax.workdir import manifest
from knee_jax.workdir.checkpoint import Checkpoints

CONFIG, CHECKPOINTS, PREDICTIONS = "config.json", "checkpoints", "predictions"

FEATURES = "features"
"""Name of what describes an image among the outputs of a traced function."""

LEAST_CALIBRATED = 50
"""Validation knees that a temperature is fitted to, at least."""

Function = Callable[[Any, Any], Any]
"""Function from variables and a batch of knees."""


@dataclasses.dataclass(frozen=True)
class Network:
    """Trained network of a run, with its preprocessing and its targets.

    Attributes:
        config: Config of the run.
        targets: Targets that are predicted.
        model: Network.
        variables: Its params and batch_stats.
        preprocessing: Conversion of knees to the network's input.
        intensities: Mean and standard deviation to normalise by.
        side: Side of the prepared images, pixels; 0 if unknown or volumes.
        step: Number of training steps of the checkpoint.
    """

    config: RunConfig
    targets: tuple[Target, ...]
    model: nn.Module
    variables: Mapping[str, Any]
    preprocessing: Preprocessing
    intensities: Intensities
    side: int
    step: int

    def forward(self, variables: Any, batch: Any) -> dict[str, jax.Array]:
        """Return decoded outputs by target; may be traced."""
        return self._outputs(variables, batch)

    def features(self, variables: Any, batch: Any) -> jax.Array:
        """Return what describes each image, float32 [batch, c], averaged as predictions are."""
        return self._outputs(variables, batch, with_features=True)[FEATURES]

    def forward_and_novelty(self, variables: Any, batch: Any) -> dict[str, jax.Array]:
        """Return the outputs of `forward`, and the `NOVELTY` of each knee, float32 [batch].

        Args:
            variables: Those of the network, and a `Novelty`'s fields as the collection `NOVELTY`.
            batch: Knees.
        """
        known = Novelty(**variables[NOVELTY])
        outputs = self._outputs(
            {name: tree for name, tree in variables.items() if name != NOVELTY},
            batch,
            with_features=True,
        )
        seen = outputs.pop(FEATURES)
        return {**outputs, NOVELTY: novelty.of(known, seen)}

    def _outputs(
        self, variables: Any, batch: Any, *, with_features: bool = False
    ) -> dict[str, jax.Array]:
        """Return decoded outputs by target, and `FEATURES` if wanted."""
        images, points = self._inputs(batch)

        def decoded(images: jax.Array) -> dict[str, jax.Array]:
            outputs: Any
            outputs, seen = self.model.apply(
                variables, images, points, train=False, mutable=["intermediates"]
            )
            found = {t.name: t.decode(outputs[t.name]) for t in self.targets}
            if with_features:
                values = activation.by_name(seen["intermediates"])
                found[FEATURES] = activation.features_of(values)
            return found

        return views.averaged(decoded, images, self.config.evaluation, self.targets)

    def heat(self, variables: Any, batch: Any) -> jax.Array:
        """Return the evidence for the most probable class of the first target; may be traced."""
        images, points = self._inputs(batch)
        found = activation.heat_of(self.model, variables, images, points, self.targets[0].name)
        assert found is not None
        return found

    def shows_features(self) -> bool:
        """Return whether `features` can be computed: for films, by a network that exposes them."""
        seen = self._observed()
        return "features" in seen or bool(activation.maps_among(seen))

    def shows_heat(self) -> bool:
        """Return whether `heat` can be computed: for films, by a network that exposes its maps."""
        return bool(activation.maps_among(self._observed()))

    def _observed(self) -> Mapping[str, tuple[int, ...]]:
        """Return the shapes of what the network exposes of a film, by name."""
        if self.preprocessing.augmentation.reads != "image":
            return {}
        images = jnp.zeros((1, *self.preprocessing.input_shape))
        points = jnp.zeros((1, NUM_LANDMARKS, 2))
        return activation.observed(self.model, self.variables, images, points)

    def _inputs(self, batch: Any) -> tuple[jax.Array, jax.Array | None]:
        return self.preprocessing(batch, jax.random.key(0), self.intensities, train=False)


def load(run: str | Path) -> Predictor:
    """Load a finished run from its folder, without its training set.

    Args:
        run: Folder of a run; for a cross-validation, that of a fold.

    Returns:
        Predictor that uses the best checkpoint on the validation knees.

    Raises:
        UserError: The folder does not hold a run, or no validated checkpoint.
    """
    network = read(run)

    def compiled(function: Function) -> Callable[[Any], Any]:
        function = jax.jit(function)
        return lambda batch: function(network.variables, batch)

    return Predictor(
        name=Path(run).name,
        targets=network.targets,
        needs_landmarks=bool(network.model.needs_keypoints),
        reads=network.preprocessing.augmentation.reads,
        side=network.side,
        forward=compiled(network.forward),
        heat=compiled(network.heat) if network.shows_heat() else None,
        temperatures=temperatures(Path(run), network.targets),
        facts={
            "run": Path(run).name,
            "data": network.config.data.dataset,
            "step": network.step,
            "weights": digest(network.variables),
        },
    )


def digest(variables: Mapping[str, Any]) -> str:
    """Return a checksum of a network's variables, which tells two models of one name apart."""
    found = hashlib.sha256()
    for names, array in sorted(flatten_dict(dict(variables)).items()):
        found.update("/".join(names).encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def temperatures(run: Path, predicted: Sequence[Target]) -> dict[str, float]:
    """Fit the temperature of each class target to the run's predictions of validation knees.

    A run that was not evaluated has none.
    """
    from knee_jax.metrics import calibration

    table = run / PREDICTIONS / "validation.csv"
    if not table.is_file():
        return {}
    predictions = pd.read_csv(table)
    found: dict[str, float] = {}
    for target in predicted:
        if isinstance(target, Classes) and set(target.columns()) <= set(predictions):
            known = predictions[target.is_known(predictions[target.name])]
            if len(known) >= LEAST_CALIBRATED:
                found[target.name] = calibration.fit_temperature(
                    known[target.output_columns()].to_numpy(), known[target.name].to_numpy()
                )
    return found


def read(run: str | Path) -> Network:
    """Read the network of a finished run, by the best checkpoint on the validation knees.

    Raises:
        UserError: The folder does not hold a run, or no validated checkpoint.
    """
    folder = Path(run).expanduser()
    if not (folder / CONFIG).is_file() and not (folder / manifest.FILE).is_file():
        raise UserError(f"{folder} holds no run ({CONFIG} is missing): name a run's folder")
    listed = manifest.read(folder)
    for name in (CONFIG, statistics.FILE):
        if listed and (fault := listed.fault(name)):
            raise UserError(
                f"{folder / name} {fault}: take it from a copy of the run; `knee-jax train "
                "--mode=evaluate` makes it again where the prepared set is"
            )
    config = configs.saved(folder / CONFIG)
    measured = folder / statistics.FILE
    if not measured.is_file() or not (folder / CHECKPOINTS).is_dir():
        raise UserError(
            f"{folder} holds no trained network ({statistics.FILE} or {CHECKPOINTS}/ is missing): "
            "of a cross-validation name the folder of a fold"
        )
    numbers = statistics.load(measured)
    model = models.create(
        config.model.name,
        targets=config.targets,
        dtype=compute_dtype(config.dtype),
        **config.model.options,
    )
    preprocessing = Preprocessing(config.augmentation, config.input)
    with Checkpoints(folder / CHECKPOINTS, read_only=True) as checkpoints:
        step = checkpoints.best_step()
        if step is None:
            raise UserError(f"{folder} holds no sound validated checkpoint: train first")
        variables = checkpoints.restore_variables(step)
    _check_variables(folder, model, preprocessing, variables)
    return Network(
        config=config,
        targets=targets.get_all(config.targets),
        model=model,
        variables=variables,
        preprocessing=preprocessing,
        intensities=Intensities.of(numbers.mean, numbers.std),
        side=numbers.side,
        step=step,
    )


def _check_variables(
    folder: Path, model: nn.Module, preprocessing: Preprocessing, variables: Mapping[str, Any]
) -> None:
    """Raise UserError unless the variables belong to the network that the config describes."""
    image = jnp.zeros((1, *preprocessing.input_shape))
    landmarks = jnp.zeros((1, NUM_LANDMARKS, 2))
    wanted = jax.eval_shape(model.init, jax.random.key(0), image, landmarks)
    # A network without batch norm has no batch_stats, however they were saved.
    wanted = {name: dict(tree) for name, tree in wanted.items() if tree}
    found = {name: tree for name, tree in variables.items() if tree}
    shapes = [jax.tree.map(lambda leaf: tuple(leaf.shape), tree) for tree in (wanted, dict(found))]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"{folder}: the checkpoint is not of the network in {CONFIG}; one of them was replaced"
        )
