"""`python -m knee_jax.prepare` is `knee-jax prepare`."""

from knee_jax.cli import main

if __name__ == "__main__":
    main(command="prepare")
