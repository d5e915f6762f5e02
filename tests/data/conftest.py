import pytest

from knee_jax.data import prepared
from knee_jax.targets.grades import GRADES


@pytest.fixture(scope="module")
def knees(tiny_data_dir):
    """The set `phantom_xray/tiny` with its grades."""
    return prepared.open_set(tiny_data_dir / "phantom_xray" / "tiny" / "1.1.0", GRADES)
