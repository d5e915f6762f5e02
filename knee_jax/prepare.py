"""`python -m knee_jax.prepare` is `knee-jax prepare`."""

from knee_jax.cli.run import run_command

if __name__ == "__main__":
    run_command("prepare")
