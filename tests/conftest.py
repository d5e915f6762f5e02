import os
from pathlib import Path

import matplotlib
import pytest
from absl import flags

matplotlib.use("Agg")
# Grain looks up flags of its own, which only a command would have parsed.
flags.FLAGS.mark_as_parsed()

REPOSITORY = Path(__file__).parents[1]
REAL_DATA = REPOSITORY.parent / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real knees beside the repository; the test skips where there is none."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real knees in {REAL_DATA}")
    return REAL_DATA


@pytest.fixture(scope="session")
def tiny_data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data_dir with the phantom set `phantom_xray/tiny`, prepared once a session."""
    from knee_jax.prepare import prepare

    folder = Path(os.environ.get("KNEE_JAX_TEST_DATA") or tmp_path_factory.mktemp("data"))
    prepare("phantom_xray/tiny", folder)
    return folder
