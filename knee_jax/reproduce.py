"""`python -m knee_jax.reproduce` is `knee-jax reproduce`."""

from knee_jax.cli.run import run_command

if __name__ == "__main__":
    run_command("reproduce")
