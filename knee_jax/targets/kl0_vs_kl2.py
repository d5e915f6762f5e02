"""Early osteoarthritis: KL 0 against KL 2 (Wang et al., section I)."""

import types

from knee_jax.targets.kinds import Binary

TARGETS = (
    Binary(
        name="kl0_vs_kl2",
        title="KL 0 against KL 2",
        short_title="KL 0/2",
        class_names=("KL 0", "KL 2"),
        grade="kl",
        values=types.MappingProxyType({0: 0, 2: 1}),
        headlines=("accuracy", "sensitivity", "specificity", "roc_auc"),
    ),
)
