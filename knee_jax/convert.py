"""`python -m knee_jax.convert` is `knee-jax convert`."""

from knee_jax.cli.run import run_command

if __name__ == "__main__":
    run_command("convert")
