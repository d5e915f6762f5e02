"""Preparation of a process for training: large pages, and a cache of compiled programs.

Neither changes any result. XLA's CPU back end frees its buffers after every step; by default the
allocator returns them to the kernel and faults them in again page by page, which takes a quarter of
a step. And every run would compile the same programs again.

    KNEE_JAX_LARGE_PAGES=0              leaves the allocator as it is; so does GLIBC_TUNABLES, set
                                        to anything
    JAX_ENABLE_COMPILATION_CACHE=false  compiles anew
    JAX_COMPILATION_CACHE_DIR=FOLDER    keeps compiled programs elsewhere
"""

import contextlib
import os
import platform
import signal
import sys
from pathlib import Path

TUNABLES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=100000000000"
"""Tunables of glibc that request huge pages and keep freed memory in the process."""

CACHE_BYTES = 2 * 1024**3
"""Size limit of the cache, bytes; the least recently used programs are deleted first."""


def with_large_pages() -> None:
    """Restart the interpreter with an allocator that keeps large pages, where glibc offers one.

    The C library reads its tunables when a process starts. Returns if there is nothing to do.
    """
    wanted = os.environ.get("KNEE_JAX_LARGE_PAGES", "1") != "0"
    if not wanted or platform.libc_ver()[0] != "glibc":
        return
    # Signals wait until the restarted interpreter can answer them.
    held = {signal.SIGINT, signal.SIGTERM}
    if "GLIBC_TUNABLES" not in os.environ:
        signal.pthread_sigmask(signal.SIG_BLOCK, held)
        # The full path, since Python locates its own folders by it.
        command = [sys.executable, *sys.orig_argv[1:]]
        with contextlib.suppress(OSError):
            os.execve(sys.executable, command, os.environ | {"GLIBC_TUNABLES": TUNABLES})
    signal.pthread_sigmask(signal.SIG_UNBLOCK, held)


def cache_folder() -> Path:
    """Return the folder of compiled programs, in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "knee_jax" / "compiled"


def cache_programs() -> None:
    """Cache compiled programs for the next run, unless the environment sets or disables a cache."""
    import jax

    values = jax.config.values
    if values["jax_compilation_cache_dir"] or not values["jax_enable_compilation_cache"]:
        return
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        bound(folder, CACHE_BYTES)
    except OSError:
        # A home folder that cannot be written to must not prevent training.
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Most programs compile in under a second, JAX's threshold; together they delay a start.
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def bound(folder: Path, limit: int) -> None:
    """Delete the least recently used files of a folder until it holds at most `limit` bytes."""
    found = []
    for path in folder.iterdir():
        try:
            status = path.stat()
        except FileNotFoundError:
            continue  # Another process has deleted it.
        found.append((max(status.st_atime, status.st_mtime), status.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found, key=lambda each: each[0]):
        if total <= limit:
            break
        path.unlink(missing_ok=True)
        total -= size
