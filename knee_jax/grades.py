"""The seven semi-quantitative grades of a knee radiograph, in the order used everywhere.

Kellgren-Lawrence (0-4), then the OARSI atlas grades (0-3): osteophytes of femur and tibia, lateral
and medial, and joint space narrowing, lateral and medial (Altman & Gold 2007).
"""

import types

GRADES = ("kl", "osfl", "osfm", "ostl", "ostm", "jsl", "jsm")

NUM_CLASSES = types.MappingProxyType({grade: 5 if grade == "kl" else 4 for grade in GRADES})

MISSING = -1
"""The value of a grade that nobody has read."""

TITLES = types.MappingProxyType(
    {
        "kl": "KL grade",
        "osfl": "Osteophytes, femur lateral",
        "osfm": "Osteophytes, femur medial",
        "ostl": "Osteophytes, tibia lateral",
        "ostm": "Osteophytes, tibia medial",
        "jsl": "Joint space narrowing, lateral",
        "jsm": "Joint space narrowing, medial",
    }
)
