"""`python -m knee_jax` is `knee-jax`."""

from knee_jax.cli import main

if __name__ == "__main__":
    main()
