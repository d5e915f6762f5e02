"""Depthwise convolution: every channel by a kernel of its own, padded as TensorFlow's "SAME".

XLA's CPU back end runs its own form of it, and above all the gradients, up to a hundred times
slower than sums of shifted images (F-CPU-07), which are therefore used there.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from knee_jax.models.layers import check_size, on_cpu

# PyTorch's `kaiming_normal_(mode="fan_out")` of a depthwise kernel: each output has its own input.
initial = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def same_padding(size: int, side: int, stride: int) -> tuple[int, int]:
    """Return the padding before and after an axis of `size` pixels that gives ceil(size / stride).

    An odd pixel goes to the end, as in TensorFlow.
    """
    total = max((-(-size // stride) - 1) * stride + side - size, 0)
    return total // 2, total - total // 2


def same_paddings(x: jax.Array, side: int, stride: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return `same_padding` of the rows and of the columns of x [batch, rows, columns, ...]."""
    return same_padding(x.shape[1], side, stride), same_padding(x.shape[2], side, stride)


def convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolve [B, H, W, C] by channel with [side, side, C], to [B, ceil(H/stride), ..., C]."""
    return lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        (stride, stride),
        same_paddings(x, kernel.shape[0], stride),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve_on_cpu(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Compute `convolve` as the sum over the kernel's places of a shifted image times a weight."""
    padded = _pad(x, same_paddings(x, kernel.shape[0], stride))
    shape = tuple(-(-size // stride) for size in x.shape[1:3])
    return _sum_of_shifted(padded, kernel, shape, stride)


def _forward(
    x: jax.Array, kernel: jax.Array, stride: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return convolve_on_cpu(x, kernel, stride), (x, kernel)


def _backward(
    stride: int, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    side = kernel.shape[0]
    paddings = same_paddings(x, side, stride)

    # Of the input: the flipped kernel on the gradient, with zeros between its pixels.
    around = [(0, 0, 0)]
    for size, out, (before, _) in zip(x.shape[1:3], gradient.shape[1:3], paddings, strict=True):
        first = side - 1 - before
        last = size + side - 1 - first - ((out - 1) * stride + 1)
        around.append((first, last, stride - 1))
    spread = lax.pad(gradient, jnp.zeros((), gradient.dtype), [*around, (0, 0, 0)])
    of_input = _sum_of_shifted(spread, kernel[::-1, ::-1], x.shape[1:3], 1)

    # Of the kernel: image by image, so that what is added stays in the cache.
    def add(total: jax.Array, knee: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        padded, gradient = knee
        places = [
            (part * gradient).sum((0, 1), dtype=jnp.float32)
            for part, _, _ in _shifted(padded, side, gradient.shape[:2], stride)
        ]
        return total + jnp.stack(places), None

    zeros = jnp.zeros((side * side, x.shape[-1]), jnp.float32)
    total, _ = lax.scan(add, zeros, (_pad(x, paddings), gradient))
    return of_input, total.reshape(kernel.shape).astype(kernel.dtype)


convolve_on_cpu.defvjp(_forward, _backward)


def _pad(x: jax.Array, paddings: tuple[tuple[int, int], tuple[int, int]]) -> jax.Array:
    return jnp.pad(x, ((0, 0), *paddings, (0, 0)))


def _shifted(
    x: jax.Array, side: int, shape: tuple[int, ...], stride: int
) -> Iterator[tuple[jax.Array, int, int]]:
    """Yield the part of x [..., H, W, C] that each place (row, column) of a kernel meets."""
    height, width = shape
    for row, column in itertools.product(range(side), repeat=2):
        rows = slice(row, row + (height - 1) * stride + 1, stride)
        columns = slice(column, column + (width - 1) * stride + 1, stride)
        yield x[..., rows, columns, :], row, column


def _sum_of_shifted(
    x: jax.Array, kernel: jax.Array, shape: tuple[int, ...], stride: int
) -> jax.Array:
    """Correlate padded images [B, ..., C] with [side, side, C], to [B, *shape, C]."""
    parts = _shifted(x, kernel.shape[0], shape, stride)
    return functools.reduce(jnp.add, (part * kernel[row, column] for part, row, column in parts))


class DepthwiseConv(nn.Module):
    """Depthwise convolution without bias.

    Attributes:
        kernel_size: Side of the kernel, pixels.
        stride: Step of the output grid, pixels.
        dtype: Compute type; the parameter `kernel` [side, side, 1, channels] is float32.
    """

    kernel_size: int
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolve x [batch, height, width, channels], to ceil(height / stride), ..."""
        check_size(x, 1)
        side = self.kernel_size
        kernel = self.param("kernel", initial, (side, side, 1, x.shape[-1]))
        form = convolve_on_cpu if on_cpu() else convolve
        return form(x.astype(self.dtype), kernel[:, :, 0].astype(self.dtype), self.stride)
