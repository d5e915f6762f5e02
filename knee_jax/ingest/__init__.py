"""Conversion of raw files to examples: NumPy on the host, one knee at a time, no JAX."""
