"""The page for films and its REST interface: `knee-jax serve`."""
