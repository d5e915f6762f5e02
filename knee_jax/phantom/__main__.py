"""`python -m knee_jax.phantom` is `knee-jax phantom`."""

from knee_jax.cli import main

if __name__ == "__main__":
    main(command="phantom")
