"""What a network saw in knees: the features that its heads read, and where its evidence lay.

Networks let themselves be looked into by `knee_jax.models.layers.observe`. Grad-CAM (Selvaraju et
al. 2017, section 3) weighs each channel of the last maps by the mean of the gradient of a class'
logit, and keeps what speaks for the class. Wang et al. show both: Figs. 4 and 6. Of a volume it is
seen in the slices that count most: those that the Transformer of Panfilov et al. 2022 attends to.
"""

import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from flax.traverse_util import flatten_dict

from knee_jax import sharding
from knee_jax.data.batches import Batch
from knee_jax.errors import UserError
from knee_jax.experiment import Experiment, Facts
from knee_jax.grades import MISSING, NUM_CLASSES
from knee_jax.landmarks import NUM_LANDMARKS
from knee_jax.metrics.predictions import probability_columns
from knee_jax.models.patches import PATCH, paste_patches
from knee_jax.models.slice_sequence import VIEWS
from knee_jax.state import Variables

WHOLE, SIDES = ("maps",), ("maps_lateral", "maps_medial")
"""The last maps of a network that reads the whole knee, or its two side patches."""

BORDER = 7
"""Pixels over which heat fades at the border of a patch, as where Tiulpin et al. 2018 paste it."""

MOST_KNEES = 2000
"""Knees whose features are gathered, at most."""

VIEW_MAPS = types.MappingProxyType({f"maps_{view}": view for view in VIEWS})
"""Last maps of a network that reads a volume in three views → the view."""

NUM_SLICES = 3
"""Slices of a volume that are shown, of all its views together."""

NUM_SHOWN = 15
"""Knees whose heat maps are made, at most."""


class HeatMaps(NamedTuple):
    """Knees as the network sees them, and where the evidence for a class lay.

    Attributes:
        images: uint8 [n, size, size], its input.
        heat: float32 [n, size, size], 0 to 1, the highest of each knee being 1; zeros where
            nothing speaks for the class.
        patch: side of the two patches that it reads, pixels; 0: it reads the whole knee.
    """

    images: np.ndarray
    heat: np.ndarray
    patch: int = 0


class SliceMaps(NamedTuple):
    """Volumes as the network sees them in one view: the slices that count most, and the evidence.

    Attributes:
        strength: float32 [n, slices], how much each slice counts: the attention of the class token
            to it, the mean of the heads of the last block; without attention its share of the
            evidence.
        numbers: int32 [n, k], the slices of most strength, ascending, from 0.
        images: uint8 [n, k, rows, columns], these slices.
        heat: float32 [n, k, rows, columns], 0 to 1, where in them the evidence for a class lay; 1
            is the highest of all slices, shown or not; zeros where nothing speaks for the class.
    """

    strength: np.ndarray
    numbers: np.ndarray
    images: np.ndarray
    heat: np.ndarray


class Explanation(NamedTuple):
    """What the network saw in some knees of a predictions table.

    Attributes:
        target: the grade, or other target, that is explained.
        gathered: int64 [m], rows of the table, ascending.
        features: float32 [m, d], theirs; None if the network does not let them be seen.
        shown: int64 [n], rows of the table, as `choose_knees` has them.
        heat_maps: theirs, for the predicted class; likewise, and None of volumes.
        slices: of volumes, view → theirs, likewise.
        attended: whether the strength of slices is attention.
    """

    target: str
    gathered: np.ndarray
    features: np.ndarray | None
    shown: np.ndarray
    heat_maps: HeatMaps | None
    slices: Mapping[str, SliceMaps] | None = None
    attended: bool = False


def explain(
    experiment: Experiment, variables: Variables, name: str, table: pd.DataFrame
) -> Explanation:
    """Looks into the network while it reads knees of a part; every process must take part.

    Args:
        experiment: the run's.
        variables: of its network.
        name: of the part.
        table: its predictions, as `knee_jax.evaluate.predict` makes them.
    """
    target, part = experiment.task.grades[0], experiment.parts[name]
    known = np.flatnonzero(table[target] != MISSING)
    gathered = known[evenly(len(known), MOST_KNEES)]
    shown = known[choose_knees(table.iloc[known], target)]
    seen = observed(experiment, variables)
    found, heat_maps, slices = None, None, None
    if len(known) and "features" in seen:
        found = features(experiment, variables, name, part.rows[gathered])
    if experiment.config.input.get("volume"):
        if len(known) and _view_maps_among(experiment, seen):
            slices = slice_maps(experiment, variables, name, part.rows[shown], target)
    elif len(known) and _maps_among(seen):
        heat_maps = grad_cam(experiment, variables, name, part.rows[shown], target)
    return Explanation(target, gathered, found, shown, heat_maps, slices, "attention" in seen)


def observed(experiment: Experiment, variables: Variables) -> dict[str, tuple[int, ...]]:
    """Name → shape, for a batch of one knee, of what the network lets be seen."""
    image, keypoints = jnp.zeros((1, *experiment.view_shape)), jnp.zeros((1, NUM_LANDMARKS, 2))
    seen = _shapes(experiment, variables, image, keypoints)["intermediates"]
    return {name: value.shape for name, value in _by_name(seen).items()}


def features(
    experiment: Experiment, variables: Variables, name: str, rows: np.ndarray | None = None
) -> np.ndarray:
    """What the heads read, float32 [n, d].

    Args:
        experiment: the run's.
        variables: of its network.
        name: of the part that the knees are of.
        rows: int64 [n], of its index; all of the part if omitted.

    Raises:
        UserError: the network does not let its features be seen.
    """
    if "features" not in observed(experiment, variables):
        raise UserError(_unseen(experiment, "features"))

    def look(variables: Variables, facts: Facts, batch: Batch) -> tuple[jax.Array, jax.Array]:
        images, keypoints = experiment.views(batch, jax.random.key(0), facts, train=False)
        _, seen = experiment.model.apply(
            variables, images, keypoints, train=False, mutable=["intermediates"]
        )
        return batch["row"], _by_name(seen["intermediates"])["features"].astype(jnp.float32)

    return _map(experiment, variables, name, rows, look)


def grad_cam(
    experiment: Experiment,
    variables: Variables,
    name: str,
    rows: np.ndarray,
    target: str,
    chosen: int | None = None,
) -> HeatMaps:
    """Where the evidence for a class lay.

    Args:
        experiment: the run's.
        variables: of its network.
        name: of the part that the knees are of.
        rows: int64 [n], of its index.
        target: grade, or other target, whose logits count.
        chosen: the class; that of the highest logit of each knee if omitted.

    Raises:
        UserError: the network lets no maps be seen.
    """
    names = _maps_among(observed(experiment, variables))
    if not names:
        raise UserError(_unseen(experiment, "maps"))
    size = experiment.config.input.size
    patch = getattr(experiment.model, "patch", PATCH) if names == SIDES else 0

    def look(
        variables: Variables, facts: Facts, batch: Batch
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        images, keypoints = experiment.views(batch, jax.random.key(0), facts, train=False)
        seen, gradients = _evidence(experiment, variables, images, keypoints, target, chosen)
        heat = {each: class_activation(seen[each], gradients[each]) for each in names}
        whole = _on_side_patches(heat, patch, size) if patch else _grow(heat["maps"], size)
        return batch["row"], (_grey(images, facts), _normalise(whole))

    images, heat = _map(experiment, variables, name, rows, look)
    return HeatMaps(images, heat, patch)


def slice_maps(
    experiment: Experiment,
    variables: Variables,
    name: str,
    rows: np.ndarray,
    target: str,
    chosen: int | None = None,
) -> dict[str, SliceMaps]:
    """Which slices of a volume count most, and where in them the evidence for a class lay.

    Of a network that reads slice by slice, Grad-CAM weighs the channels in each slice by itself.

    Args:
        experiment: the run's.
        variables: of its network.
        name: of the part that the knees are of, which are volumes.
        rows: int64 [n], of its index.
        target: whose logits count.
        chosen: the class; that of the highest logit of each knee if omitted.

    Returns:
        View → of the slices of that view.

    Raises:
        UserError: the network lets no maps be seen.
    """
    names = _view_maps_among(experiment, observed(experiment, variables))
    if not names:
        raise UserError(_unseen(experiment, "maps"))

    def look(
        variables: Variables, facts: Facts, batch: Batch
    ) -> tuple[jax.Array, dict[str, tuple[jax.Array, ...]]]:
        images, keypoints = experiment.views(batch, jax.random.key(0), facts, train=False)
        seen, gradients = _evidence(experiment, variables, images, keypoints, target, chosen)
        found, first = {}, 0
        for each, view in names.items():
            volume = images.transpose(VIEWS[view]) if each in VIEW_MAPS else images
            count = volume.shape[1]
            attention = None
            if "attention" in seen:
                attention = seen["attention"][:, :, first : first + count].mean(1)
            heat = class_activation(seen[each], gradients[each])
            heat = heat.reshape(len(images), -1, *heat.shape[-2:])
            found[view] = _strongest(
                _grey(volume, facts), heat, attention, NUM_SLICES // len(names)
            )
            first += count
        return batch["row"], found

    of_views = _map(experiment, variables, name, rows, look)
    return {view: SliceMaps(*arrays) for view, arrays in of_views.items()}


def _strongest(
    volumes: jax.Array, heat: jax.Array, attention: jax.Array | None, number: int
) -> tuple[jax.Array, ...]:
    """The slices that count most, as `SliceMaps` has them.

    Args:
        volumes: uint8 [batch, slices, rows, columns].
        heat: [batch, depth, h, w], coarser.
        attention: [batch, slices], if there is any.
        number: of slices.
    """
    count, *side = volumes.shape[1:]
    if heat.shape[1] != count:
        shape = (len(heat), count, *heat.shape[2:])
        heat = jax.image.resize(heat, shape, "linear", antialias=False)
    of_slices = heat.sum((2, 3))
    total = of_slices.sum(1, keepdims=True)
    strength = of_slices / jnp.where(total > 0, total, 1.0) if attention is None else attention
    numbers = jnp.sort(jax.lax.top_k(strength, min(number, count))[1], axis=1)
    at = numbers[:, :, None, None]
    shown = jnp.take_along_axis(_normalise(heat), at, axis=1)
    shown = jax.image.resize(shown, (*shown.shape[:2], *side), "linear", antialias=False)
    return strength, numbers, jnp.take_along_axis(volumes, at, axis=1), shown


def class_activation(maps: jax.Array, gradients: jax.Array) -> jax.Array:
    """The evidence for a class, float32 [batch, ...], 0 or more (ibid., eq. 1 and 2).

    Args:
        maps: [batch, ..., channels], of two or three dimensions.
        gradients: of the class' logit by the maps, the same shape.
    """
    places = tuple(range(1, maps.ndim - 1))
    weights = gradients.astype(jnp.float32).mean(places, keepdims=True)
    return jax.nn.relu((weights * maps.astype(jnp.float32)).sum(-1))


def choose_knees(table: pd.DataFrame, target: str, number: int = NUM_SHOWN) -> np.ndarray:
    """Knees that tell most of a network: certain and right, certain and wrong, and undecided.

    Args:
        table: a predictions table in which every knee has a class of the target.
        target: which.
        number: of knees, fewer where there are not so many. Four fifths are shared by the classes,
            right and wrong alike, one each at least; the rest are undecided.

    Returns:
        int64 [n], rows of the table: for each class those that were right and most certain; for
        each true class those that were wrong and most certain; then those whose two most probable
        classes differ least.
    """
    truth, predicted = (table[c].to_numpy(np.int64) for c in (target, f"{target}_pred"))
    ascending = np.sort(table[probability_columns(target)].to_numpy(np.float64), axis=1)
    confidence, margin = ascending[:, -1], ascending[:, -1] - ascending[:, -2]
    each = max(1, 2 * number // (5 * NUM_CLASSES[target]))
    by_confidence = np.argsort(-confidence, kind="stable")
    chosen: list[int] = []
    for right in (True, False):
        for value in range(NUM_CLASSES[target]):
            of_kind = (truth == value) & ((predicted == truth) == right)
            chosen += by_confidence[of_kind[by_confidence]][:each].tolist()
    undecided = np.argsort(margin, kind="stable")
    room = number - 2 * each * NUM_CLASSES[target]
    chosen += undecided[~np.isin(undecided, chosen)][: max(0, room)].tolist()
    return np.array(chosen, np.int64)


def evenly(count: int, most: int) -> np.ndarray:
    """At most so many of `count` positions, evenly drawn, int64, ascending."""
    number = min(count, most)
    return np.arange(number) * count // max(number, 1)


def _map(
    experiment: Experiment,
    variables: Variables,
    name: str,
    rows: np.ndarray | None,
    look: Callable[[Variables, Facts, Batch], tuple[jax.Array, Any]],
) -> Any:
    """What `look`, compiled, sees in the knees."""
    part = experiment.parts[name]
    look = jax.jit(look, out_shardings=sharding.replicated(experiment.mesh))
    return part.map(
        lambda batch: look(variables, experiment.facts, batch),
        part.rows if rows is None else rows,
        experiment.config.evaluation.batch_size,
    )


def _evidence(
    experiment: Experiment,
    variables: Variables,
    images: jax.Array,
    keypoints: Any,
    target: str,
    chosen: int | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the network lets be seen, by name, and the gradients of a class' logit by it."""

    def evidence(perturbations: Any) -> tuple[jax.Array, Any]:
        outputs, seen = experiment.model.apply(
            {**variables, "perturbations": perturbations},
            images,
            keypoints,
            train=False,
            mutable=["intermediates"],
        )
        logits = outputs[target]
        classes = logits.argmax(-1) if chosen is None else jnp.full(len(logits), chosen)
        # Knees do not meet in evaluation: the sum's gradient is each knee's own.
        of_class = jnp.take_along_axis(logits, classes[:, None], axis=1)
        return of_class.sum(), seen["intermediates"]

    shapes = _shapes(experiment, variables, images, keypoints)["perturbations"]
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    gradients, seen = jax.grad(evidence, has_aux=True)(nothing)
    return _by_name(seen), _by_name(gradients)


def _grey(images: jax.Array, facts: Facts) -> jax.Array:
    """Normalised images [..., channels] as grey values again, uint8 [...]."""
    grey = (images[..., 0] * facts.deviation + facts.mean) * 255
    return jnp.clip(jnp.round(grey), 0, 255).astype(jnp.uint8)


def _shapes(
    experiment: Experiment, variables: Variables, images: jax.Array, keypoints: jax.Array | None
) -> dict[str, Any]:
    """Shapes of what the network lets be seen: `intermediates` and `perturbations`."""

    def look(variables: Variables, images: jax.Array, keypoints: Any) -> Any:
        return experiment.model.apply(
            variables,
            images,
            keypoints,
            train=False,
            mutable=["intermediates", "perturbations"],
        )

    _, seen = jax.eval_shape(look, variables, images, keypoints)
    return {"intermediates": {}, "perturbations": {}} | dict(seen)


def _by_name(seen: Mapping[str, Any]) -> dict[str, Any]:
    """What was observed by its name, wherever in the network that was."""
    values = {path[-1]: value for path, value in flatten_dict(seen).items()}
    return {name: v[0] if isinstance(v, tuple) else v for name, v in values.items()}


def _unseen(experiment: Experiment, what: str) -> str:
    return (
        f"the network {experiment.config.model.name} does not let its {what} be seen: choose one "
        "that calls `layers.observe` for them"
    )


def _maps_among(seen: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """Which maps explain the network, `WHOLE` or `SIDES`; none where it shows neither."""
    for names in (WHOLE, SIDES):
        if all(len(seen.get(name, ())) == 4 for name in names):
            return names
    return ()


def _view_maps_among(experiment: Experiment, seen: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Which maps explain a network of volumes → the view of their slices; none of others."""
    if "maps" in seen:
        # As the volume comes: of the view that the augmentation makes.
        return {"maps": experiment.config.augmentation.get("view", "sagittal")}
    return dict(VIEW_MAPS) if set(VIEW_MAPS) <= set(seen) else {}


def _grow(heat: jax.Array, size: int) -> jax.Array:
    """[batch, height, width] stretched bilinearly over [batch, size, size]."""
    return jax.image.resize(heat, (len(heat), size, size), "linear", antialias=False)


def _on_side_patches(heat: Mapping[str, jax.Array], patch: int, size: int) -> jax.Array:
    """Heat of the two patches where they lie on the knee, [batch, size, size]."""
    centres = np.arange(patch) + 0.5
    fade = np.minimum(1.0, np.minimum(centres, patch - centres) / BORDER).astype(np.float32)
    lateral, medial = (_grow(heat[name], patch) * fade[:, None] * fade for name in SIDES)
    pasted, _ = paste_patches(lateral[..., None], medial[..., None], size, size)
    return pasted[..., 0]


def _normalise(heat: jax.Array) -> jax.Array:
    """Divides each knee's heat [batch, ...] by its maximum; without heat there is none to show."""
    highest = heat.max(tuple(range(1, heat.ndim)), keepdims=True)
    return heat / jnp.where(highest > 0, highest, 1.0)
