"""`python -m knee_jax.phantom` is `knee-jax phantom`."""

from knee_jax.cli.run import run_command

if __name__ == "__main__":
    run_command("phantom")
