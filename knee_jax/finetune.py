"""`python -m knee_jax.finetune` is `knee-jax finetune`."""

from knee_jax.cli import main

if __name__ == "__main__":
    main(command="finetune")
