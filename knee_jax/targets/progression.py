"""Progression of radiographic osteoarthritis within 96 months (Panfilov et al. 2022, section 2.2).

The dichotomy combines fast and slow, and predicts them if their summed probability is 0.5 or more.
"""

from knee_jax.targets.kinds import Dichotomy, Nominal

TARGETS = (
    Nominal(
        name="progression",
        title="Progression",
        short_title="Progression",
        class_names=("none", "fast", "slow"),
        headlines=("balanced_accuracy",),
    ),
)

DICHOTOMIES = (
    Dichotomy(
        "progression_any",
        "Progression, fast or slow",
        ("progression",),
        1,
        threshold=0.5,
        headlines=("average_precision", "roc_auc", "balanced_accuracy"),
    ),
)
