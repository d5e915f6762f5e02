"""`python -m knee_jax.main` is `knee-jax train`."""

from knee_jax.cli.process import with_large_pages
from knee_jax.cli.run import run_command

if __name__ == "__main__":
    with_large_pages()
    run_command("train")
