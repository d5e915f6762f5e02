"""joint_space_width: minimum medial joint space width in mm, from a radiograph.

    python -m knee_jax.main --config=configs/joint_space_width.py:demo --workdir=runs/width

OAI measured it on its films (`kxr_qjsw_duryea`); phantom knees know it. Reported with RMSE, bias
and limits of agreement (Bland & Altman 1986).

Variants, after a colon:

    (none)   ResNet-34 at 320 px, 30 epochs, for a GPU. Not run yet: no time and no metric known.
    demo     a narrow ResNet-18 at 160 px on about 1,000 phantom knees, for a CPU.
"""

from knee_jax.config import load
from knee_jax.configs.common import Config, variant_of


def get_config(variant: str = "") -> Config:
    """Return the config of a variant."""
    config = load.base()
    config.targets = ("jsw_medial",)
    config.task = load.task("grading", selection="loss")
    config.input.size = 320
    config.model = load.model("resnet", depth=34)
    # A change of scale would change the width that is to be measured.
    config.augmentation = load.augmentation("affine", translation=0.03, rotation=5.0)
    config.optimizer.learning_rate = 3e-4
    config.optimizer.drop_epochs = (15, 24)
    config.optimizer.drop_factor = 0.3
    return variant_of(config, variant, VARIANTS)


def _demo(config: Config) -> None:
    config.data.dataset = "phantom_xray/demo"
    config.input.size = 160
    config.model.depth = 18
    config.model.width = 16
    config.batch_size = 16
    config.epochs = 12
    config.checkpoint_every = 100
    config.optimizer.learning_rate = 1e-3
    config.optimizer.drop_epochs = (7, 10)


VARIANTS = {"demo": _demo}
