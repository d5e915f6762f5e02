"""`python -m knee_jax.compare` is `knee-jax compare`."""

from knee_jax.cli import main

if __name__ == "__main__":
    main(command="compare")
