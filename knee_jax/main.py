"""`python -m knee_jax.main` is `knee-jax train`."""

from knee_jax.cli import main

if __name__ == "__main__":
    main(command="train")
