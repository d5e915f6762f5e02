"""kl: Kellgren-Lawrence grading of `kneekl224`, the real knees that everybody can download.

    python -m knee_jax.main --config=configs/kl.py --config.data.manual_dir=DIR --workdir=runs/kl

DIR is the unpacked archive (Chen 2018, doi:10.17632/56rmx5bjcr.1): folders train, val and test,
each with folders 0 to 4. The published split is used; results are on its test part where it is
present, and on its validation part otherwise, which also chose the checkpoint.

Variants, after a colon (`configs/kl.py:demo`):

    (none)   ResNet-34 at 224 px, 30 epochs, for a GPU. Not run yet: no time and no metric known.
    best     EfficientNet-Lite0 from ImageNet weights (the extra `imagenet`) at 224 px, nine epochs:
             the project's own model. On 2 cores (AMD EPYC, 2026-11): 95 processor minutes,
             validation accuracy 0.694 [0.660, 0.728], kappa 0.807 [0.769, 0.839].
    quick    the same at 128 px in five epochs, as `best,quick`: 27 processor minutes, 0.654 [0.620,
             0.689], 0.761 [0.718, 0.799].
    demo     a narrow ResNet-18 at 112 px, 12 epochs, for a CPU. On 2 cores (Xeon, 2026-11):
             9 minutes, validation accuracy 0.598 [0.562, 0.637], kappa 0.713 [0.666, 0.756].
"""

from knee_jax.config import load
from knee_jax.configs.common import Config, best, quick, variant_of


def get_config(variant: str = "") -> Config:
    """Return the config of a variant."""
    config = load.base()
    config.targets = ("kl",)
    config.data.dataset = "kneekl224"
    config.data.split = "published"
    config.input.size = 224
    config.model = load.model("resnet", depth=34)
    config.augmentation = load.augmentation(
        "affine",
        translation=0.04,
        rotation=10.0,
        scale=(0.9, 1.1),
        gamma=(0.7, 1.4),
        brightness=0.1,
    )
    config.batch_size = 32
    config.epochs = 30
    config.optimizer.learning_rate = 3e-4
    config.optimizer.weight_decay = 1e-2
    config.optimizer.drop_epochs = (15, 24)
    config.optimizer.drop_factor = 0.5
    config.evaluation.batch_size = 48
    return variant_of(config, variant, VARIANTS)


def _demo(config: Config) -> None:
    config.input.size = 112
    config.model.depth = 18
    config.model.width = 32
    config.epochs = 12
    config.checkpoint_every = 100
    config.optimizer.learning_rate = 1e-3
    config.optimizer.drop_factor = 0.3
    config.optimizer.drop_epochs = (7, 10)


VARIANTS = {"best": best, "demo": _demo, "quick": quick}
