"""Heat of every system is where the evidence is: deletion, and randomised weights.

Deletion: without the hottest tenth of the picture, the class that was predicted loses more than
without a random tenth (Samek et al. 2017). Randomisation: of a network whose weights are drawn anew
the maps are others (Adebayo et al. 2018); a map that only showed edges would stay.
"""

import cv2
import jax
import numpy as np
import pytest
from scipy.stats import spearmanr

from knee_jax.config.load import parse
from knee_jax.configs import kpn, mri_progression, oarsi, siamese_gap
from knee_jax.evaluation import explain
from knee_jax.evaluation.evaluate import evaluate_checkpoint
from knee_jax.inference import models
from knee_jax.training import train
from knee_jax.training.run import set_up

SHARE = 0.1
DRAWS = 6
CELL = (8, 8)
"""Sides of what is removed at a time, pixels; of volumes in two slices at once."""


class Read:
    """Some held-out knees as a network reads them, without its random changes.

    Attributes:
        run: Run.
        variables: Variables of its network.
        rows: Rows of the index.
        images: Inputs, float32 [knees, rows, columns, channels], of volumes with slices before.
    """

    def __init__(self, run, variables, most=24):
        part = run.subsets["validation"]
        self.run, self.variables, self.rows = run, variables, part.rows[:most]
        knees, grey = part.prepared.load(self.rows), run.constants.intensities
        images, self.points = run.preprocessing(knees, jax.random.key(0), grey, train=False)
        self.images, self.target = np.asarray(images), run.task.targets[0]
        self.cell = CELL if self.images.ndim == 4 else (2, *CELL)
        self._apply = jax.jit(
            lambda images, points: run.model.apply(variables, images, points)[self.target]
        )
        self.look()

    def logits(self, images):
        return np.asarray(self._apply(images, self.points))

    def look(self):
        """Note the predicted classes, and their margins."""
        logits = self.logits(self.images)
        self.classes = logits.argmax(-1)[:, None]
        self.margin = self._margin(logits)

    def _margin(self, logits):
        """Logit of the class that was predicted, above the mean of the others."""
        of_class = np.take_along_axis(logits, self.classes, 1)[:, 0]
        return of_class - (logits.sum(1) - of_class) / (logits.shape[1] - 1)

    def drawn(self, variables):
        """Heat for the predicted class, as it is drawn."""
        options = self.run, variables, "validation", self.rows, self.target
        if self.images.ndim == 4:
            return explain.heat_maps(*options).heat
        (maps,) = explain.slice_maps(*options).values()
        assert maps.numbers.shape[1] == self.images.shape[1]
        return maps.heat

    def heat(self, variables):
        """Heat for the predicted class of every cell of a picture."""
        heat = self.drawn(variables)
        for axis, side in enumerate(self.cell, 1):
            whole = heat.shape[axis] // side * side
            heat = np.moveaxis(np.moveaxis(heat, axis, -1)[..., :whole], -1, axis)
            shape = (*heat.shape[:axis], -1, side, *heat.shape[axis + 1 :])
            heat = heat.reshape(shape).mean(axis + 1)
        return heat

    def cost(self, removed):
        """Mean loss of the margin when cells, [knees, ...] of truth, are blurred.

        Holes of one value would be details that the network has never seen.
        """
        mask = np.kron(removed, np.ones((1, *self.cell), bool))
        sides = zip(self.images.shape[:-1], mask.shape, strict=True)
        mask = np.pad(mask, [(0, whole - side) for whole, side in sides])
        sigma = self.images.shape[-2] / 10
        planes = self.images.reshape(-1, *self.images.shape[-3:])
        smooth = [cv2.GaussianBlur(p, (0, 0), sigma).reshape(p.shape) for p in planes]
        smooth = np.stack(smooth).reshape(self.images.shape)
        without = np.where(mask[..., None], smooth, self.images)
        return float((self.margin - self._margin(self.logits(without))).mean())


class Shipped(Read):
    """Real knees as the EfficientNet that comes with the project reads them."""

    def __init__(self, crops):
        self.images, self.cell, self.variables = crops[..., None], CELL, None
        self.model = models.load("kl-kneekl224")
        self.look()

    def logits(self, images):
        chances = self.model.predict(images[..., 0])["kl"]
        return np.log(np.maximum(chances, 1e-9))

    def drawn(self, variables):
        return self.model.explain(self.images[..., 0])


def highest(scores):
    """The cells of a tenth of each knee, [knees, ...] of truth, whose scores are highest."""
    flat = scores.reshape(len(scores), -1)
    order = np.argsort(-flat, axis=1, kind="stable")
    chosen = np.zeros(flat.shape, bool)
    np.put_along_axis(chosen, order[:, : round(SHARE * flat.shape[1])], True, axis=1)
    return chosen.reshape(scores.shape)


def deletion(read):
    """Cost of the hottest cells, of random ones, and of the hottest ones' shape elsewhere."""
    rng, heat = np.random.default_rng(0), read.heat(read.variables)
    hottest = highest(heat)
    at_random = [read.cost(highest(rng.random(heat.shape))) for _ in range(DRAWS)]
    axes = tuple(range(1, heat.ndim))
    moved = [
        read.cost(
            np.roll(hottest, [rng.integers(n // 4, n - n // 4) for n in heat.shape[1:]], axes)
        )
        for _ in range(DRAWS)
    ]
    return read.cost(hottest), float(np.mean(at_random)), float(np.mean(moved))


def likeness(read):
    """Rank correlation of the heat of trained and of random weights, mean over the knees.

    Cells that neither shows, such as those that no head reads, would make any two maps alike.
    """
    found = [read.heat(each) for each in (read.variables, read.run.random_state().variables)]
    alike = [spearmanr(a[a + b > 0], b[a + b > 0]).statistic for a, b in zip(*found)]
    return float(np.nanmean(alike))


def small(config, epochs, **model):
    """The config of a demo, trained for a minute on few knees."""
    config.epochs = epochs
    config.evaluation.num_resamples = 5
    config.model.update(model)
    return config


def kpn_demo():
    config = small(kpn.get_config("demo"), 8)
    config.task.coherence.warmup_epochs = 5
    return config


def siamese_demo():
    config = small(siamese_gap.get_config("phantom,demo"), 4)
    config.task.hybrid.warmup_epochs = 3.0
    return config


SYSTEMS = {
    "kpn": kpn_demo,
    "resnet": lambda: small(kpn.get_config("resnet18,demo"), 8),
    "oarsi": lambda: small(oarsi.get_config("se_resnext50,demo"), 8),
    "siamese_gap": siamese_demo,
    "mri_progression": lambda: small(mri_progression.get_config("demo"), 6),
}


@pytest.fixture(scope="module", params=SYSTEMS)
def read(request, tmp_path_factory, data_dir):
    workdir = tmp_path_factory.mktemp(request.param)
    config = parse(SYSTEMS[request.param]())
    train.train(config, workdir, data_dir)
    run = set_up(config, workdir, data_dir, training=False)
    with pytest.MonkeyPatch.context() as patch:
        # All slices, of which a report shows the strongest.
        patch.setattr(explain, "NUM_SLICES", 1000)
        yield Read(run, evaluate_checkpoint(run, workdir).variables)


@pytest.mark.long
def test_the_hottest_cells_count_most(read):
    hottest, at_random, moved = deletion(read)
    assert hottest > 1.2 * max(at_random, moved), (hottest, at_random, moved)


@pytest.mark.long
@pytest.mark.real
def test_the_shipped_network_looks_where_it_counts(real_data):
    files = sorted((real_data / "kneekl224/val").rglob("*.png"))[::35]
    crops = [cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in files]
    hottest, at_random, moved = deletion(Shipped(np.stack(crops)))
    assert hottest > 2 * max(at_random, moved), (hottest, at_random, moved)


@pytest.mark.long
def test_heat_of_random_weights_is_another(read):
    assert likeness(read) < 0.8
