import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from absl import flags

# Grain looks up flags of its own, which only a command would have parsed.
flags.FLAGS.mark_as_parsed()

# The same networks are compiled again and again, in this process and in those it starts.
_CACHE = "JAX_COMPILATION_CACHE_DIR"
if _CACHE not in os.environ:
    _folder = tempfile.TemporaryDirectory(prefix="knee_jax_compiled_")
    os.environ[_CACHE] = _folder.name
# Small programs too: tests are made of them.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

REPOSITORY = Path(__file__).parents[1]
REAL_DATA = REPOSITORY.parent / "shared" / "data"
CASES = REPOSITORY.parent / "shared" / "cases"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave long tests their time."""
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.timeout(0))


@pytest.fixture(autouse=True)
def _no_limit_of_long_commands(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if request.node.get_closest_marker("long"):
        monkeypatch.setattr("tests.commands.LONGEST", None)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real knees beside the repository; the test skips where there is none."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real knees in {REAL_DATA}")
    return REAL_DATA


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data_dir for sets that are prepared once a session."""
    base = tmp_path_factory.getbasetemp()
    # Parallel workers have folders of their own below a common one; `prepare` lets one work.
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "data"


@pytest.fixture(scope="session")
def tiny_data_dir(data_dir: Path) -> Path:
    """A data_dir with the phantom set `phantom_xray/tiny`."""
    from knee_jax.datasets.prepare import prepare

    prepare("phantom_xray/tiny", data_dir)
    return data_dir


@pytest.fixture(scope="session")
def tiny_mri_data_dir(data_dir: Path) -> Path:
    """A data_dir with the phantom set `phantom_mri/tiny`."""
    from knee_jax.datasets.prepare import prepare

    prepare("phantom_mri/tiny", data_dir, workers=1)
    return data_dir


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_data_dir: Path) -> Path:
    """The folder of a finished run of `kpn`, to be read or copied."""
    from tests.commands import run_well, train_flags

    folder = tmp_path_factory.mktemp("trained")
    run_well(*train_flags(folder, tiny_data_dir, "kpn.py:demo", ()))
    return folder


@pytest.fixture(scope="module")
def few_optimisations() -> Iterator[None]:
    """Compiles a module's programs with few optimisations, which takes a third of the time off."""
    import jax

    from knee_jax.training import step

    jax.config.update("jax_disable_most_optimizations", True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "QUICKLY", {})
        yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def config():
    """A config of `kpn` that is a matter of seconds."""
    from knee_jax.configs import kpn

    config = kpn.get_config("demo")
    config.data.dataset = "phantom_xray/tiny"
    config.input.size = 64
    config.model.width = 8
    config.model.depth = 10
    config.batch_size = 8
    config.evaluation.batch_size = 8
    config.task.coherence.components = 3
    return config


@pytest.fixture
def small_disk(tmp_path):
    """A disk of a given size, where mounting one is permitted."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(size):
        options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
        if os.geteuid() or subprocess.run(["mount", *options], capture_output=True).returncode:
            pytest.skip("mounting a small disk is not permitted here")
        return disk

    yield mount
    subprocess.run(["umount", str(disk)], capture_output=True)
