"""Every variant of every config can be run, and says what its paper says."""

import importlib
import pkgutil
import shutil

import jax
import numpy as np
import pandas as pd
import pytest

from knee_jax import configs, models
from knee_jax.config.load import parse
from knee_jax.configs import kpn, mri_progression, oarsi, siamese_gap
from knee_jax.configs.common import variant_of
from knee_jax.datasets.prepare import prepare
from knee_jax.errors import UserError
from knee_jax.targets.grades import GRADES
from knee_jax.training.run import set_up
from knee_jax.training.step import make_train_step

SMALL = {
    "data.dataset": "phantom_xray/tiny",
    "input.size": 64,
    "model.width": 8,
    "batch_size": 8,
    "evaluation.batch_size": 8,
    "task.coherence.components": 3,
    # Published weights are of the whole network, and need not be installed.
    "init_from": "",
}

SMALL_VOLUMES = {
    "data.dataset": "phantom_mri/tiny",
    "input.volume": (16, 16, 16),
    "model.width": 8,
    "batch_size": 4,
    "evaluation.batch_size": 4,
}
# Networks of side patches want knees of the paper's size.
SMALL_SIAMESE = SMALL | {"input.size": 299, "data.parts": (2, 1, 1), "data.seed": 2}
del SMALL_SIAMESE["task.coherence.components"]

SMALL_WINDOWS = SMALL | {"data.dataset": "phantom_windows/tiny", "data.parts": (2, 1, 1)}
del SMALL_WINDOWS["task.coherence.components"]

DEEP = {"densenet161", "densenet169", "densenet201", "resnet101", "resnet152"}
"""Siblings of others, among the long tests."""

NUMBERS_ONLY = {"table5", "grid", *(n for n in siamese_gap.VARIANTS if n.startswith("lambda_"))}


FAST = {("kpn", "resnet18"), ("kl", ""), ("siamese_gap", "resnet18")}
"""One small program of each kind of network; tests/config/test_load.py checks all variants."""


def marks_of(name, variant):
    if variant in DEEP:
        return pytest.mark.long
    return () if (name, variant) in FAST else pytest.mark.slow


def every_variant(*, volumes):
    for file in pkgutil.iter_modules(configs.__path__):
        module = importlib.import_module(f"knee_jax.configs.{file.name}")
        if hasattr(module, "get_config") and (file.name == "mri_progression") == volumes:
            # The rows of Table V, and its sweeps, differ in numbers only; see below.
            names = [name for name in module.VARIANTS if name not in NUMBERS_ONLY]
            yield from ((file.name, variant) for variant in ("", *names))


@pytest.fixture(scope="module")
def volumes_data_dir(tmp_path_factory, tiny_data_dir):
    """A data_dir with the volumes of `phantom_mri/tiny`, and films that tell of progression."""
    folder = tmp_path_factory.mktemp("progression")
    prepare("phantom_mri/tiny", folder)
    shutil.copytree(tiny_data_dir / "phantom_xray", folder / "phantom_xray")
    (index,) = folder.glob("phantom_xray/tiny/*/index.csv")
    films = pd.read_csv(index, dtype=str, keep_default_na=False)
    films.assign(progression=np.arange(len(films)) % 3).to_csv(index, index=False)
    return folder


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(variant, marks=() if variant == "shufflenet3d" else pytest.mark.slow)
        for _, variant in every_variant(volumes=True)
    ],
)
def test_every_variant_of_progression_can_be_trained(variant, tmp_path, volumes_data_dir):
    """As the others; of knees of a site that is held out, but for the films."""
    config = mri_progression.get_config(variant)
    small = dict(SMALL_VOLUMES)
    films = variant in ("xray", "best")
    if films:
        del small["input.volume"]
        small |= {"data.dataset": "phantom_xray/tiny", "input.size": 64, "init_from": ""}
    config.update_from_flattened_dict(small)
    experiment = set_up(parse(config), tmp_path, volumes_data_dir)
    check_step(experiment)
    assert ("test" in experiment.subsets) == (not films)
    assert experiment.subsets["train"].prepared.index["cohort"].iloc[0] == "phantom"
    rates = experiment.steps_per_epoch * config.batch_size
    assert rates == pytest.approx(len(experiment.subsets["train"].rows), abs=3)


@pytest.mark.parametrize(
    ("name", "variant"),
    [pytest.param(*each, marks=marks_of(*each)) for each in every_variant(volumes=False)],
)
def test_every_variant_can_be_trained(name, variant, tmp_path, tiny_data_dir):
    """Its step can be traced over its own batches; tests/test_main.py runs some to the end."""
    config = importlib.import_module(f"knee_jax.configs.{name}").get_config(variant)
    small = {"siamese_gap": SMALL_SIAMESE, "landmarks": SMALL_WINDOWS}.get(name, SMALL)
    config.update_from_flattened_dict(small)
    config.data.split = "k_fold" if name == "oarsi" else "ratio"
    if name == "oarsi":
        config.data.test_dataset = "phantom_most/tiny"
        config.augmentation.canvas = 66
    experiment = set_up(parse(config), tmp_path, tiny_data_dir)
    check_step(experiment)
    assert experiment.subsets["test"].prepared.index["cohort"].iloc[0] == (
        "phantom_most" if name == "oarsi" else "phantom"
    )


def check_step(experiment):
    """Its training step can be traced, and gives back what it was given."""
    batch = next(iter(experiment.subsets["train"].source.batches(experiment.sampler, range(1))))
    state = jax.eval_shape(experiment.random_state)
    step = make_train_step(experiment)
    after, scalars = jax.eval_shape(step, state, experiment.constants, batch)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert scalars["loss"].shape == ()


def test_variants_follow_one_another():
    config = kpn.get_config("no_kpn,tau_075,demo")
    assert not config.model.kpn
    assert config.task.coherence.temperature == 0.75
    assert config.data.dataset == "phantom_xray/demo"
    with pytest.raises(UserError, match="no variant 'huge' in this config: choose from demo, "):
        kpn.get_config("demo,huge")
    assert variant_of(config, "", {}) is config


def test_kpn_says_what_its_paper_says():
    """Zheng et al. 2021, sections 2.2 and 3."""
    config = kpn.get_config()
    assert (config.batch_size, config.epochs, config.input.size) == (48, 60, 320)
    assert (config.task.coherence.components, config.task.coherence.sigma) == (10, 0.2)
    assert (config.task.coherence.temperature, config.task.coherence.weight) == (0.5, 1.0)
    assert config.task.coherence.warmup_epochs == 1
    assert (config.optimizer.learning_rate, config.optimizer.weight_decay) == (1e-4, 1e-2)
    for name in ("resnet18", "resnet34", "resnet50"):
        baseline = kpn.get_config(name)
        assert not baseline.model.kpn
        assert baseline.task.coherence.weight == 0
        assert baseline.data.unlabelled == "none"
        assert baseline.model.depth == int(name.removeprefix("resnet"))


def test_oarsi_says_what_its_paper_says():
    """Tiulpin & Saarakkala 2020, Training strategy and Network Architecture."""
    config = oarsi.get_config()
    assert (config.batch_size, config.epochs, config.input.size) == (32, 20, 300)
    assert (config.optimizer.name, config.optimizer.weight_decay) == ("adam", 1e-4)
    assert (config.model.dropout, config.model.pooling) == (0.5, "average")
    assert (config.task.reduction, config.task.class_weights) == ("mean", "none")
    assert config.data.num_folds == 5
    for name in ("se_resnet50_no_kl", "se_resnext50_no_kl"):
        assert tuple(oarsi.get_config(name).targets) == GRADES[1:]


def test_mri_progression_says_what_its_paper_says():
    """Panfilov et al. 2022, section 3, and the batch sizes of its code."""
    config = mri_progression.get_config()
    assert (config.epochs, config.task.focal_gamma, config.task.selection) == (
        100,
        2,
        "average_precision",
    )
    assert (config.optimizer.name, config.optimizer.weight_decay) == ("adam", 1e-4)
    warmup = (config.optimizer.warmup_epochs, config.optimizer.warmup_factor)
    assert (config.optimizer.learning_rate, *warmup) == (1e-4, 5, 0.1)
    assert (config.data.split, config.data.test_site) == ("site_hold_out", "D")
    assert (config.data.sampling, config.data.num_folds) == ("balanced", 5)
    sizes = {
        "": 32,
        "fc": 16,
        "lstm": 32,
        "coronal": 32,
        "shared": 8,
        "individual": 8,
        "r2plus1d": 32,
        "resnext3d": 64,
        "shufflenet3d": 64,
        "xray": 64,
    }
    for variant, size in sizes.items():
        assert mri_progression.get_config(variant).batch_size == size
    # The same number of voxels, and square pixels in the view's plane: sides of 320 x 320 x 128.
    for view, volume in mri_progression.VOLUMES.items():
        plain = "" if view == "sagittal" else view
        ours = mri_progression.get_config(f"{plain},oai".removeprefix(","))
        assert (ours.data.dataset, ours.input.volume) == (f"oai_mri/{view}", volume)
        assert np.prod(volume) == 160 * 160 * 64
        assert ours.paper_row == mri_progression.get_config(plain).paper_row
        if plain:
            assert mri_progression.get_config(f"oai,{plain}") == ours
        # A demo is of a small network, and not of other knees than those that were asked for.
        small = mri_progression.get_config(f"{plain},oai,demo".removeprefix(","))
        assert (small.data.dataset, small.input.volume) == (f"oai_mri/{view}", volume)
        assert small.model.width == 8
    with pytest.raises(UserError, match="leave the variant oai out"):
        mri_progression.get_config("xray,oai")


@pytest.mark.parametrize(
    ("variant", "parameters"),
    [
        ("", 2_710_242),
        ("no_attention", 2_688_482),
        ("densenet121", 6_949_634),
        ("densenet161", 26_467_010),
        ("densenet169", 12_481_538),
        ("densenet201", 18_090_498),
        ("resnet18", 11_171_266),
        ("resnet34", 21_279_426),
        ("resnet50", 23_505_858),
        ("resnet101", 42_497_986),
        ("resnet152", 58_141_634),
        ("vgg11", 195_887_746),
        ("vgg13", 196_072_642),
        ("vgg16", 201_384_898),
        ("vgg19", 206_697_154),
        ("antony2017", 5_467_874),
        ("tiulpin2018", 2_366_722),
    ],
)
def test_networks_of_siamese_gap_have_the_printed_size(variant, parameters):
    """Wang et al., Table IV, at the configs' size of the image, which VGG's depends on."""
    config = siamese_gap.get_config(variant)
    model = models.create(**config.model, targets=config.targets)
    image = jax.ShapeDtypeStruct((1, config.input.size, config.input.size, 1), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == parameters


def test_siamese_gap_says_what_its_paper_says():
    """Wang et al., sections II-C, III-C and IV-C."""
    config = siamese_gap.get_config()
    assert (config.batch_size, config.epochs) == (32, 500)
    assert (config.optimizer.name, config.optimizer.learning_rate) == ("adam", 1e-3)
    assert (config.optimizer.weight_decay, config.model.dropout) == (3e-4, 0.2)
    assert (config.task.loss, config.task.hybrid.shares, config.task.hybrid.epsilon) == (
        "hybrid",
        (7, 2, 1),
        0.15,
    )
    assert (config.task.hybrid.alpha, config.task.hybrid.beta, config.task.hybrid.gamma) == (
        0.4,
        0.5,
        0.1,
    )
    assert (config.data.split, config.data.parts) == ("ratio", (7, 1, 2))
    assert config.data.sampling == "oversampled"
    row = siamese_gap.get_config("lambda_631_epsilon_020").task.hybrid
    assert (row.shares, row.epsilon, row.alpha, row.beta, row.gamma) == (
        (6, 3, 1),
        0.2,
        0.3,
        0.5,
        0.2,
    )
    assert siamese_gap.get_config("ce,gmp,p24").model.positions == (2, 4)
    sweep = siamese_gap.get_config("table5").sweep
    assert (len(sweep.variants), sweep.seeds) == (12, 5)
    grid = siamese_gap.get_config("grid").sweep.variants
    assert len(grid) == 3 * 4 * 36
    for numbers in (variant.task.hybrid for variant in grid.values()):
        weights = (numbers.alpha, numbers.beta, numbers.gamma)
        assert sum(weights) == pytest.approx(1)
        assert min(weights) >= 0.1
