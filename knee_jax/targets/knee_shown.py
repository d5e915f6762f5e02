"""Knee that a square picture shows, if any, as the localiser tells it.

`right` and `left` are as it looks, fibula at the picture's left or right; a mirrored right knee
looks like a left one. `replaced` has a prosthesis; `turned` lies on its side or head.
"""

from knee_jax.targets.kinds import Nominal

NAMES = ("none", "right", "left", "replaced", "turned")
NONE, RIGHT, LEFT, REPLACED, TURNED = range(len(NAMES))

TARGETS = (
    Nominal(
        name="knee_shown",
        title="Knee in the picture",
        short_title="Knee",
        class_names=NAMES,
    ),
)
