"""kpn: keypoint pooling with coherence learning, for seven grades (Zheng et al. 2021).

    python -m knee_jax.main --config=configs/kpn.py --workdir=runs/kpn

Variants, after a colon; several are separated by commas (`configs/kpn.py:no_kpn,demo`):

    (none)     the paper's method: ResNet-50, 320 px, keypoint pooling, coherence loss on labelled
               and unlabelled knees, batch 48, 60 epochs, for a GPU. Not run yet: no time and no
               metric known.
    resnet18, resnet34, resnet50
               its baselines (Table 2): global average pooling, labelled knees only.
    no_kpn, no_cl
               without keypoint pooling, without coherence learning (Table 3).
    labels_20, labels_40, resnet50_20, resnet50_40
               with the labels of so many percent of the training subjects (Table 4); the method
               keeps the other knees as unlabelled ones.
    tau_025, tau_075, tau_100, tau_150
               other temperatures of the coherence loss (supplementary Table 1).
    regression, resnet50_regression
               with an auxiliary regression head (supplementary Table 2).
    demo       a small network on about 1,000 phantom knees, 20 epochs, for a CPU; also after any of
               the above. On 2 cores (AMD EPYC, 2026-11): 4 to 5 minutes, test KL
               quadratic kappa 0.714 [0.626, 0.779].

Every variant runs on phantom knees unless another set is named by `--config.data.dataset`. What
the fields mean is in docs/reference/config.md.
"""

import ml_collections

from knee_jax.configs.common import paper_row, variant_of
from knee_jax.grades import GRADES


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The config of a variant."""
    config = ml_collections.ConfigDict()
    config.paper_row = paper_row("kpn.py", variant)  # What a report sets the results beside.
    config.task = "grading"
    config.grades = GRADES
    config.class_weights = "prevalence"  # "none" weighs every knee alike.
    config.loss_reduction = "sum"  # Eq. 1.
    config.classification_weight = 1.0  # Lambda_cls of eq. 5; lambda_gmm is coherence.weight.
    config.regression_weight = 1.0
    config.selection = "mean_accuracy"
    config.seed = 0
    config.dtype = "auto"
    config.init_from = ""  # A file of weights, see `knee_jax.convert`; empty: random.

    config.data = ml_collections.ConfigDict()
    config.data.dataset = "phantom_xray/full"
    config.data.manual_dir = ""
    config.data.test_dataset = ""
    config.data.test_manual_dir = ""
    config.data.split = "ratio"  # By subject (Experiment Setup),
    config.data.parts = (2, 1, 1)  # training, validation and test.
    config.data.seed = 0  # Of the split alone: runs of other config.seed share their test knees.
    config.data.num_folds = 5
    config.data.fold = 0
    config.data.test_site = ""  # Of the split "site_hold_out".
    config.data.sampling = "shuffled"
    config.data.label_fraction = 1.0
    config.data.unlabelled = "natural"
    config.data.unlabelled_share = 0.5  # Of a batch, where `unlabelled` is "fixed".
    config.data.partially_labelled = "masked"
    config.data.without_keypoints = "drop"
    config.data.mode = "auto"
    config.data.workers = 0

    # Section 2.2 and Implementation Details.
    config.coherence = ml_collections.ConfigDict(
        {
            "weight": 1.0,
            "temperature": 0.5,
            "components": 10,
            "sigma": 0.2,
            "replicas": 5,
            "warmup_epochs": 1,
        }
    )
    config.input = ml_collections.ConfigDict({"size": 320, "channels": 1, "statistics": "plain"})
    config.augmentation = ml_collections.ConfigDict(
        {
            "name": "affine",
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
            "regression": False,
        }
    )
    config.ensemble = ml_collections.ConfigDict()  # Name → changes; see configs/oarsi.py.
    config.sweep = ml_collections.ConfigDict({"variants": {}, "seeds": 1, "at_once": 0})
    config.batch_size = 48
    config.epochs = 60
    config.optimizer = ml_collections.ConfigDict(
        {
            "name": "adamw",
            "learning_rate": 1e-4,
            "weight_decay": 1e-2,
            "drop_epochs": (10, 30),
            "drop_factor": 0.5,
            "freeze_epochs": 0,
        }
    )

    config.evaluation = ml_collections.ConfigDict(
        {
            "batch_size": 48,
            "average": "probabilities",
            "num_resamples": 1000,
            "scheme": "subject",
        }
    )
    config.steps_per_call = 1  # More where steps are short: see `train.make_train_steps`.
    config.log_every = 20
    config.checkpoint_every = 500
    return variant_of(config, variant, VARIANTS)


def _no_kpn(config: ml_collections.ConfigDict) -> None:
    config.model.kpn = False


def _no_cl(config: ml_collections.ConfigDict) -> None:
    config.coherence.weight = 0.0
    config.data.unlabelled = "none"


def _resnet(depth: int):
    def change(config: ml_collections.ConfigDict) -> None:
        _no_kpn(config)
        _no_cl(config)
        config.model.depth = depth

    return change


def _labels(fraction: float):
    def change(config: ml_collections.ConfigDict) -> None:
        config.data.label_fraction = fraction

    return change


def _temperature(tau: float):
    def change(config: ml_collections.ConfigDict) -> None:
        config.coherence.temperature = tau

    return change


def _regression(config: ml_collections.ConfigDict) -> None:
    config.model.regression = True


def _both(first, second):
    def change(config: ml_collections.ConfigDict) -> None:
        first(config)
        second(config)

    return change


def _demo(config: ml_collections.ConfigDict) -> None:
    config.data.dataset = "phantom_xray/demo"
    config.input.size = 160
    # A ResNet-18 of half the width stands for ResNet-50; narrower ones for the smaller networks.
    config.model.width = 32 if config.model.depth == 50 else 16
    config.model.depth = 34 if config.model.depth == 34 else 18
    config.batch_size = 16
    config.epochs = 20
    config.checkpoint_every = 100
    config.optimizer.learning_rate = 1e-3
    config.optimizer.drop_epochs = (12, 17)
    # Thirty steps do not take random weights far enough: the incoherence, some ten times the rest
    # of the loss, would turn them to grades that go together and have to do with no knee.
    config.coherence.warmup_epochs = 10


VARIANTS = {
    "resnet18": _resnet(18),
    "resnet34": _resnet(34),
    "resnet50": _resnet(50),
    "no_kpn": _no_kpn,
    "no_cl": _no_cl,
    "labels_20": _labels(0.2),
    "labels_40": _labels(0.4),
    "resnet50_20": _both(_resnet(50), _labels(0.2)),
    "resnet50_40": _both(_resnet(50), _labels(0.4)),
    "tau_025": _temperature(0.25),
    "tau_075": _temperature(0.75),
    "tau_100": _temperature(1.0),
    "tau_150": _temperature(1.5),
    "regression": _regression,
    "resnet50_regression": _both(_resnet(50), _regression),
    "demo": _demo,
}
