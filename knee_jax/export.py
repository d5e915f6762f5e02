"""`python -m knee_jax.export` is `knee-jax export`."""

from knee_jax.cli.run import run_command

if __name__ == "__main__":
    run_command("export")
