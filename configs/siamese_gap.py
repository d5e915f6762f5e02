"""siamese_gap: KL 0 against KL 2 from two side patches of a radiograph (Wang et al.).

    python -m knee_jax.main --config=configs/siamese_gap.py --config.data.manual_dir=DIR \
        --workdir=runs/siamese_gap

DIR is the unpacked archive of `kneekl224` (Chen 2018, doi:10.17632/56rmx5bjcr.1), the real knees
that everybody can download and the likely source of the paper's.

Variants, after a colon; several are separated by commas (`configs/siamese_gap.py:resnet18,ce`):

    (none)     the paper's network with the hybrid loss: 299 px, batch 32, 500 epochs, 7:1:2 by
               subject, for a GPU. Not run yet: no time and no metric known.
    ce         cross-entropy instead (Tables III and IV).
    p4, p14, p24, p34, p124
               pooled features of some blocks only (Table III); all four without one of these.
    gmp        maximum instead of average pooling (Table III).
    densenet121, ... densenet201, resnet18, ... resnet152, vgg11, ... vgg19, antony2017, tiulpin2018
               other networks (Tables IV and VI).
    lambda_721_epsilon_015, ...
               a row of Table V.
    table5     its rows as a sweep of five seeds each: `--mode=sweep`.
    grid       the search behind it, also as a sweep: every ratio, level and triple of weights.
    no_attention
               as the paper's text says; its code, and this config, has channel attention.
    concatenation
               of the branches instead of addition (section II-A).
    literal    equations 3 to 10 as they are printed.
    five_grades
               KL 0 to 4 (section IV-G).
    deepknee   the augmentation of Tiulpin et al. 2018 in full: contrast and jitter too.
    image_split
               7:1:2 by image, as the paper's words say; subjects cross.
    dealt_test
               also deals the knees of the published test split to the parts, where `test/` is
               there. Otherwise they are the test knees, and the others are dealt 7:1.
    best       EfficientNet-Lite0 from ImageNet weights (the extra `imagenet`) on whole crops of 224
               px, with cross-entropy, for an hour on two cores.
    quick      the same at 128 px in five epochs, as `best,quick`: the project's own model. On 2
               cores (AMD EPYC, 2026-11, beside other work): 30 minutes, accuracy 0.843
               [0.817, 0.868], AUC 0.919 [0.897, 0.936] on the test knees.
    phantom    phantom knees instead of real ones; needs no data.
    demo       a network of half the width, six epochs, for a CPU; also after any of the above. On 2
               cores (AMD EPYC, 2026-11, beside other work): 18 minutes, accuracy 0.768
               [0.738, 0.799], AUC 0.847 [0.816, 0.876] on the test knees.
"""

import itertools
from typing import Any

from knee_jax.config import load
from knee_jax.configs.common import Config, best, paper_row, quick, variant_of

RATIOS = {"631": (6, 3, 1), "721": (7, 2, 1), "811": (8, 1, 1)}
"""Lambda: shares of the high-, medium- and low-confidence knees of a class."""

TABLE_5 = {
    ("631", 0.05): (0.4, 0.5, 0.1),
    ("631", 0.10): (0.4, 0.4, 0.2),
    ("631", 0.15): (0.5, 0.4, 0.1),
    ("631", 0.20): (0.3, 0.5, 0.2),
    ("721", 0.05): (0.3, 0.5, 0.2),
    ("721", 0.10): (0.4, 0.3, 0.3),
    ("721", 0.15): (0.4, 0.5, 0.1),
    ("721", 0.20): (0.3, 0.5, 0.2),
    ("811", 0.05): (0.3, 0.5, 0.2),
    ("811", 0.10): (0.4, 0.4, 0.2),
    ("811", 0.15): (0.3, 0.4, 0.3),
    ("811", 0.20): (0.3, 0.4, 0.3),
}
"""(Ratio, epsilon) → the weights (alpha, beta, gamma) that the paper found best for them."""


def get_config(variant: str = "") -> Config:
    """Return the config of a variant."""
    config = load.base()
    config.paper_row = paper_row("siamese_gap.py", variant)
    config.targets = ("kl0_vs_kl2",)
    config.task = load.task("early_detection", **_loss("721", 0.15, (0.4, 0.5, 0.1)))
    config.data.dataset = "kneekl224"
    config.data.split = "ratio"
    config.data.parts = (7, 1, 2)
    config.data.sampling = "oversampled"
    config.input.size = 299
    # "Random brightness, rotation, and gamma correction" without ranges; these are of the code of
    # Tiulpin et al. 2018.
    config.augmentation = load.augmentation(
        "affine", rotation=15.0, gamma=(0.5, 3.0), brightness=0.3
    )
    config.model = load.model("siamese_gap")
    config.batch_size = 32
    config.epochs = 500
    config.optimizer.update(
        {"name": "adam", "learning_rate": 1e-3, "weight_decay": 3e-4, "drop_factor": 1.0}
    )
    config.evaluation.batch_size = 256
    config.steps_per_call = 32
    config.log_every = 200
    config.checkpoint_every = 2000
    return variant_of(config, variant, VARIANTS)


def _loss(ratio: str, epsilon: float, weights: tuple[float, float, float]) -> dict:
    numbers = {"shares": RATIOS[ratio], "epsilon": epsilon}
    return {"hybrid": numbers | dict(zip(("alpha", "beta", "gamma"), weights))}


def _row_name(ratio: str, epsilon: float) -> str:
    return f"lambda_{ratio}_epsilon_{round(100 * epsilon):03d}"


def _row_of_table5(ratio: str, epsilon: float, weights: tuple[float, float, float]):
    return lambda config: config.task.update(_loss(ratio, epsilon, weights))


def _sweep(variants: dict[str, dict]):
    def change(config: Config) -> None:
        config.sweep.variants = variants
        config.sweep.seeds = 5

    return change


def _table5() -> dict[str, dict]:
    return {
        _row_name(*row): {
            "task": _loss(*row, weights),
            "paper_row": f"siamese_gap.py:{_row_name(*row)}",
        }
        for row, weights in TABLE_5.items()
    }


def _grid() -> dict[str, dict]:
    weights = [(a, b, 10 - a - b) for a in range(1, 9) for b in range(1, 10 - a)]
    variants = {}
    for ratio, epsilon, (a, b, c) in itertools.product(RATIOS, (0.05, 0.1, 0.15, 0.2), weights):
        name = f"{_row_name(ratio, epsilon)}_weights_{a}{b}{c}"
        variants[name] = {"task": _loss(ratio, epsilon, (a / 10, b / 10, c / 10))}
    return variants


def _cross_entropy(config: Config) -> None:
    config.task.loss = "cross_entropy"


def _positions(*blocks: int):
    def change(config: Config) -> None:
        config.model.positions = blocks

    return change


def _gmp(config: Config) -> None:
    config.model.pooling = "max"


def _network(name: str, **fields: Any):
    def change(config: Config) -> None:
        config.model = load.model(name, **fields)

    return change


def _no_attention(config: Config) -> None:
    config.model.attention = False


def _concatenation(config: Config) -> None:
    config.model.combine = "concatenate"


def _literal(config: Config) -> None:
    config.task.hybrid.equations = "literal"


def _five_grades(config: Config) -> None:
    config.targets = ("kl",)


def _deepknee(config: Config) -> None:
    config.augmentation.contrast = 0.3
    config.augmentation.translation = 7 / 300  # A crop that begins 6 to 20 px from the edge.


def _image_split(config: Config) -> None:
    config.data.split = "image_ratio"


def _dealt_test(config: Config) -> None:
    config.data.published_test = "dealt"


def _best(config: Config) -> None:
    config.task.loss = "cross_entropy"
    config.task.selection = "roc_auc"
    best(config)


def _phantom(config: Config) -> None:
    config.data.dataset = "phantom_xray/full"


def _demo(config: Config) -> None:
    if config.data.dataset != "kneekl224":
        config.data.dataset = "phantom_xray/demo"
    config.model.width = NARROW[config.model.name]
    if config.model.name in ("siamese_gap", "tiulpin2018"):
        # The same thirds of the knee, at seven eighths of the resolution.
        config.input.size = 262
        config.model.patch = 112
    else:
        config.input.size = 150
    # Six epochs instead of 500: less is changed at random, films of unlike exposure are made alike,
    # and the loss asks for confidence only when there is some.
    config.input.statistics = "each"
    config.augmentation.update({"rotation": 5.0, "gamma": (0.8, 1.25), "brightness": 0.0})
    config.task.hybrid.warmup_epochs = 4.0
    if "dropout" in config.model:
        config.model.dropout = 0.1
    config.batch_size = 16
    config.epochs = 6
    config.optimizer.drop_epochs = (4,)
    config.optimizer.drop_factor = 0.3
    config.evaluation.batch_size = 64
    config.steps_per_call = 1
    config.log_every = 40
    config.checkpoint_every = 200


NARROW = {
    "siamese_gap": 16,
    "densenet": 16,
    "resnet": 16,
    "vgg": 16,
    "antony2017": 16,
    "tiulpin2018": 32,
}
"""Network → its `width` in a demo."""

VARIANTS = {
    "ce": _cross_entropy,
    "p4": _positions(4),
    "p14": _positions(1, 4),
    "p24": _positions(2, 4),
    "p34": _positions(3, 4),
    "p124": _positions(1, 2, 4),
    "gmp": _gmp,
    **{f"densenet{n}": _network("densenet", depth=n, width=64) for n in (121, 169, 201)},
    "densenet161": _network("densenet", depth=161, width=96),
    **{f"resnet{n}": _network("resnet", depth=n, width=64) for n in (18, 34, 50, 101, 152)},
    **{f"vgg{n}": _network("vgg", depth=n, width=64) for n in (11, 13, 16, 19)},
    "antony2017": _network("antony2017", width=32),
    "tiulpin2018": _network("tiulpin2018", width=128),
    **{_row_name(*row): _row_of_table5(*row, weights) for row, weights in TABLE_5.items()},
    "table5": _sweep(_table5()),
    "grid": _sweep(_grid()),
    "no_attention": _no_attention,
    "concatenation": _concatenation,
    "literal": _literal,
    "five_grades": _five_grades,
    "deepknee": _deepknee,
    "image_split": _image_split,
    "dealt_test": _dealt_test,
    "best": _best,
    "quick": quick,
    "phantom": _phantom,
    "demo": _demo,
}
