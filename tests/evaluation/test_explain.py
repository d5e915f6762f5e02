"""Features and heat maps of small networks."""

import dataclasses
import re
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import map_coordinates

from knee_jax import models
from knee_jax.config.load import parse
from knee_jax.data import mesh
from knee_jax.data.preprocessing import Intensities, Preprocessing
from knee_jax.errors import UserError
from knee_jax.evaluation import evaluate, explain, predict
from knee_jax.evaluation.explain import choose_knees, evenly
from knee_jax.models import activation
from knee_jax.models.activation import BORDER
from knee_jax.models.layers import Conv, Linear, observe
from knee_jax.models.patches import first_row, side_patches
from knee_jax.models.slice_sequence import VIEWS
from knee_jax.training import train
from knee_jax.training.run import set_up
from tests.factories import NUM_CLASSES, random_values

pytestmark = pytest.mark.usefixtures("few_optimisations")


class Encoder(nn.Module):
    """Two convolutions, each with a ReLU: maps of half the side."""

    @nn.compact
    def __call__(self, image):
        x = nn.relu(Conv(6, 3, 2, name="conv1")(image))
        return nn.relu(Conv(8, 3, name="conv2")(x))


class Whole(nn.Module):
    """Reads the whole knee, and lets its maps and features be seen."""

    blind: bool = False

    needs_keypoints = False

    @nn.compact
    def __call__(self, image, keypoints=None, train=False):
        maps = Encoder(name="trunk")(image)
        if not self.blind:
            maps = observe(self, "maps", maps)
        features = maps.mean((1, 2))
        if not self.blind:
            features = observe(self, "features", features)
        return {"kl": Linear(5, name="head_kl")(features)}


class Siamese(nn.Module):
    """Reads the two side patches through one encoder; the sides have weights of their own."""

    lateral: float = 1.0
    medial: float = 1.0
    patch: int = 24

    needs_keypoints = False

    @nn.compact
    def __call__(self, image, keypoints=None, train=False):
        encoder = Encoder(name="trunk")
        features = 0.0
        for side, patch in zip(("lateral", "medial"), side_patches(image, self.patch), strict=True):
            maps = observe(self, f"maps_{side}", encoder(patch))
            features += getattr(self, side) * maps.mean((1, 2))
        return {"kl": Linear(5, name="head_kl")(observe(self, "features", features))}


@pytest.fixture
def experiment(config, tmp_path, tiny_data_dir):
    return set_up(parse(config), tmp_path, tiny_data_dir)


def looking_through(experiment, model):
    """The experiment with another network, and random weights of it."""
    experiment = dataclasses.replace(experiment, model=model)
    return experiment, experiment.random_state().variables


def views(experiment, rows, name="test"):
    """The network's input of some knees, made without batches."""
    knees = experiment.subsets[name].prepared.load(rows)
    intensities = experiment.constants.intensities
    images, _ = experiment.preprocessing(knees, jax.random.key(0), intensities, train=False)
    return np.asarray(images)


def with_head(variables, kernel, bias=0.0):
    """The variables with another head: kernel [features, classes]."""
    head = {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.full(5, bias, jnp.float32)}
    return {**variables, "params": {**variables["params"], "head_kl": head}}


@pytest.mark.parametrize("mode", ["resident", "streamed"])
def test_features_are_those_of_the_knees_in_their_order(mode, config, tmp_path, tiny_data_dir):
    config.data.mode = mode
    experiment = set_up(parse(config), tmp_path, tiny_data_dir)
    experiment, variables = looking_through(experiment, Whole())
    rows = experiment.subsets["test"].rows
    assert len(rows) % config.evaluation.batch_size
    found = explain.features(experiment, variables, "test")
    maps = Encoder().apply({"params": variables["params"]["trunk"]}, views(experiment, rows))
    np.testing.assert_allclose(found, maps.mean((1, 2)), rtol=1e-4, atol=1e-6)
    some = explain.features(experiment, variables, "test", rows[[7, 2, 11]])
    np.testing.assert_allclose(some, found[[7, 2, 11]], rtol=1e-5)


def enlarged(cells, shape):
    """Heat of pixels between cells that are centred on every other one; of cold cells, cold."""
    at = np.meshgrid(*(np.arange(size) / 2 for size in shape), indexing="ij")
    warm = (cells > 0).astype(np.float32)
    nearest = map_coordinates(warm, [np.floor(a + 0.5) for a in at], order=0, mode="nearest")
    return nearest * map_coordinates(cells, at, order=1, mode="nearest")


@pytest.mark.parametrize("chosen", [None, 3])
def test_heat_is_that_of_pytorch(chosen, experiment):
    """The same weights and knees, differentiated by PyTorch; [B, H, W, C] there is [B, C, H, W]."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    experiment, variables = looking_through(experiment, Whole())
    rows = experiment.subsets["test"].rows[:11]
    found = explain.heat_maps(experiment, variables, "test", rows, "kl", chosen)

    def kernel(name):
        values = variables["params"]["trunk"][name]["kernel"]
        return torch.tensor(np.asarray(values).transpose(3, 2, 0, 1))

    images = torch.tensor(views(experiment, rows).transpose(0, 3, 1, 2))
    x = torch.relu(functional.conv2d(images, kernel("conv1"), stride=2, padding=1))
    maps = torch.relu(functional.conv2d(x, kernel("conv2"), padding=1)).requires_grad_()
    head = {k: torch.tensor(np.asarray(v)) for k, v in variables["params"]["head_kl"].items()}
    logits = maps.mean((2, 3)) @ head["kernel"] + head["bias"]
    of_class = logits.max(1).values if chosen is None else logits[:, chosen]
    (gradient,) = torch.autograd.grad(of_class.sum(), maps)
    heat = torch.relu((gradient.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True))
    size = experiment.config.input.size
    heat = np.stack([enlarged(knee, (size, size)) for knee in heat.detach().numpy()[:, 0]])
    highest = heat.max((1, 2), keepdims=True)
    assert (highest > 0).any()
    expected = heat / np.where(highest > 0, highest, 1.0)
    np.testing.assert_allclose(found.heat, expected, atol=1e-4)


def test_the_images_are_the_networks_input_in_grey(experiment):
    experiment, variables = looking_through(experiment, Whole())
    rows = experiment.subsets["test"].rows[[4, 1]]
    found = explain.heat_maps(experiment, variables, "test", rows, "kl")
    seen = (
        views(experiment, rows)[..., 0] * experiment.constants.intensities.std
        + experiment.constants.intensities.mean
    )
    assert found.images.dtype == np.uint8
    np.testing.assert_allclose(found.images, 255 * seen, atol=0.51)
    assert found.images.std() > 10
    assert found.patch == 0
    # The region is 140 mm wide.
    assert found.mm_per_pixel * found.images.shape[1] == pytest.approx(140, rel=1e-4)
    assert found.heat.shape == found.images.shape
    assert found.heat.min() >= 0


@pytest.mark.parametrize("side", ["lateral", "medial"])
def test_a_network_that_reads_one_side_has_heat_only_there(side, experiment):
    other = {"lateral": "medial", "medial": "lateral"}[side]
    experiment, variables = looking_through(experiment, Siamese(**{other: 0.0}))
    variables = with_head(variables, np.ones((8, 5)))
    rows = experiment.subsets["test"].rows[:3]
    heat = explain.heat_maps(experiment, variables, "test", rows, "kl").heat
    size, patch = experiment.config.input.size, 24
    top = first_row(size, size, patch)
    inside = np.zeros((size, size), bool)
    columns = slice(0, patch) if side == "lateral" else slice(size - patch, size)
    inside[top : top + patch, columns] = True
    assert (heat[:, inside] > 0).all()
    assert not heat[:, ~inside].any()
    np.testing.assert_allclose(heat.max((1, 2)), 1.0)


def test_patches_lie_mirrored_back_on_one_scale(experiment, monkeypatch):
    """Of a knee that is its own mirror image, the medial side being twice as hot."""
    experiment, variables = looking_through(experiment, Siamese(medial=2.0))
    variables = with_head(variables, np.ones((8, 5)))
    size = experiment.config.input.size
    half = np.random.default_rng(0).normal(size=(3, size, size // 2, 1)).astype(np.float32)
    images = np.concatenate([half, half[:, :, ::-1]], axis=2)
    keypoints = np.zeros((3, 74, 2), np.float32)
    keypoints[:, 1, 0] = size

    def fake(self, batch, key, intensities, *, train):
        assert not train
        at = jnp.arange(len(batch["keypoints"])) % 3
        return jnp.asarray(images)[at], jnp.asarray(keypoints)[at]

    monkeypatch.setattr(Preprocessing, "__call__", fake)
    rows = experiment.subsets["test"].rows[:3]
    heat = explain.heat_maps(experiment, variables, "test", rows, "kl").heat
    assert heat[:, :, : size // 2].any()
    np.testing.assert_allclose(2 * heat[:, :, : size // 2], heat[:, :, : size // 2 - 1 : -1], 1e-4)
    np.testing.assert_allclose(heat.max((1, 2)), 1.0)
    assert not np.allclose(heat[0, :, :24], heat[0, :, 23::-1])


def test_patches_fade_at_their_border(experiment):
    """Heat grows evenly over the border's pixels if all pixels are equally hot."""
    heat = {side: jnp.ones((1, 24, 24)) for side in activation.SIDES}
    pasted = np.asarray(activation._on_side_patches(heat, 24, 64))[0]
    middle = pasted[first_row(64, 64, 24) + 12]
    np.testing.assert_allclose(middle[:BORDER], (np.arange(BORDER) + 0.5) / BORDER, rtol=1e-5)
    np.testing.assert_allclose(middle[BORDER : 24 - BORDER], 1.0)
    np.testing.assert_allclose(middle, middle[::-1])
    assert not middle[24:40].any()
    assert pasted[0].sum() == 0


@pytest.mark.parametrize("model", [Whole(), Siamese()])
def test_without_a_gradient_there_is_no_heat(model, experiment):
    experiment, variables = looking_through(experiment, model)
    variables = with_head(variables, np.zeros((8, 5)), bias=1.0)
    rows = experiment.subsets["test"].rows[:3]
    heat = explain.heat_maps(experiment, variables, "test", rows, "kl").heat
    assert (heat == 0).all()


def test_networks_that_observe_predict_what_they_did_before(experiment):
    experiment, variables = looking_through(experiment, Whole())
    blind = dataclasses.replace(experiment, model=Whole(blind=True))
    image = views(experiment, experiment.subsets["test"].rows[:2])
    seen, unseen = (e.model.apply(variables, image)["kl"] for e in (experiment, blind))
    np.testing.assert_array_equal(seen, unseen)


def test_a_network_that_lets_nothing_be_seen_is_named(experiment):
    experiment, variables = looking_through(experiment, Whole(blind=True))
    rows = experiment.subsets["test"].rows[:3]
    with pytest.raises(UserError, match="keypoint_pooling does not let its features be seen"):
        explain.features(experiment, variables, "test")
    with pytest.raises(UserError, match="keypoint_pooling does not let its maps be seen"):
        explain.heat_maps(experiment, variables, "test", rows, "kl")


def kl_task(experiment):
    """The experiment's task, reading KL alone."""
    task = dataclasses.replace(experiment.task, targets=("kl",), mixture=None)
    return dataclasses.replace(
        experiment, constants=dataclasses.replace(experiment.constants, task=task)
    )


def test_an_explanation_speaks_of_the_knees_of_its_table(experiment, monkeypatch):
    monkeypatch.setattr(explain, "MOST_KNEES", 9)
    experiment, variables = looking_through(kl_task(experiment), Whole())
    rows = experiment.subsets["test"].rows
    predictor = predict.make_predictor(experiment)
    table = predict.predict(experiment, predictor, variables, "test")
    table.loc[[0, 5], "kl"] = -1
    found = explain.explain(experiment, variables, "test", table)
    assert found.target == "kl"
    assert len(found.gathered) == 9
    assert not set(found.gathered) & {0, 5}
    assert not set(found.shown) & {0, 5}
    features = explain.features(experiment, variables, "test", rows[found.gathered])
    np.testing.assert_array_equal(found.features, features)
    again = explain.heat_maps(experiment, variables, "test", rows[found.shown], "kl")
    np.testing.assert_array_equal(found.heat_maps.images, again.images)
    # The heat is of the class that the table says was predicted.
    for number, row in enumerate(found.shown[:3]):
        predicted = table["kl_pred"].iloc[row]
        of_class = explain.heat_maps(experiment, variables, "test", rows[[row]], "kl", predicted)
        np.testing.assert_allclose(found.heat_maps.heat[number], of_class.heat[0], atol=1e-5)


def test_nothing_is_found_where_nothing_can_be(experiment):
    experiment, variables = looking_through(kl_task(experiment), Whole(blind=True))
    table = predict.predict(experiment, predict.make_predictor(experiment), variables, "test")
    found = explain.explain(experiment, variables, "test", table)
    assert found.features is None
    assert found.heat_maps is None
    experiment, variables = looking_through(experiment, Whole())
    found = explain.explain(experiment, variables, "test", table.assign(kl=-1))
    assert found.features is None
    assert not len(found.shown)


def table_of(target, truth, probabilities):
    columns = {f"{target}_p{c}": p for c, p in enumerate(np.transpose(probabilities))}
    return pd.DataFrame({target: truth, f"{target}_pred": np.argmax(probabilities, 1)} | columns)


def test_telling_knees_are_certain_or_undecided():
    second = np.array([0.9, 0.05, 0.2, 0.97, 0.51, 0.03, 0.6, 0.45, 0.99, 0.1])
    truth = np.array([1, 0, 1, 1, 1, 1, 0, 1, 0, 0])
    table = table_of("kl0_vs_kl2", truth, np.stack([1 - second, second], 1))
    # Two of each class, right then wrong, then what is left, the nearest to a half first.
    right, wrong = [1, 9, 3, 0], [8, 6, 5, 2]
    np.testing.assert_array_equal(choose_knees(table, "kl0_vs_kl2", 10), [*right, *wrong, 4, 7])
    np.testing.assert_array_equal(choose_knees(table.iloc[:0], "kl0_vs_kl2"), [])


@pytest.mark.parametrize("target", ["kl", "jsm", "kl0_vs_kl2"])
def test_of_many_knees_no_more_than_asked_are_chosen(target):
    rng = np.random.default_rng(0)
    classes = NUM_CLASSES[target]
    probabilities = rng.dirichlet(np.ones(classes), 300)
    table = table_of(target, rng.integers(classes, size=300), probabilities)
    chosen = choose_knees(table, target)
    assert len(set(chosen)) == len(chosen) == 15
    right = (table[target] == table[f"{target}_pred"])[chosen]
    each = len(chosen) * 2 // 5 // classes * classes
    assert right[:each].all()
    assert not right[each : 2 * each].any()
    assert set(table[target][chosen[:each]]) == set(range(classes))


@pytest.mark.parametrize(("count", "most"), [(0, 5), (3, 5), (5, 5), (17, 5), (6, 5)])
def test_positions_are_drawn_evenly(count, most):
    drawn = evenly(count, most)
    assert len(drawn) == min(count, most)
    assert len(set(drawn)) == len(drawn)
    gaps = np.diff(drawn, append=count)
    assert count == 0 or (drawn[0] == 0 and gaps.max() - gaps.min() <= 1)


def test_of_measured_values_the_best_to_the_worst_are_chosen():
    table = random_values(40)
    errors = (table["jsw_medial_pred"] - table["jsw_medial"]).abs().to_numpy()
    chosen = choose_knees(table, "jsw_medial", 9)
    assert len(set(chosen)) == 9
    assert (np.diff(errors[chosen]) >= 0).all()
    assert errors[chosen[0]] == errors.min()
    assert errors[chosen[-1]] == errors.max()


def test_a_run_shows_what_its_network_saw(config, tmp_path, tiny_data_dir, monkeypatch):
    """From training to the page."""
    monkeypatch.setattr(models, "create", lambda name, **fields: Siamese())
    config.targets = ("kl",)
    config.task.coherence.weight = 0.0
    config.epochs = 1
    config.evaluation.num_resamples = 10
    train.train(parse(config), tmp_path, tiny_data_dir)
    evaluate.evaluate(parse(config), tmp_path, tiny_data_dir)
    page = (tmp_path / "report" / "index.html").read_text()
    for words in ("Confidence", "laid out by t-SNE", "Where the network looked", "of 24 px"):
        assert words in page
    table = pd.read_csv(tmp_path / "predictions" / "test.csv", dtype=str)
    captions = re.findall(r"<figcaption>(?:Right|Wrong): .*?\. (\d+) ([LR]), month (\d+)", page)
    assert 10 <= len(captions) <= 15
    knees = table[["subject", "side", "visit"]].itertuples(index=False, name=None)
    assert set(captions) <= set(knees)


# ---- Volumes ----


class Slices(nn.Module):
    """Reads slice by slice, or three-dimensional maps, or three views; linear after the maps."""

    kind: str = "slices"

    needs_keypoints = False

    @nn.compact
    def __call__(self, image, keypoints=None, train=False):
        encoder = Encoder(name="trunk")
        if self.kind == "solid":
            slices = encoder(image[:, ::2].reshape(-1, *image.shape[2:]))
            maps = observe(self, "maps", slices.reshape(len(image), -1, *slices.shape[1:]))
            return {"kl": Linear(5, name="head_kl")(maps.mean((1, 2, 3)))}
        features = 0.0
        for view in ("sagittal",) if self.kind == "slices" else VIEWS:
            volume = image.transpose(VIEWS[view])
            name = "maps" if self.kind == "slices" else f"maps_{view}"
            maps = observe(self, name, encoder(volume.reshape(-1, *volume.shape[2:])))
            features += maps.mean((1, 2)).reshape(len(image), -1, maps.shape[-1]).mean(1)
        count = image.shape[1] if self.kind == "slices" else sum(image.shape[1:4])
        self.sow("intermediates", "attention", attention_of(image, count))
        return {"kl": Linear(5, name="head_kl")(features)}


def attention_of(image, count):
    """Of two heads, different for every knee and slice."""
    numbers = jnp.arange(2 * count, dtype=jnp.float32).reshape(2, count)
    raw = jnp.cos(7 * numbers + 100 * image.mean((1, 2, 3, 4))[:, None, None]) + 1
    return raw / raw.sum(2, keepdims=True)


SHAPE = (10, 12, 14)
"""Slices, rows and columns."""


@pytest.fixture
def volumes(monkeypatch):
    """Makes an experiment of five volumes, its variables, and the volumes."""

    def make(kind):
        data = np.random.default_rng(0).normal(size=(5, *SHAPE, 1)).astype(np.float32)
        model = Slices(kind)
        config = types.SimpleNamespace(
            input=types.SimpleNamespace(volume=(12, 14, 10)),
            augmentation=types.SimpleNamespace(view="sagittal"),
            evaluation=types.SimpleNamespace(batch_size=5),
        )

        class Part:
            prepared = types.SimpleNamespace(spacing_mm=(0.4, 0.5, 3.0))

            @staticmethod
            def map(function, rows, batch_size):
                at, found = jax.device_get(function({"row": jnp.asarray(rows)}))
                np.testing.assert_array_equal(at, rows)
                return found

        constants = types.SimpleNamespace(intensities=Intensities(mean=0.25, std=0.2))
        experiment = types.SimpleNamespace(
            config=config,
            model=model,
            mesh=mesh.make_mesh(1),
            subsets={"test": Part},
            constants=constants,
            preprocessing=lambda batch, key, _, *, train: (jnp.asarray(data)[batch["row"]], None),
        )
        variables = model.init(jax.random.key(1), data)
        seen = activation.by_name(
            activation.exposed(experiment.model, variables, data, None)["intermediates"]
        )
        shapes = {name: value.shape for name, value in seen.items()}
        monkeypatch.setattr(explain, "observed", lambda *_: shapes)
        monkeypatch.setattr(explain, "_map", without_constants)
        return experiment, variables, data

    def without_constants(experiment, variables, name, rows, look):
        return experiment.subsets[name].map(
            lambda batch: jax.jit(lambda v, b: look(v, experiment.constants, b))(variables, batch),
            rows,
            5,
        )

    return make


def heat_by_hand(variables, maps, chosen, number):
    """Of a network that is linear in its maps, of which a knee has so many pixels."""
    kernel = np.asarray(variables["params"]["head_kl"]["kernel"])
    weights = kernel[:, chosen].T / number
    shape = (len(maps), *[1] * (maps.ndim - 2), -1)
    return np.maximum((np.asarray(maps) * weights.reshape(shape)).sum(-1), 0)


def grown(heat, shape):
    """Slice by slice."""
    return np.stack([[enlarged(s, shape) for s in knee] for knee in heat])


def test_the_slices_of_most_attention_are_shown_with_their_heat(volumes):
    experiment, variables, data = volumes("slices")
    rows = np.array([3, 0, 4])
    found = explain.slice_maps(experiment, variables, "test", rows, "kl")["sagittal"]
    image = data[rows]
    attention = np.asarray(attention_of(image, SHAPE[0])).mean(1)
    np.testing.assert_allclose(found.strength, attention, rtol=1e-5)
    assert found.spacing_mm == (0.4, 0.5)
    expected = np.sort(np.argsort(-attention, axis=1)[:, :3], axis=1)
    np.testing.assert_array_equal(found.numbers, expected)
    at = np.arange(3)[:, None], expected
    grey = np.clip(np.round((image[..., 0] * 0.2 + 0.25) * 255), 0, 255)
    np.testing.assert_allclose(found.images, grey[at], atol=1)
    assert found.images.dtype == np.uint8
    slices = image.reshape(-1, *SHAPE[1:], 1)
    maps = Encoder().apply({"params": variables["params"]["trunk"]}, slices)
    chosen = np.asarray(experiment.model.apply(variables, image)["kl"]).argmax(1)
    maps = np.asarray(maps).reshape(3, SHAPE[0], *maps.shape[1:])
    heat = heat_by_hand(variables, maps, chosen, np.prod(maps.shape[1:4]))
    assert (heat.max((1, 2, 3)) > 0).all()
    heat /= heat.max((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(found.heat, grown(heat[at], SHAPE[1:]), atol=1e-4)


def test_three_views_have_a_slice_each(volumes):
    experiment, variables, data = volumes("views")
    rows = np.arange(5)
    found = explain.slice_maps(experiment, variables, "test", rows, "kl")
    assert set(found) == set(VIEWS)
    assert (found["axial"].spacing_mm, found["coronal"].spacing_mm) == ((0.5, 3.0), (0.4, 3.0))
    attention = np.asarray(attention_of(data, sum(SHAPE))).mean(1)
    grey = np.clip(np.round((data[..., 0] * 0.2 + 0.25) * 255), 0, 255)
    first = 0
    for view, axes in VIEWS.items():
        slices = grey.transpose(axes[:4])
        of_view = attention[:, first : first + slices.shape[1]]
        np.testing.assert_allclose(found[view].strength, of_view, rtol=1e-5)
        strongest = of_view.argmax(1)
        np.testing.assert_array_equal(found[view].numbers[:, 0], strongest)
        np.testing.assert_allclose(found[view].images[:, 0], slices[rows, strongest], atol=1)
        assert found[view].heat.shape == found[view].images.shape
        first += slices.shape[1]


def test_without_attention_slices_count_by_their_evidence(volumes):
    """Maps of three dimensions, of half the slices."""
    experiment, variables, data = volumes("solid")
    rows = np.arange(4)
    found = explain.slice_maps(experiment, variables, "test", rows, "kl", 2)["sagittal"]
    np.testing.assert_allclose(found.strength.sum(1), 1, rtol=1e-5)
    slices = data[:4, ::2].reshape(-1, *SHAPE[1:], 1)
    maps = np.asarray(Encoder().apply({"params": variables["params"]["trunk"]}, slices))
    maps = maps.reshape(4, SHAPE[0] // 2, *maps.shape[1:])
    heat = heat_by_hand(variables, maps, np.full(4, 2), np.prod(maps.shape[1:4]))
    coarse = heat.sum((2, 3))
    # Every other slice is one of the maps'; between two lie those that are half-way to either.
    centres = np.arange(SHAPE[0]) / 2
    fine = np.stack([np.interp(centres, np.arange(SHAPE[0] // 2), knee) for knee in coarse])
    np.testing.assert_allclose(found.strength, fine / fine.sum(1, keepdims=True), rtol=1e-4)
    assert (np.diff(found.numbers, axis=1) > 0).all()
    assert found.heat.max() <= 1 + 1e-6
