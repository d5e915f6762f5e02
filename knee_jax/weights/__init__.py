"""Models that come with the project, one file each; see `knee_jax.inference.exported`."""
