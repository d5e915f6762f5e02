"""Serve a page for films, and its REST interface: drop films, see knees, grades and evidence.

    knee-jax serve [--model=NAME|RUN|FILE] [--port=8000]

The page is at http://127.0.0.1:8000, and the description of the interface at /openapi.json. It
answers to this machine alone; another --host needs a token, in KNEE_JAX_TOKEN or the file that
--token_file names. Uploads are deleted once they are graded, and results are kept in memory for a
while. Nothing on the page comes from, or goes to, anywhere else. For research only, not a medical
device.
"""

import dataclasses
import os
from importlib.util import find_spec
from typing import Any

from absl import flags

from knee_jax.cli import path
from knee_jax.errors import UserError
from knee_jax.serve.limits import Limits

NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
"""Modules of the extra `serve`."""


def define_flags() -> None:
    """Define the flags."""
    flags.DEFINE_list("model", ["kl-kneekl224"], "Models, runs' folders or exported files.")
    define_address(8000)
    for field in dataclasses.fields(Limits):
        default: Any = field.default
        if isinstance(default, int):
            flags.DEFINE_integer(field.name, default, field.metadata["what"], lower_bound=1)
        else:
            flags.DEFINE_float(field.name, default, field.metadata["what"], lower_bound=0.01)


def define_address(port: int) -> None:
    """Define the flags of everything that serves a page, at a port by default."""
    flags.DEFINE_string("host", "127.0.0.1", "Name or address to listen at.")
    flags.DEFINE_integer(
        "port", port, "Port; 0: any that is free.", lower_bound=0, upper_bound=65535
    )
    flags.DEFINE_string("token_file", None, "File that holds the token; default: KNEE_JAX_TOKEN.")
    flags.DEFINE_integer(
        "workers", min(4, os.cpu_count() or 1), "Processes that read files.", lower_bound=1
    )


def require() -> None:
    """Raise where what serves pages is not installed.

    Raises:
        UserError: The extra `serve` is missing.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise UserError(
            f"{', '.join(missing)}: not installed; `pip install 'knee_jax[serve]'` brings what the "
            "page needs"
        )


def token_of(file: str | None) -> str:
    """Return the token in a file, or else in the environment; '' without any.

    Raises:
        UserError: The file holds no token.
    """
    if file:
        token = path(file).read_text(encoding="utf-8", errors="replace").strip()
        if not token or not token.isprintable() or "\ufffd" in token:
            raise UserError(f"--token_file={file}: holds no token: one long random word in a line")
        return token
    return os.environ.get("KNEE_JAX_TOKEN", "")


def main(_: list[str]) -> None:
    """Load the models, and serve until the process is told to stop."""
    require()
    from knee_jax.cli.process import cache_programs
    from knee_jax.inference import locate, models
    from knee_jax.serve import server

    options = flags.FLAGS
    token = token_of(options.token_file)
    server.check_address(options.host, token)
    cache_programs()
    values: dict[str, Any] = {
        each.name: options[each.name].value for each in dataclasses.fields(Limits)
    }
    server.serve(
        models.average([models.load(name) for name in options.model]),
        locate.shipped(),
        Limits(**values),
        host=options.host,
        port=options.port,
        token=token,
        workers=options.workers,
    )
