"""Train the demo of kpn on phantom knees, and evaluate it: minutes on a CPU, no data needed.

It is `knee-jax train` with --config=kpn:demo and --workdir=runs/demo unless others are given.
"""

from collections.abc import Sequence

from knee_jax.cli import train

DEFAULTS = {"config": "kpn:demo", "workdir": "runs/demo"}

define_flags = train.define_flags
main = train.main


def rewrite(arguments: Sequence[str]) -> list[str]:
    """Add the defaults of flags that are not given."""
    given = {
        argument.lstrip("-").partition("=")[0] for argument in arguments if argument[:1] == "-"
    }
    added = [f"--{name}={value}" for name, value in DEFAULTS.items() if name not in given]
    return train.rewrite([*added, *arguments])
