"""`python -m knee_jax.evaluate` is `knee-jax evaluate`."""

from knee_jax.cli import main

if __name__ == "__main__":
    main(command="evaluate")
