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
    kneekl224  KL alone, on the real crops of `kneekl224` with the localiser's landmarks (`knee-jax
               prepare --dataset=kneekl224 --manual_dir=DIR --landmarks=model`), a ResNet-18 at 160
               px, for an hour on a CPU; `kneekl224,no_kpn` is the same network with plain pooling.
               Not run to its end yet.
    demo       a small network on about 1,000 phantom knees, 20 epochs, for a CPU; also after any of
               the above. On 2 cores (AMD EPYC, 2026-11): 4 to 5 minutes, test KL
               quadratic kappa 0.714 [0.626, 0.779].

Every other variant runs on phantom knees unless another set is named by `--config.data.dataset`.
What the fields mean is in docs/reference/config.md.
"""

from knee_jax.config import load
from knee_jax.configs.common import Config, paper_row, variant_of
from knee_jax.targets.grades import GRADES


def get_config(variant: str = "") -> Config:
    """Return the config of a variant."""
    config = load.base()
    config.paper_row = paper_row("kpn.py", variant)
    config.targets = GRADES
    config.task = load.task(
        "grading",
        class_weights="prevalence",
        # Section 2.2 and Implementation Details.
        coherence={"weight": 1.0, "temperature": 0.5, "components": 10, "sigma": 0.2},
    )
    config.data.split = "ratio"  # By subject (Experiment Setup).
    config.data.parts = (2, 1, 1)
    config.data.unlabelled = "natural"
    config.input.size = 320
    config.model = load.model("keypoint_pooling", depth=50)
    config.augmentation = load.augmentation(
        "affine", translation=10 / 320, rotation=5.0, scale=(0.95, 1.05)
    )
    config.batch_size = 48
    config.epochs = 60
    config.optimizer.learning_rate = 1e-4
    config.optimizer.weight_decay = 1e-2
    config.optimizer.drop_epochs = (10, 30)
    config.optimizer.drop_factor = 0.5
    config.evaluation.batch_size = 48
    return variant_of(config, variant, VARIANTS)


def _no_kpn(config: Config) -> None:
    config.model.kpn = False


def _no_cl(config: Config) -> None:
    config.task.coherence.weight = 0.0
    config.data.unlabelled = "none"


def _resnet(depth: int):
    def change(config: Config) -> None:
        _no_kpn(config)
        _no_cl(config)
        config.model.depth = depth

    return change


def _labels(fraction: float):
    def change(config: Config) -> None:
        config.data.label_fraction = fraction

    return change


def _temperature(tau: float):
    def change(config: Config) -> None:
        config.task.coherence.temperature = tau

    return change


def _regression(config: Config) -> None:
    config.model.regression = True


def _both(first, second):
    def change(config: Config) -> None:
        first(config)
        second(config)

    return change


def _kneekl224(config: Config) -> None:
    """Grade KL on real knees, whose landmarks the localiser has found."""
    _no_cl(config)
    config.paper_row = ""
    config.targets = ("kl",)
    config.data.dataset = "kneekl224/located"
    config.data.split = "published"
    # Knees without landmarks stay, so that both kinds of pooling see the same ones.
    config.data.without_keypoints = "global"
    config.input.size = 160
    config.model.depth = 18
    config.model.width = 32
    config.augmentation = load.augmentation(
        "affine", translation=0.04, rotation=8.0, scale=(0.92, 1.08), gamma=(0.8, 1.25)
    )
    config.batch_size = 32
    config.epochs = 12
    config.optimizer.learning_rate = 1e-3
    config.optimizer.drop_epochs = ()
    config.optimizer.schedule = "one_cycle"
    config.optimizer.ema_decay = 0.995


def _demo(config: Config) -> None:
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
    config.task.coherence.warmup_epochs = 10


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
    "kneekl224": _kneekl224,
    "demo": _demo,
}
