"""Preparation of a process for training: large pages, and a bounded cache of programs."""

import os
import subprocess
import sys

import pytest

from knee_jax.cli import process

STARTED = """
import os, sys
from knee_jax.cli.process import with_large_pages
with_large_pages()
print(os.environ.get("GLIBC_TUNABLES"), sys.argv[1:], sys.prefix)
"""


def started(tmp_path, **environment):
    script = tmp_path / "script.py"
    script.write_text(STARTED)
    base = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, str(script), "a b", "--c"],
        env=base | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux'")
def test_the_interpreter_starts_again_once_with_its_arguments(tmp_path):
    rest = f"['a b', '--c'] {sys.prefix}"
    assert started(tmp_path) == f"{process.TUNABLES} {rest}"
    assert started(tmp_path, KNEE_JAX_LARGE_PAGES="0") == f"None {rest}"
    assert started(tmp_path, GLIBC_TUNABLES="x=1") == f"x=1 {rest}"


def test_the_cache_is_bounded_and_keeps_what_was_used_last(tmp_path):
    for age, name in enumerate(("new", "middle", "old")):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    process.bound(tmp_path, 300)
    assert len(list(tmp_path.iterdir())) == 3
    process.bound(tmp_path, 250)
    assert {path.name for path in tmp_path.iterdir()} == {"new", "middle"}
    process.bound(tmp_path, 0)
    assert not list(tmp_path.iterdir())


def test_programs_are_kept_in_the_users_cache_unless_the_environment_says_otherwise(
    tmp_path, monkeypatch
):
    import jax

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    before = jax.config.jax_compilation_cache_dir
    seconds = jax.config.jax_persistent_cache_min_compile_time_secs
    process.cache_programs()
    assert jax.config.jax_compilation_cache_dir == before is not None
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        process.cache_programs()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "knee_jax" / "compiled")
        assert jax.config.jax_persistent_cache_min_compile_time_secs == 0
        monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1)
        jax.config.update("jax_compilation_cache_dir", None)
        process.cache_programs()
        assert jax.config.jax_persistent_cache_min_compile_time_secs == 1
        jax.config.update("jax_compilation_cache_dir", None)
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        process.cache_programs()
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)
