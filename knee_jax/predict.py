"""`python -m knee_jax.predict` is `knee-jax predict`."""

from knee_jax.cli.run import run_command

if __name__ == "__main__":
    run_command("predict")
