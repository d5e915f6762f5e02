"""Minimum joint space width of the medial compartment, in mm.

OAI measures it on baseline and follow-up films (table `kxr_qjsw_duryea`, `MCMJSW`; Duryea et al.
2010); the phantom gives its true value. Centre and scale are those of OAI's knees, rounded.
"""

from knee_jax.targets.kinds import Continuous

TARGETS = (
    Continuous(
        name="jsw_medial",
        title="Joint space width, medial",
        short_title="JSW M",
        unit="mm",
        opposite="jsw_lateral",
        centre=4.0,
        scale=1.5,
        tolerance=0.5,
    ),
)
