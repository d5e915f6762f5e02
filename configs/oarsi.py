"""oarsi: KL and six OARSI grades by an ensemble of SE-ResNets (Tiulpin & Saarakkala 2020).

    python -m knee_jax.main --config=configs/oarsi.py --mode=cv --workdir=runs/oarsi

trains five folds of each of the two networks, and tests their ensemble on the other cohort. Without
`--mode=cv` one fold of one network is trained (`--config.data.fold`).

Variants, after a colon; several are separated by commas (`configs/oarsi.py:se_resnet50,demo`):

    (none)     the paper's ensemble: SE-ResNet-50 and SE-ResNeXt-50 32x4d, 300 px, batch 32, 20
               epochs, for a GPU (Table 3 and the last row of Table 2). Not run yet: no time and no
               metric known.
    resnet18, resnet34, resnet50, se_resnet50, se_resnext50
               one network (Table 2 and supplementary Table 1).
    se_resnet50_scratch, se_resnext50_scratch
               from random weights, with the learning rates that the paper took for that.
    se_resnet50_no_kl, se_resnext50_no_kl
               the six OARSI grades without KL.
    gwap, gwap_hidden
               other poolings that the authors tried; after a network.
    text_schedule
               two frozen epochs, as the paper says; its code, and this config, has one.
    demo       small networks on about 1,000 phantom knees, tested on the second phantom cohort, for
               a CPU; also after any of the above.

The paper starts from ImageNet: `python -m knee_jax.convert` makes a file from downloaded weights,
and `--config.init_from` names it (for the ensemble `--config.ensemble.se_resnet50.init_from`,
the same for `se_resnext50`). Without a file the weights are random.
"""

from knee_jax.config import load
from knee_jax.configs.common import Config, paper_row, variant_of
from knee_jax.targets.grades import GRADES

NETWORKS = {"se_resnet50": "se_resnet50", "se_resnext50": "se_resnext50_32x4d"}
"""The ensemble: our name → `model.arch`."""


def get_config(variant: str = "") -> Config:
    """Return the config of a variant."""
    config = load.base()
    config.paper_row = paper_row("oarsi.py", variant)
    config.targets = GRADES
    # The mean over the seven tasks, and the lowest validation loss (the published code).
    config.task = load.task("grading", reduction="mean", selection="loss")

    config.data.dataset = "phantom_xray/full"
    config.data.test_dataset = "phantom_most/full"
    config.data.partially_labelled = "drop"  # Data Pre-processing: no missing labels.
    config.data.split = "k_fold"  # Stratified, as the text says; "group_k_fold" as in the code.

    config.input.update({"size": 300, "channels": 3, "statistics": "augmented"})
    config.augmentation = load.augmentation("random_crop")
    config.model = _senet(NETWORKS["se_resnext50"])
    config.ensemble = {
        name: {"paper_row": f"oarsi.py:{name}", "init_from": "", "model": {"arch": arch}}
        for name, arch in NETWORKS.items()
    }
    config.batch_size = 32
    config.epochs = 20
    config.optimizer.update(
        {
            "name": "adam",
            "learning_rate": 1e-2,
            "weight_decay": 1e-4,
            "drop_epochs": (1, 3),
            "drop_factor": 0.1,
            "freeze_epochs": 1.0,
        }
    )
    config.evaluation.batch_size = 128
    return variant_of(config, variant, VARIANTS)


def _senet(arch: str) -> Config:
    return load.model("senet", arch=arch, dropout=0.5)


def _alone(config: Config, model: Config) -> None:
    config.ensemble = {}
    config.model = model


def _resnet(depth: int):
    def change(config: Config) -> None:
        _alone(config, load.model("resnet", depth=depth, dropout=0.5))

    return change


def _se_resnet50(config: Config) -> None:
    _alone(config, _senet(NETWORKS["se_resnet50"]))


def _se_resnext50(config: Config) -> None:
    _alone(config, _senet(NETWORKS["se_resnext50"]))


def _scratch(network):
    def change(config: Config) -> None:
        network(config)
        config.optimizer.learning_rate = 1e-4
        config.optimizer.drop_epochs = (10, 15)
        config.optimizer.freeze_epochs = 0.0

    return change


def _no_kl(network):
    def change(config: Config) -> None:
        network(config)
        config.targets = GRADES[1:]

    return change


def _pooling(name: str):
    def change(config: Config) -> None:
        config.model.pooling = name

    return change


def _text_schedule(config: Config) -> None:
    config.optimizer.freeze_epochs = 2.0
    config.optimizer.drop_epochs = (2, 3)


def _demo(config: Config) -> None:
    config.data.dataset = "phantom_xray/demo"
    config.data.test_dataset = "phantom_most/demo"
    config.input.size = 96
    config.input.channels = 1
    # 700 knees, seen twelve times by a network with random weights: less may be changed at a time.
    config.augmentation.update(
        {"canvas": 99, "rotation": 3.0, "noise_probability": 0.0, "gamma_probability": 0.0}
    )
    config.model.width = 16
    config.model.dropout = 0.1
    if config.model.name == "senet":
        config.model.blocks = (1, 1, 1, 1)
    config.batch_size = 12
    config.epochs = 12
    config.checkpoint_every = 100
    config.optimizer.learning_rate = 3e-3
    config.optimizer.drop_epochs = (8, 11)
    config.optimizer.freeze_epochs = 0.0


VARIANTS = {
    "resnet18": _resnet(18),
    "resnet34": _resnet(34),
    "resnet50": _resnet(50),
    "se_resnet50": _se_resnet50,
    "se_resnext50": _se_resnext50,
    "se_resnet50_scratch": _scratch(_se_resnet50),
    "se_resnext50_scratch": _scratch(_se_resnext50),
    "se_resnet50_no_kl": _no_kl(_se_resnet50),
    "se_resnext50_no_kl": _no_kl(_se_resnext50),
    "gwap": _pooling("gwap"),
    "gwap_hidden": _pooling("gwap_hidden"),
    "text_schedule": _text_schedule,
    "demo": _demo,
}
