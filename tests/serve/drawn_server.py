"""Serves the model and the localiser of drawn knees: `python -m tests.serve.drawn_server`."""

import sys

from knee_jax import cli
from knee_jax.serve import server
from knee_jax.serve.limits import Limits
from tests.inference import drawn_knees
from tests.serve.conftest import means


def main(token=""):
    cli._Signals()  # As the command has them.
    server.HEAD_SECONDS = 1.0
    limits = Limits(upload_mb=64, idle_seconds=1.0, upload_seconds=20)
    address = {"host": "127.0.0.1", "port": 0, "token": token, "workers": 1}
    server.serve(means(), drawn_knees.localiser(), limits, **address)


if __name__ == "__main__":
    main(*sys.argv[1:])
