"""`python -m knee_jax.readers` is `knee-jax readers`."""

from knee_jax.cli.run import run_command

if __name__ == "__main__":
    run_command("readers")
