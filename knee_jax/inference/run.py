"""Predictor made from a finished run, built from the run's folder alone.

Neither the training set nor a data set library is needed: the folder holds the config, the mean and
standard deviation to normalise by, and the checkpoints.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from knee_jax import models, targets
from knee_jax.config import load as configs
from knee_jax.config.load import RunConfig
from knee_jax.data import statistics, views
from knee_jax.data.preprocessing import Intensities, Preprocessing
from knee_jax.errors import UserError
from knee_jax.landmarks import NUM_LANDMARKS
from knee_jax.models.precision import compute_dtype
from knee_jax.targets.kinds import Target
from knee_jax.workdir.checkpoint import Checkpoints

CONFIG, CHECKPOINTS = "config.json", "checkpoints"


@dataclasses.dataclass(frozen=True)
class Predictor:
    """Trained network with its preprocessing and its targets.

    Attributes:
        config: Config of the run.
        targets: Targets that are predicted.
        model: Network.
        variables: Its params and batch_stats.
        preprocessing: Conversion of knees to the network's input.
        intensities: Mean and standard deviation to normalise by.
        step: Number of training steps of the checkpoint.
    """

    config: RunConfig
    targets: tuple[Target, ...]
    model: nn.Module
    variables: Mapping[str, Any]
    preprocessing: Preprocessing
    intensities: Intensities
    step: int

    @property
    def needs_landmarks(self) -> bool:
        """Need of landmarks: True if the network reads them."""
        return bool(self.model.needs_keypoints)

    def predict(
        self,
        images: np.ndarray | Sequence[np.ndarray],
        landmarks: np.ndarray | None = None,
        batch_size: int = 32,
    ) -> dict[str, np.ndarray]:
        """Predict every target of some knees.

        Args:
            images: Regions of interest oriented as a right knee (lateral at the left), uint8 [n,
                side, side]; for a network of volumes [n, rows, columns, slices].
            landmarks: Landmarks, float32 [n, 74, 2], x and y in pixels of the images, the centre of
                the first pixel at 0.5; NaN where unknown. Required if the network reads landmarks.
            batch_size: Number of knees in a batch; predictions do not depend on it.

        Returns:
            For each target, class probabilities float32 [n, classes], or values float32 [n] in the
            target's unit.

        Raises:
            UserError: Images have a wrong type or shape, or required landmarks are missing.
        """
        images = self._checked(images)
        if landmarks is None:
            if self.needs_landmarks:
                raise UserError(
                    f"the network {self.config.model.name} reads landmarks: give [n, "
                    f"{NUM_LANDMARKS}, 2], with NaN for knees that have none"
                )
            landmarks = np.full((len(images), NUM_LANDMARKS, 2), np.nan, np.float32)
        landmarks = np.asarray(landmarks, np.float32)
        if landmarks.shape != (len(images), NUM_LANDMARKS, 2):
            raise UserError(
                f"landmarks have the shape {landmarks.shape}; {len(images)} images need "
                f"({len(images)}, {NUM_LANDMARKS}, 2)"
            )
        batches = []
        for first in range(0, len(images), batch_size):
            chunk, points = (
                images[first : first + batch_size],
                landmarks[first : first + batch_size],
            )
            # Filled up with the last knee, so that one program serves every batch.
            missing = batch_size - len(chunk)
            batch = {
                self.preprocessing.augmentation.reads: _filled(chunk, missing),
                "keypoints": _filled(points, missing),
            }
            decoded = jax.device_get(self._forward(self.variables, batch))
            batches.append({name: array[: len(chunk)] for name, array in decoded.items()})
        return {t.name: np.concatenate([batch[t.name] for batch in batches]) for t in self.targets}

    def table(self, knees: pd.DataFrame, predicted: Mapping[str, np.ndarray]) -> pd.DataFrame:
        """Join predictions to knees: one row per knee, with the columns of a predictions table.

        Args:
            knees: Table with one row per knee, with whatever identifies it.
            predicted: Result of `predict`.
        """
        columns: dict[str, np.ndarray] = {}
        for target in self.targets:
            columns |= target.predictions(predicted[target.name])
        return pd.concat([knees.reset_index(drop=True), pd.DataFrame(columns)], axis=1)

    @functools.cached_property
    def _forward(self) -> Callable[..., dict[str, jax.Array]]:
        """Compiled prediction, from (variables, batch) to decoded outputs."""

        def forward(variables: Any, batch: Any) -> dict[str, jax.Array]:
            images, points = self.preprocessing(
                batch, jax.random.key(0), self.intensities, train=False
            )

            def decoded(images: jax.Array) -> dict[str, jax.Array]:
                outputs: Any = self.model.apply(variables, images, points, train=False)
                return {t.name: t.decode(outputs[t.name]) for t in self.targets}

            return views.averaged(decoded, images, self.config.evaluation, self.targets)

        return jax.jit(forward)

    def _checked(self, images: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        images = np.asarray(images)
        volumes = self.preprocessing.augmentation.reads == "volume"
        wanted = "[n, rows, columns, slices]" if volumes else "[n, side, side]"
        square = volumes or (images.ndim == 3 and images.shape[1] == images.shape[2])
        if images.dtype != np.uint8 or images.ndim != (4 if volumes else 3) or not square:
            raise UserError(
                f"images are {images.dtype} {list(images.shape)}; uint8 {wanted} is needed"
            )
        if not len(images):
            raise UserError("no image is given: give at least one")
        return images


def load(run: str | Path) -> Predictor:
    """Load a finished run from its folder, without its training set.

    Args:
        run: Folder of a run; for a cross-validation, that of a fold.

    Returns:
        Predictor that uses the best checkpoint on the validation knees.

    Raises:
        UserError: The folder does not hold a run, or no validated checkpoint.
    """
    folder = Path(run)
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} holds no run ({CONFIG} is missing): name a run's folder")
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
            raise UserError(f"{folder} holds no validated checkpoint: train first")
        variables = checkpoints.restore_variables(step)
    _check_variables(folder, model, preprocessing, variables)
    return Predictor(
        config=config,
        targets=targets.get_all(config.targets),
        model=model,
        variables=variables,
        preprocessing=preprocessing,
        intensities=Intensities.of(numbers.mean, numbers.std),
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


def _filled(array: np.ndarray, missing: int) -> np.ndarray:
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array
