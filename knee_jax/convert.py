"""`python -m knee_jax.convert` is `knee-jax convert`."""

from knee_jax.cli import main

if __name__ == "__main__":
    main(command="convert")
