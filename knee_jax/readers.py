"""`python -m knee_jax.readers` is `knee-jax readers`."""

from knee_jax.cli import main

if __name__ == "__main__":
    main(command="readers")
