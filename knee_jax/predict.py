"""`python -m knee_jax.predict` is `knee-jax predict`."""

from knee_jax.cli import main

if __name__ == "__main__":
    main(command="predict")
