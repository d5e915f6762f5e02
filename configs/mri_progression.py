"""mri_progression: progression of osteoarthritis from a DESS volume (Panfilov et al. 2022).

    python -m knee_jax.main --config=configs/mri_progression.py --mode=cv --workdir=runs/progression

trains five folds and tests their ensemble on the knees of site D. Without `--mode=cv` one fold is
trained (`--config.data.fold`).

Variants, after a colon; several are separated by commas (`configs/mri_progression.py:fc,scratch`):

    (none)     2D + TRF on sagittal slices: ResNet-50 and Transformer, 160 x 160 x 64 voxels, batch
               32, 100 epochs, for a GPU. Not run yet: no time and no metric known.
    fc, lstm   other ways to read slices together (Table 1).
    coronal, axial
               2D + TRF on slices of another view.
    shared, individual
               three views at once, through one encoder or one each (2Dsh + TRF, 2Dind + TRF).
    r2plus1d, resnext3d, shufflenet3d
               volumetric networks.
    xray       the prior art, on films: ResNeXt-50 on `kneekl224/progression`, real knees that
               everybody can download; give their folder as `--config.data.manual_dir`. They tell
               no site, so that results are out of fold.
    best       on the films of `xray`: EfficientNet-Lite0 from ImageNet weights (the extra
               `imagenet`), which learns progression and KL grade at once, from the knees whose
               progression is unknown too.
    quick      the same at 128 px in five epochs, as `best,quick`. On 2 cores (AMD EPYC, 2026-11)
               the five folds took 93 processor minutes: AUC 0.722 [0.700, 0.741], average precision
               0.511 [0.477, 0.547]; with the readers' KL grade 0.764 and 0.538.
    scratch    from random weights (Table 2); after a network.
    oai        OAI's knees instead of the phantom's, in voxels that suit the view. Their folder is
               `--config.data.manual_dir`.
    demo       a small network and few epochs, for a CPU; also after any of the above.

The paper starts from ImageNet: `python -m knee_jax.convert` makes a file from downloaded weights,
and `--config.init_from` names it. Without a file the weights are random.
"""

from typing import Any

from knee_jax.config import load
from knee_jax.configs.common import Config, best, paper_row, quick, variant_of
from knee_jax.errors import UserError

_FILMS_ALONE = "the variant xray reads films of kneekl224: leave the variant oai out"
VOLUMES = {"sagittal": (160, 160, 64), "coronal": (160, 80, 128), "axial": (80, 160, 128)}
"""View → rows, columns and slices that the network reads of OAI's volumes (section 3.1)."""


def get_config(variant: str = "") -> Config:
    """Return the config of a variant."""
    config = load.base()
    config.paper_row = paper_row("mri_progression.py", variant)
    config.targets = ("progression",)
    config.task = load.task("progression", focal_gamma=2.0, selection="average_precision")
    config.data.dataset = "phantom_mri/full"
    config.data.split = "site_hold_out"
    config.data.test_site = "D"
    config.data.sampling = "balanced"
    config.input.volume = VOLUMES["sagittal"]
    config.augmentation = load.augmentation("volume_crop")
    config.model = load.model("slice_sequence")
    config.batch_size = 32
    config.epochs = 100
    config.optimizer.update(
        {
            "name": "adam",
            "learning_rate": 1e-4,
            "weight_decay": 1e-4,
            "warmup_epochs": 5,
            "warmup_factor": 0.1,
            "drop_factor": 1.0,
        }
    )
    config.evaluation.batch_size = 32
    return variant_of(config, variant, VARIANTS)


def _network(batch_size: int, name: str, **fields: Any):
    def change(config: Config) -> None:
        config.model = load.model(name, **fields)
        config.batch_size = config.evaluation.batch_size = batch_size

    return change


def _volumetric(batch_size: int, arch: str, dropout: float = 0.0):
    return _network(batch_size, "volumetric", arch=arch, dropout=dropout)


def _view(name: str):
    def change(config: Config) -> None:
        config.augmentation.view = name
        if _is_oai(config):
            _oai(config)  # Which may stand before the view.

    return change


def _xray(config: Config) -> None:
    if _is_oai(config):
        raise UserError(_FILMS_ALONE)
    config.data.dataset = "kneekl224/progression"
    config.data.split = "k_fold"
    config.data.test_site = ""
    config.input.update({"size": 224, "volume": (), "channels": 3})
    config.augmentation = load.augmentation("affine", rotation=15.0, gamma=(0.5, 2.0))
    _network(64, "resnext")(config)
    config.optimizer.learning_rate = 1e-3
    config.optimizer.drop_epochs = (25, 45)
    config.optimizer.drop_factor = 0.1


def _best(config: Config) -> None:
    if config.augmentation.name == "volume_crop":
        _xray(config)
    config.targets = ("progression", "kl")
    config.task = load.task("grading", selection="loss")
    config.data.sampling = "shuffled"
    best(config)


def _scratch(config: Config) -> None:
    config.init_from = ""


def _oai(config: Config) -> None:
    if config.augmentation.name != "volume_crop":
        raise UserError(_FILMS_ALONE)
    view = config.augmentation.view
    config.data.dataset = f"oai_mri/{view}"
    config.input.volume = VOLUMES[view]
    config.augmentation.aspect = {"sagittal": 1.0, "coronal": 2.0, "axial": 0.5}[view]


def _is_oai(config: Config) -> bool:
    return config.data.dataset.startswith("oai_mri/")


def _demo(config: Config) -> None:
    config.checkpoint_every = 100
    config.optimizer.warmup_epochs = 1
    if config.model.name == "resnext":
        # From random weights and few knees, a small residual network learns more than a ResNeXt.
        config.model = load.model("resnet", width=16, dropout=0.5)
        config.input.update({"size": 112, "channels": 1, "statistics": "each"})
        config.augmentation.update({"scale": (0.9, 1.1), "gamma": (0.7, 1.4), "brightness": 0.1})
        config.augmentation.translation = 0.04
        config.batch_size = config.evaluation.batch_size = 32
        config.epochs = 10
        config.optimizer.learning_rate = 5e-4
        config.optimizer.weight_decay = 3e-3
        config.optimizer.drop_epochs = (6, 8)
        config.optimizer.drop_factor = 0.3
        return
    if not _is_oai(config):
        config.data.dataset = "phantom_mri/demo"
        config.input.volume = (72, 72, 32)
    config.model.width = 8
    config.batch_size = config.evaluation.batch_size = 8
    config.epochs = 14
    # At 1e-3 a Transformer that begins with random weights does not learn.
    config.optimizer.learning_rate = 5e-4
    if config.model.name == "slice_sequence":
        config.model.update({"depth": 18, "embedding": 128, "heads": 4, "blocks": 2})


VARIANTS = {
    "fc": _network(16, "slice_sequence", aggregation="linear"),
    "lstm": _network(32, "slice_sequence", aggregation="lstm"),
    "coronal": _view("coronal"),
    "axial": _view("axial"),
    "shared": _network(8, "slice_sequence", views="shared"),
    "individual": _network(8, "slice_sequence", views="individual"),
    "r2plus1d": _volumetric(32, "r2plus1d_34"),
    "resnext3d": _volumetric(64, "resnext3d_50"),
    "shufflenet3d": _volumetric(64, "shufflenet3d", dropout=0.2),
    "xray": _xray,
    "best": _best,
    "quick": quick,
    "scratch": _scratch,
    "oai": _oai,
    "demo": _demo,
}
