"""`python -m knee_jax.serve` is `knee-jax serve`."""

from knee_jax.cli import main

if __name__ == "__main__":
    main(command="serve")
