"""The packages: all in `knee_jax/`, and two folders of the repository that belong to it.

The top-level import name `datasets` belongs to another library, so that the folders `configs` and
`datasets` are installed as packages of `knee_jax`.
"""

from setuptools import find_packages, setup

FOLDERS = {"knee_jax.configs": "configs", "knee_jax.datasets": "datasets"}

setup(
    packages=[*find_packages(include=["knee_jax", "knee_jax.*"]), *FOLDERS],
    package_dir=FOLDERS,
)
