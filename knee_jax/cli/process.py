"""Prepare a process for training: large pages, and a cache of compiled programs.

Both change no number. XLA's CPU back end frees its buffers after every step, and the allocator
would hand them to the kernel and fault them in again, page by page: a quarter of a step. And the
same programs would be compiled anew by every run.

    KNEE_JAX_LARGE_PAGES=0              leaves the allocator as it is; so does GLIBC_TUNABLES, set
                                        to anything
    JAX_ENABLE_COMPILATION_CACHE=false  compiles anew
    JAX_COMPILATION_CACHE_DIR=FOLDER    keeps compiled programs elsewhere
"""

import os
import platform
import sys
from pathlib import Path

TUNABLES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=100000000000"
"""Ask for huge pages, and keep freed memory in the process."""

CACHE_BYTES = 2 * 1024**3
"""Limit of the cache, bytes; the programs that were used longest ago go first."""


def with_large_pages() -> None:
    """Start the interpreter again with an allocator that keeps large pages, where it has one.

    The C library reads its tunables when a process starts. Returns where there is nothing to do.
    """
    wanted = os.environ.get("KNEE_JAX_LARGE_PAGES", "1") != "0"
    if not wanted or "GLIBC_TUNABLES" in os.environ or platform.libc_ver()[0] != "glibc":
        return
    environment = os.environ | {"GLIBC_TUNABLES": TUNABLES}
    try:
        # Named in full, since Python finds its own folders by it.
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
    except OSError:
        return


def cache_folder() -> Path:
    """Return the folder of compiled programs, in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "knee_jax" / "compiled"


def cache_programs() -> None:
    """Keep compiled programs for the next run, unless the environment says where or not to."""
    import jax

    values = jax.config.values
    if values["jax_compilation_cache_dir"] or not values["jax_enable_compilation_cache"]:
        return
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        bound(folder, CACHE_BYTES)
    except OSError:
        # A home that cannot be written to is no reason not to train.
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))


def bound(folder: Path, limit: int) -> None:
    """Delete the files of a folder that were used longest ago until it holds `limit` bytes."""
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
