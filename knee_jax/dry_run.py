"""`python -m knee_jax.dry_run` is `knee-jax dry-run`."""

from knee_jax.cli import main

if __name__ == "__main__":
    main(command="dry-run")
