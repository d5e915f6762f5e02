"""The 74 bone landmarks (`knee_jax.landmarks`) as a target: places in the picture."""

from knee_jax.landmarks import NUM_LANDMARKS
from knee_jax.targets.places import Places

TARGETS = (
    Places(name="landmarks", title="Landmarks", short_title="Landmarks", number=NUM_LANDMARKS),
)
