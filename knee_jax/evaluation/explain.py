"""Explanation of a network: the features that its heads read, and where its evidence lay.

Networks expose intermediate values by `knee_jax.models.layers.observe`; heat is the evidence in
favour of a class in their maps (`knee_jax.models.activation`). Wang et al. show both: Figs. 4
and 6. For a volume it is shown in the slices that count most: those that the Transformer of
Panfilov et al. 2022 attends to.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from knee_jax import targets
from knee_jax.data import mesh
from knee_jax.data.batches import Batch
from knee_jax.data.preprocessing import Intensities
from knee_jax.errors import UserError
from knee_jax.evaluation import deletion
from knee_jax.landmarks import NUM_LANDMARKS
from knee_jax.models import activation
from knee_jax.models.layers import Cells
from knee_jax.models.slice_sequence import VIEWS
from knee_jax.targets.kinds import Classes
from knee_jax.training.run import Run, StepConstants
from knee_jax.training.state import Variables

MOST_KNEES = 600
"""Maximum number of knees whose features are gathered."""

NUM_SLICES = 3
"""Number of slices of a volume that are shown, of all its views together."""

NUM_SHOWN = 15
"""Maximum number of knees whose heat maps are made."""


class HeatMaps(NamedTuple):
    """Knees as the network sees them, with the location of the evidence for a class.

    Attributes:
        images: Input images, uint8 [n, size, size].
        heat: Evidence, float32 [n, size, size], 0 to 1, the maximum of each knee being 1; zeros
            where there is none in favour of the class.
        patch: Side of the two patches that the network reads, pixels; 0 if it reads the whole knee.
        mm_per_pixel: Size of a pixel of the images; NaN if unknown.
        losses: Loss of the predicted class's margin without the hottest tenth of each picture, and
            without as much elsewhere, float32 [n, 2], as `knee_jax.evaluation.deletion` finds it;
            None if the heat is of another class.
    """

    images: np.ndarray
    heat: np.ndarray
    patch: int = 0
    mm_per_pixel: float = float("nan")
    losses: np.ndarray | None = None


class SliceMaps(NamedTuple):
    """Volumes as the network sees them in one view: the slices that count most, and the evidence.

    Attributes:
        strength: Weight of each slice, float32 [n, slices]: attention of the class token to it,
            averaged over the heads of the last block; without attention its share of the evidence.
        numbers: Slices of greatest strength, int32 [n, k], ascending, from 0.
        images: Those slices, uint8 [n, k, rows, columns].
        heat: Evidence for the class in them, float32 [n, k, rows, columns], 0 to 1; 1 is the
            maximum over all slices, shown or not; zeros where there is none in favour of the class.
        spacing_mm: Distance of the images' rows and of their columns, mm; NaN if unknown.
    """

    strength: np.ndarray
    numbers: np.ndarray
    images: np.ndarray
    heat: np.ndarray
    spacing_mm: tuple[float, float] = (float("nan"), float("nan"))


class Explanation(NamedTuple):
    """Explanation of the network's predictions on some knees of a predictions table.

    Attributes:
        target: Target that is explained, such as a grade.
        gathered: Rows of the table, int64 [m], ascending.
        features: Features of the `gathered` rows, float32 [m, d]; None if the network does not
            expose them.
        shown: Rows of the table, int64 [n], as chosen by `choose_knees`.
        heat_maps: Maps of the `shown` rows for the predicted class; None for volumes.
        slices: Maps of the `shown` rows for each view of volumes; None for films.
        attended: Whether the strength of slices is attention.
    """

    target: str
    gathered: np.ndarray
    features: np.ndarray | None
    shown: np.ndarray
    heat_maps: HeatMaps | None
    slices: Mapping[str, SliceMaps] | None = None
    attended: bool = False


def explain(run: Run, variables: Variables, name: str, table: pd.DataFrame) -> Explanation:
    """Inspect the network as it reads the knees of a part; every process must take part.

    Args:
        run: The run.
        variables: Variables of the network.
        name: Name of the subset.
        table: Predictions of the subset, as `knee_jax.evaluation.predict` makes them.
    """
    target, part = run.task.targets[0], run.subsets[name]
    known = np.flatnonzero(targets.get(target).is_known(table[target].to_numpy()))
    gathered = known[evenly(len(known), MOST_KNEES)]
    shown = known[choose_knees(table.iloc[known], target)]
    seen = observed(run, variables)
    found, heat, slices = None, None, None
    if len(known) and "features" in seen:
        found = features(run, variables, name, part.rows[gathered])
    if run.config.input.volume:
        if len(known) and _view_maps_among(run, seen):
            slices = slice_maps(run, variables, name, part.rows[shown], target)
    elif len(known) and activation.maps_among(seen):
        heat = heat_maps(run, variables, name, part.rows[shown], target)
    return Explanation(target, gathered, found, shown, heat, slices, "attention" in seen)


def observed(run: Run, variables: Variables) -> dict[str, tuple[int, ...]]:
    """Return the shapes of values that the network exposes, by name, for a batch of one knee."""
    image, keypoints = (
        jnp.zeros((1, *run.preprocessing.input_shape)),
        jnp.zeros((1, NUM_LANDMARKS, 2)),
    )
    return activation.observed(run.model, variables, image, keypoints)


def features(
    run: Run, variables: Variables, name: str, rows: np.ndarray | None = None
) -> np.ndarray:
    """Return the features that the heads read, float32 [n, d].

    Args:
        run: The run.
        variables: Variables of the network.
        name: Name of the subset of the knees.
        rows: Rows of the index, int64 [n]; all of the subset if omitted.

    Raises:
        UserError: The network does not expose its features.
    """
    if "features" not in observed(run, variables):
        raise UserError(_unseen(run, "features"))

    def look(
        variables: Variables, constants: StepConstants, batch: Batch
    ) -> tuple[jax.Array, jax.Array]:
        images, keypoints = run.preprocessing(
            batch, jax.random.key(0), constants.intensities, train=False
        )
        _, seen = run.model.apply(
            variables, images, keypoints, train=False, mutable=["intermediates"]
        )
        return batch["row"], activation.by_name(seen["intermediates"])["features"].astype(
            jnp.float32
        )

    return _map(run, variables, name, rows, look)


def heat_maps(
    run: Run,
    variables: Variables,
    name: str,
    rows: np.ndarray,
    target: str,
    chosen: int | None = None,
) -> HeatMaps:
    """Return maps of the evidence for a class.

    Args:
        run: The run.
        variables: Variables of the network.
        name: Name of the subset of the knees.
        rows: Rows of the index, int64 [n].
        target: Target whose logits count, such as a grade.
        chosen: Class; that of the highest logit of each knee if omitted.

    Raises:
        UserError: The network exposes no maps.
    """
    names = activation.maps_among(observed(run, variables))
    if not names:
        raise UserError(_unseen(run, "maps"))

    def look(
        variables: Variables, constants: StepConstants, batch: Batch
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        images, keypoints = run.preprocessing(
            batch, jax.random.key(0), constants.intensities, train=False
        )
        heat = activation.heat_of(run.model, variables, images, keypoints, target, chosen)
        assert heat is not None
        found = (_grey(images, constants.intensities), heat)
        if chosen is not None:
            return batch["row"], found

        def logits_of(images: jax.Array) -> jax.Array:
            logits: Any = run.model.apply(variables, images, keypoints, train=False)
            return logits[target]

        return batch["row"], (*found, deletion.losses(logits_of, images, heat))

    images, heat, *losses = _map(run, variables, name, rows, look)
    patch = activation.patch_of(run.model, names)
    return HeatMaps(images, heat, patch, mm_per_pixel(run, name), *losses)


def mm_per_pixel(run: Run, name: str) -> float:
    """Return the size of a pixel of the input of a subset's films, mm; NaN if unknown."""
    prepared = run.subsets[name].prepared
    height, width = prepared.image_shape
    # How far apart two points of the film come to lie in the input.
    points = np.zeros((1, NUM_LANDMARKS, 2), np.float32)
    points[0, 1, 0] = width
    film = {"image": np.zeros((1, height, width), np.uint8), "keypoints": points}
    _, mapped = run.preprocessing(film, jax.random.key(0), run.constants.intensities, train=False)
    assert mapped is not None
    return prepared.spacing_mm[0] * width / float(mapped[0, 1, 0] - mapped[0, 0, 0])


def slice_maps(
    run: Run,
    variables: Variables,
    name: str,
    rows: np.ndarray,
    target: str,
    chosen: int | None = None,
) -> dict[str, SliceMaps]:
    """Return the weight of each slice of a volume, and the evidence for a class in it.

    Args:
        run: Run.
        variables: Variables of the network.
        name: Name of the subset of the knees, which are volumes.
        rows: Rows of the index, int64 [n].
        target: Name of the target whose logits count.
        chosen: Class; that of the highest logit of each knee if omitted.

    Returns:
        Maps of the slices of each view.

    Raises:
        UserError: The network exposes no maps.
    """
    names = _view_maps_among(run, observed(run, variables))
    if not names:
        raise UserError(_unseen(run, "maps"))

    def look(
        variables: Variables, constants: StepConstants, batch: Batch
    ) -> tuple[jax.Array, dict[str, tuple[jax.Array, ...]]]:
        images, keypoints = run.preprocessing(
            batch, jax.random.key(0), constants.intensities, train=False
        )
        seen, gradients = activation.evidence(
            run.model, variables, images, keypoints, target, chosen
        )
        found, first = {}, 0
        for each, view in names.items():
            volume = images.transpose(VIEWS[view]) if len(names) > 1 else images
            count = volume.shape[1]
            attention = None
            if "attention" in seen:
                attention = seen["attention"][:, :, first : first + count].mean(1)
            heat = activation.class_activation(seen[each], gradients[each])
            heat = heat.reshape(len(images), -1, *heat.shape[-2:])
            axes = zip(volume.shape[1:4], heat.shape[1:])
            cells = [activation.cells_of(run.model, each, *axis) for axis in axes]
            grey = _grey(volume, constants.intensities)
            found[view] = _strongest(grey, heat, cells, attention, NUM_SLICES // len(names))
            first += count
        return batch["row"], found

    of_views = _map(run, variables, name, rows, look)
    rows_mm, columns_mm, slices_mm = run.subsets[name].prepared.spacing_mm
    spacing = {
        "sagittal": (rows_mm, columns_mm),
        "coronal": (rows_mm, slices_mm),
        "axial": (columns_mm, slices_mm),
    }
    return {
        view: SliceMaps(*arrays)._replace(spacing_mm=spacing[view])
        for view, arrays in of_views.items()
    }


def _strongest(
    volumes: jax.Array,
    heat: jax.Array,
    cells: Sequence[Cells],
    attention: jax.Array | None,
    number: int,
) -> tuple[jax.Array, ...]:
    """Return the slices that count most, in the form of `SliceMaps`.

    Args:
        volumes: Volumes, uint8 [batch, slices, rows, columns].
        heat: Evidence at a coarser resolution, [batch, depth, h, w].
        cells: Places of its cells along the last three axes.
        attention: Attention to each slice, [batch, slices], if there is any.
        number: Number of slices to choose.
    """
    count, *side = volumes.shape[1:]
    if heat.shape[1] != count:
        between, _ = activation.shares(count, heat.shape[1], cells[0])
        heat = jnp.einsum("sd,bdhw->bshw", between, heat, precision="highest")
    of_slices = heat.sum((2, 3))
    total = of_slices.sum(1, keepdims=True)
    strength = of_slices / jnp.where(total > 0, total, 1.0) if attention is None else attention
    numbers = jnp.sort(jax.lax.top_k(strength, min(number, count))[1], axis=1)
    at = numbers[:, :, None, None]
    shown = jnp.take_along_axis(activation.normalise(heat), at, axis=1)
    shown = activation.grow(shown, (side[0], side[1]), cells[1:])
    return strength, numbers, jnp.take_along_axis(volumes, at, axis=1), shown


def choose_knees(table: pd.DataFrame, target: str, number: int = NUM_SHOWN) -> np.ndarray:
    """Choose the most telling knees: confidently right, confidently wrong, and undecided ones.

    Args:
        table: Predictions table in which every knee has a class of the target.
        target: Name of the target.
        number: Number of knees, fewer if the table has fewer. Four fifths are shared equally by the
            classes, and by right and wrong predictions, with at least one each; the rest are
            undecided.

    Returns:
        Rows of the table, int64 [n]: for each class the most confident right predictions; for each
        true class the most confident wrong ones; then the knees whose two most probable classes
        differ least. For a continuous target, knees from the best to the worst predicted.
    """
    kind = targets.get(target)
    truth, predicted = (table[c].to_numpy() for c in (target, f"{target}_pred"))
    if not isinstance(kind, Classes):
        # From the best to the worst.
        by_error = np.argsort(np.abs(predicted - truth), kind="stable")
        return by_error[np.unique(np.linspace(0, len(by_error) - 1, number).astype(int))]
    ascending = np.sort(table[kind.output_columns()].to_numpy(np.float64), axis=1)
    confidence, margin = ascending[:, -1], ascending[:, -1] - ascending[:, -2]
    each = max(1, 2 * number // (5 * kind.num_outputs))
    by_confidence = np.argsort(-confidence, kind="stable")
    chosen: list[int] = []
    for right in (True, False):
        for value in range(kind.num_outputs):
            of_kind = (truth == value) & ((predicted == truth) == right)
            chosen += by_confidence[of_kind[by_confidence]][:each].tolist()
    undecided = np.argsort(margin, kind="stable")
    room = number - 2 * each * kind.num_outputs
    chosen += undecided[~np.isin(undecided, chosen)][: max(0, room)].tolist()
    return np.array(chosen, np.int64)


def evenly(count: int, most: int) -> np.ndarray:
    """Return at most `most` of `count` positions, evenly spaced, int64, ascending."""
    number = min(count, most)
    return np.arange(number) * count // max(number, 1)


def _map(
    run: Run,
    variables: Variables,
    name: str,
    rows: np.ndarray | None,
    look: Callable[[Variables, StepConstants, Batch], tuple[jax.Array, Any]],
) -> Any:
    """Apply `look`, compiled, to the knees of a subset."""
    part = run.subsets[name]
    look = jax.jit(look, out_shardings=mesh.replicated(run.mesh))
    return part.map(
        lambda batch: look(variables, run.constants, batch),
        part.rows if rows is None else rows,
        run.config.evaluation.batch_size,
    )


def _grey(images: jax.Array, intensities: Intensities) -> jax.Array:
    """Return normalised images [..., channels] as grey values, uint8 [...]."""
    grey = (images[..., 0] * intensities.std + intensities.mean) * 255
    return jnp.clip(jnp.round(grey), 0, 255).astype(jnp.uint8)


def _unseen(run: Run, what: str) -> str:
    return (
        f"the network {run.config.model.name} does not let its {what} be seen: choose one "
        "that calls `layers.observe` for them"
    )


def _view_maps_among(run: Run, seen: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Return the view of the slices of each map that explains a network of volumes."""
    for kind in ("evidence", "maps"):
        if kind in seen:
            # The volume as it comes, in the view that the augmentation makes.
            return {kind: getattr(run.config.augmentation, "view", "sagittal")}
        of_views = {f"{kind}_{view}": view for view in VIEWS}
        if set(of_views) <= set(seen):
            return of_views
    return {}
