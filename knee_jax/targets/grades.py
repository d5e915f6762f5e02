"""Seven grades of a radiograph, in the order used everywhere.

Kellgren-Lawrence (0-4), then those of the OARSI atlas (0-3): osteophytes of femur and tibia,
lateral and medial, and joint space narrowing, lateral and medial (Altman & Gold 2007).
"""

import types

from knee_jax.targets.kinds import MISSING, Dichotomy, Ordinal

GRADES = ("kl", "osfl", "osfm", "ostl", "ostm", "jsl", "jsm")

NUM_CLASSES = types.MappingProxyType({grade: 5 if grade == "kl" else 4 for grade in GRADES})

OARSI = "oarsi"
"""Name of the average over the six OARSI grades (Zheng et al. 2021, Table 2)."""

OARSI_GRADES = tuple(grade for grade in GRADES if grade != "kl")

_TITLES = {
    "kl": ("KL grade", "KL"),
    "osfl": ("Osteophytes, femur lateral", "FO L"),
    "osfm": ("Osteophytes, femur medial", "FO M"),
    "ostl": ("Osteophytes, tibia lateral", "TO L"),
    "ostm": ("Osteophytes, tibia medial", "TO M"),
    "jsl": ("Joint space narrowing, lateral", "JSN L"),
    "jsm": ("Joint space narrowing, medial", "JSN M"),
}

TARGETS = tuple(
    Ordinal(
        name=grade,
        title=title,
        short_title=short_title,
        class_names=tuple(map(str, range(NUM_CLASSES[grade]))),
        positive_from=2,  # For KL the usual definition of osteoarthritis.
        region=grade.removeprefix("os") if grade.startswith("os") else "all",
        opposite="" if grade == "kl" else grade[:-1] + {"l": "m", "m": "l"}[grade[-1]],
        headlines=("accuracy", "balanced_accuracy", "quadratic_kappa") if grade == "kl" else (),
    )
    for grade, (title, short_title) in _TITLES.items()
)

DICHOTOMIES = (
    Dichotomy("kl_ge_2", "KL >= 2", ("kl",), 2, headlines=("roc_auc",)),
    Dichotomy("osteophytes_lateral_ge_1", "Osteophytes >= 1, lateral", ("osfl", "ostl"), 1),
    Dichotomy("osteophytes_medial_ge_1", "Osteophytes >= 1, medial", ("osfm", "ostm"), 1),
    Dichotomy("jsn_lateral_ge_1", "JSN >= 1, lateral", ("jsl",), 1),
    Dichotomy("jsn_medial_ge_1", "JSN >= 1, medial", ("jsm",), 1),
)
"""Two-class endpoints of Tiulpin & Saarakkala 2020, Figure 3.

KL >= 2 is the usual definition of radiographic osteoarthritis. Osteophytes of femur and tibia are
pooled by side, as in the code behind the figure; its curve of lateral joint space narrowing was by
mistake drawn from the medial tibial osteophytes, which is not repeated here. There the score was
the sum of the positive classes' logits, which depends on the arbitrary offset of logits; here it is
that of their probabilities.
"""

__all__ = ["DICHOTOMIES", "GRADES", "MISSING", "NUM_CLASSES", "OARSI", "OARSI_GRADES", "TARGETS"]
