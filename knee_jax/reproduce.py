"""`python -m knee_jax.reproduce` is `knee-jax reproduce`."""

from knee_jax.cli import main

if __name__ == "__main__":
    main(command="reproduce")
