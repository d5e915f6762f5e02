"""`python -m knee_jax.compare` is `knee-jax compare`."""

from knee_jax.cli.run import run_command

if __name__ == "__main__":
    run_command("compare")
