"""`models/depthwise.py`: both forms, their gradients, and TensorFlow's padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knee_jax.models import depthwise

CASES = [
    # Height, width, kernel, stride: even and odd sizes, and maps smaller than the kernel.
    (8, 6, 3, 1),
    (8, 7, 3, 2),
    (9, 11, 5, 2),
    (3, 4, 5, 1),
    (2, 1, 5, 2),
]


def example(height, width, side, channels=4, batch=3):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, height, width, channels))
    kernel = rng.normal(size=(side, side, channels))
    return jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32)


@pytest.mark.parametrize(("height", "width", "side", "stride"), CASES)
def test_both_forms_and_their_gradients_are_one(height, width, side, stride):
    x, kernel = example(height, width, side)

    @jax.jit
    def both(x, kernel):
        found = []
        for form in (depthwise.convolve, depthwise.convolve_on_cpu):
            y, pull = jax.vjp(lambda x, kernel, form=form: form(x, kernel, stride), x, kernel)
            found.append(
                (y, *pull(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)))
            )
        return found

    for desired, actual in zip(*both(x, kernel), strict=True):
        np.testing.assert_allclose(actual, desired, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("height", "width", "side", "stride"), CASES)
def test_it_is_the_sum_over_a_window_padded_at_the_end(height, width, side, stride):
    x, kernel = example(height, width, side, channels=2, batch=1)
    found = depthwise.convolve_on_cpu(x, kernel, stride)
    rows, columns = -(-height // stride), -(-width // stride)
    assert found.shape == (1, rows, columns, 2)
    total = [
        max((n - 1) * stride + side - size, 0) for n, size in ((rows, height), (columns, width))
    ]
    padded = np.zeros((height + total[0], width + total[1], 2))
    top, left = total[0] // 2, total[1] // 2
    padded[top : top + height, left : left + width] = x[0]
    for row in range(rows):
        for column in range(columns):
            window = padded[
                row * stride : row * stride + side, column * stride : column * stride + side
            ]
            desired = (window * np.asarray(kernel)).sum((0, 1))
            np.testing.assert_allclose(found[0, row, column], desired, rtol=1e-4, atol=1e-5)


def test_bfloat16_stays_and_its_weight_gradient_is_summed_in_float32():
    ones = jnp.ones((8, 24, 24, 1), jnp.bfloat16)
    y, pull = jax.vjp(
        lambda k: depthwise.convolve_on_cpu(ones, k, 1), jnp.ones((3, 3, 1), jnp.bfloat16)
    )
    assert y.dtype == jnp.bfloat16
    (gradient,) = pull(jnp.ones_like(y))
    # The centre of the kernel sees every pixel: 8 x 24 x 24 = 4608, which bfloat16 can hold.
    assert float(gradient[1, 1, 0]) == 4608
