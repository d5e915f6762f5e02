"""kpn: keypoint pooling for seven grades (Zheng et al. 2021).

    python -m knee_jax.main --config=configs/kpn.py --workdir=runs/kpn

Variants, after a colon (`configs/kpn.py:demo`):

    (none)   the paper's setting: ResNet-50, 320 px, batch 48, 60 epochs, for a GPU. Not run yet: no
             time and no metric known.
    no_kpn   its ablation without keypoints: global average pooling of the last stage (Table 3).
    demo     a small network on about 1,000 phantom knees, 20 epochs, for a CPU. On 2 cores (Xeon,
             2026-11): under 4 minutes, test KL quadratic kappa 0.742 [0.643, 0.814].

Every variant runs on phantom knees unless another set is named by `--config.data.dataset`. What
the fields mean is in docs/reference/config.md.
"""

import ml_collections

from knee_jax.configs.common import variant_of
from knee_jax.grades import GRADES


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config of a variant."""
    config = ml_collections.ConfigDict()
    config.task = "grading"
    config.grades = GRADES
    config.class_weights = "prevalence"  # "none" weighs every knee alike.
    config.seed = 0
    config.dtype = "auto"
    config.init_from = ""  # A file of torchvision weights for the trunk; empty: random.

    config.data = ml_collections.ConfigDict()
    config.data.dataset = "phantom_xray/full"
    config.data.manual_dir = ""
    config.data.split = "ratio"  # 2:1:1 by subject (Experiment Setup).
    config.data.seed = 0  # Of the split alone: runs of other config.seed share their test knees.
    config.data.num_folds = 5
    config.data.fold = 0
    config.data.mode = "auto"
    config.data.workers = 0

    # Implementation Details.
    config.input = ml_collections.ConfigDict({"size": 320})
    config.augmentation = ml_collections.ConfigDict(
        {
            "translation": 10 / 320,
            "rotation": 5.0,
            "scale": (0.95, 1.05),
            "gamma": (1.0, 1.0),
            "brightness": 0.0,
            "noise": 0.0,
        }
    )
    config.model = ml_collections.ConfigDict(
        {
            "name": "keypoint_pooling",
            "depth": 50,
            "width": 64,
            "kpn": True,
            "landmarks": "joint",
            "aggregation": "concat",
            "hidden": 0,
            "dropout": 0.0,
        }
    )
    config.batch_size = 48
    config.epochs = 60
    config.optimizer = ml_collections.ConfigDict(
        {
            "name": "adamw",
            "learning_rate": 1e-4,
            "weight_decay": 1e-2,
            "drop_epochs": (10, 30),
            "drop_factor": 0.5,
        }
    )

    config.evaluation = ml_collections.ConfigDict(
        {"batch_size": 48, "num_resamples": 1000, "scheme": "subject"}
    )
    config.log_every = 20
    config.checkpoint_every = 500
    return variant_of(config, variant, VARIANTS)


def _no_kpn(config: ml_collections.ConfigDict) -> None:
    config.model.kpn = False


def _demo(config: ml_collections.ConfigDict) -> None:
    config.data.dataset = "phantom_xray/demo"
    config.input.size = 160
    config.model.depth = 18
    config.model.width = 32
    config.batch_size = 16
    config.epochs = 20
    config.optimizer.learning_rate = 1e-3
    config.optimizer.drop_epochs = (12, 17)


VARIANTS = {"no_kpn": _no_kpn, "demo": _demo}
