"""Knee osteoarthritis from radiographs and MR volumes, in JAX."""

__version__ = "0.1.0"
