"""Second phantom cohort, of other machines and in MOST's layout, for external tests.

"Train on OAI, test on MOST" (Tiulpin & Saarakkala 2020) without any data.
"""

import types
from typing import ClassVar

import tensorflow_datasets as tfds

from knee_jax.datasets import phantom_xray
from knee_jax.datasets.phantom_xray import PhantomConfig
from knee_jax.ingest.inventory import Rules


class Builder(phantom_xray.Builder):
    """Phantom knees read through MOST's tables and list of films; sites are unknown."""

    name = "phantom_most"
    study = "most"
    cohort = "phantom_most"
    VERSION = tfds.core.Version("1.0.0")
    label_columns = types.MappingProxyType({})
    BUILDER_CONFIGS: ClassVar = [
        PhantomConfig(
            name="tiny",
            description="24 subjects on small films; seconds, for tests.",
            num_subjects=24,
            visits=(0, 30),
            rows=512,
        ),
        PhantomConfig(
            name="demo",
            description="About 500 knees, half of them at the first visit.",
            num_subjects=130,
            visits=(0, 30),
            rows=1024,
        ),
        PhantomConfig(
            name="demo_half_even",
            description="The demo's knees, decimals rounded half to even (KL 1.9 is 2), as the "
            "published code does.",
            num_subjects=130,
            visits=(0, 30),
            rows=1024,
            rules=Rules(rounding="half_even"),
        ),
        PhantomConfig(
            name="full",
            description="About 5,600 knees at all five visits.",
            num_subjects=600,
            visits=(0, 15, 30, 60, 84),
            rows=1024,
        ),
    ]
