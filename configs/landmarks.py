"""landmarks: the localiser, which finds a knee in a picture and its 74 landmarks.

    python -m knee_jax.main --config=configs/landmarks.py --workdir=runs/landmarks

It is trained on windows of phantom films of widely varied look (`phantom_windows`), and needs no
data.

Variants, after a colon (`configs/landmarks.py:demo`):

    (none)   128 px, about 16,000 windows, five epochs.
    adapted  two epochs on `adapted_windows/kneekl224`, with real crops that a localiser has marked
             itself (`knee-jax prepare --dataset=adapted_windows/kneekl224 --manual_dir=DIR`); name
             its weights by --config.init_from.
    study    three epochs on `study_windows`, with the knees of a prepared study that has landmark
             files (`knee-jax prepare --dataset=study_windows --manual_dir=data/oai_xray/...`); from
             the weights of --config.init_from, or from none.
    demo     a narrow network on few windows, for a look at the path.
"""

from knee_jax.config import load
from knee_jax.configs.common import Config, variant_of


def get_config(variant: str = "") -> Config:
    """Return the config of a variant."""
    config = load.base()
    config.targets = ("knee_shown", "landmarks")
    config.task = load.task("landmarks")
    config.data.dataset = "phantom_windows/full"
    config.data.split = "ratio"
    config.data.parts = (10, 1, 1)
    config.input.size = 128
    config.input.statistics = "each"
    config.model = load.model("landmarks")
    config.augmentation = load.augmentation(
        "affine",
        translation=0.05,
        rotation=8.0,
        scale=(0.85, 1.15),
        gamma=(0.8, 1.25),
        noise=0.01,
        erasing=0.2,
    )
    config.batch_size = 32
    config.epochs = 5
    config.log_every = 50
    config.checkpoint_every = 500
    config.optimizer.learning_rate = 2e-3
    config.optimizer.weight_decay = 1e-2
    config.optimizer.schedule = "one_cycle"
    config.optimizer.clip_norm = 5.0
    config.optimizer.ema_decay = 0.995
    config.evaluation.batch_size = 64
    config.evaluation.num_resamples = 200
    return variant_of(config, variant, VARIANTS)


def _adapted(config: Config) -> None:
    config.data.dataset = "adapted_windows/kneekl224"
    config.epochs = 2
    config.optimizer.learning_rate = 1e-3


def _study(config: Config) -> None:
    config.data.dataset = "study_windows"
    config.epochs = 3
    config.optimizer.learning_rate = 1e-3


def _demo(config: Config) -> None:
    config.data.dataset = "phantom_windows/tiny"
    config.data.parts = (2, 1, 1)
    config.model.width = 8
    config.model.pyramid = 16
    config.batch_size = 16
    config.epochs = 2


VARIANTS = {"adapted": _adapted, "study": _study, "demo": _demo}
