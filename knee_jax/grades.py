"""What is read from a knee: the seven grades of a radiograph, targets made of them, and others.

The grades, in the order used everywhere: Kellgren-Lawrence (0-4), then those of the OARSI atlas
(0-3): osteophytes of femur and tibia, lateral and medial, and joint space narrowing, lateral and
medial (Altman & Gold 2007).
"""

import types
from collections.abc import Mapping
from typing import Any

import numpy as np

GRADES = ("kl", "osfl", "osfm", "ostl", "ostm", "jsl", "jsm")

MISSING = -1
"""The value of a grade that nobody has read, and of a target that a knee does not have."""

DERIVED: Mapping[str, tuple[str, Mapping[int, int]]] = types.MappingProxyType(
    {"kl0_vs_kl2": ("kl", {0: 0, 2: 1})}
)
"""Target → the grade it is made of, and {value of that grade: class}.

`kl0_vs_kl2`: early osteoarthritis (Wang et al., section I); knees of KL 1, 3 and 4 have no class.
"""

OWN: Mapping[str, tuple[str, ...]] = types.MappingProxyType(
    {"progression": ("none", "fast", "slow")}
)
"""Target that is made of no grade of one film, but has a column of its own → names of its classes.

`progression`: of radiographic osteoarthritis within 96 months (Panfilov et al. 2022, section 2.2).
"""

TARGETS = (*GRADES, *DERIVED, *OWN)
"""All that a network may predict, by the name that its logits and columns have."""

NUM_CLASSES = types.MappingProxyType(
    {grade: 5 if grade == "kl" else 4 for grade in GRADES}
    | {target: len(classes) for target, (_, classes) in DERIVED.items()}
    | {target: len(names) for target, names in OWN.items()}
)

TITLES = types.MappingProxyType(
    {
        "kl": "KL grade",
        "osfl": "Osteophytes, femur lateral",
        "osfm": "Osteophytes, femur medial",
        "ostl": "Osteophytes, tibia lateral",
        "ostm": "Osteophytes, tibia medial",
        "jsl": "Joint space narrowing, lateral",
        "jsm": "Joint space narrowing, medial",
        "kl0_vs_kl2": "KL 0 against KL 2",
        "progression": "Progression",
    }
)


def source(target: str) -> str:
    """The grade that a target is made of; of a grade, itself."""
    return DERIVED[target][0] if target in DERIVED else target


def labels(grades: Any, target: str) -> Any:
    """The classes of a target, an integer array [n]; `MISSING` where a knee has none.

    Args:
        grades: a table with a column for each grade, and for those of `OWN` that it knows; or an
            array [n, 7] of NumPy or JAX, which has no other targets than those made of grades.
        target: one of `TARGETS`.
    """
    if target in OWN and target not in grades.columns:
        return np.full(len(grades), MISSING, np.int8)
    source, classes = DERIVED.get(target, (target, None))
    values = (
        grades[source].to_numpy() if hasattr(grades, "columns") else grades[:, GRADES.index(source)]
    )
    if classes is None:
        return values
    chosen = [(values == value) * (number - MISSING) for value, number in classes.items()]
    return (sum(chosen) + MISSING).astype(values.dtype)


def class_name(target: str, number: int) -> str:
    """What a class of a target is called: 'KL 2' for class 1 of `kl0_vs_kl2`, and of `kl` for 2."""
    if target in OWN:
        return OWN[target][number]
    source, classes = DERIVED.get(target, (target, {number: number}))
    return f"{source.upper()} {next(value for value, n in classes.items() if n == number)}"
