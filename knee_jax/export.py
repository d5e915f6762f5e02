"""`python -m knee_jax.export` is `knee-jax export`."""

from knee_jax.cli import main

if __name__ == "__main__":
    main(command="export")
