"""The 74 bone landmarks of a knee radiograph, by index.

The scheme is BoneFinder's: femur 0-36, tibia 37-73, each running from lateral to medial along the
bone's outline. In an image oriented as a right knee, x grows with the index inside the two windows
that lie on the joint surfaces.
"""

import types

SIDE_WORDS = {"R": "right", "L": "left"}
"""Side of a knee → its word."""

NUM_LANDMARKS = 74
FEMUR = range(0, 37)
TIBIA = range(37, 74)

CONDYLES = range(12, 25)
"""Points on the joint surface of the femoral condyles (13)."""
PLATEAU = range(47, 64)
"""Points on the tibial plateau (17); the first is its lateral, the last its medial corner."""
CONDYLES_CENTRE = 18
PLATEAU_CENTRE = 55
"""Centre of the region of interest."""

PRESETS = types.MappingProxyType(
    {
        "joint": (*CONDYLES, *PLATEAU),
        "all74": tuple(range(NUM_LANDMARKS)),
        "kneel16": (*range(12, 25, 2), *range(47, 64, 2)),
    }
)
"""Landmarks that a keypoint-pooling network reads, by name of the preset."""


def compartment(index: int) -> tuple[str, ...]:
    """Name the compartments ('fl', 'fm', 'tl', 'tm') that landmark `index` belongs to.

    The split is at the central point of each joint surface, which belongs to both sides.
    """
    bone, centre = ("f", CONDYLES_CENTRE) if index in FEMUR else ("t", PLATEAU_CENTRE)
    sides = ("l",) * (index <= centre) + ("m",) * (index >= centre)
    return tuple(bone + side for side in sides)
