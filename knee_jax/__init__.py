"""Knee osteoarthritis from radiographs and MR volumes, in JAX."""

from pathlib import Path

__version__ = "0.1.0"

# In a clone, `configs` and `datasets` lie beside the package and not in it: so they are found when
# a command is run there without an editable installation.
_clone = Path(__file__).resolve().parents[1]
if (_clone / "pyproject.toml").exists():
    __path__.append(str(_clone))
