"""Layers with PyTorch's conventions: explicit symmetric padding, batch statistics, initial values.

Images are [batch, height, width, channels]; parameters are float32 whatever the compute type.
"""

import contextlib
import contextvars
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from knee_jax.errors import UserError

InitialBias = Callable[[jax.Array, tuple[int, ...]], jax.Array]
"""Function from a key and the shape [..., out] of a kernel to the initial bias, [out]."""

kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""Initialiser of He et al. 2015, eq. 14, as in torchvision's ResNet."""

kaiming_normal_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
"""The same with eq. 10, as in torchvision's DenseNet."""

kaiming_uniform = nn.initializers.variance_scaling(2.0, "fan_in", "uniform")
"""U(-sqrt(6 / fan in), sqrt(6 / fan in)): He et al. 2015, eq. 10, `kaiming_uniform_` in PyTorch."""


def torch_uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Draw from U(-1/sqrt(fan in), 1/sqrt(fan in)), PyTorch's default initialisation.

    The fan in of a kernel [..., out] is the size of all axes except the last.
    """
    bound = math.prod(shape[:-1]) ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def torch_bias(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draw in the same way the bias [out] of a layer with a kernel of that shape."""
    return torch_uniform(key, shape).reshape(-1, shape[-1])[0]


def constant_bias(value: float) -> InitialBias:
    """Return an initialiser of a bias that is `value` in all channels."""
    return lambda key, shape: jnp.full(shape[-1:], value, jnp.float32)


def convolve(x: jax.Array, kernel: jax.Array, stride: int, pad: int, more: int = 0) -> jax.Array:
    """Convolve [B, H, W, in] with [side, side, in / groups, out].

    The number of groups follows from the shapes.

    Args:
        x: Images.
        kernel: Kernel to convolve them with.
        stride: Step of the output grid, pixels.
        pad: Pixels of zeros on every side.
        more: Further columns of zeros on the right.
    """
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((pad, pad), (pad, pad + more)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2],
    )


SLICE = 32
"""Input channels of each of the dense convolutions that make up a grouped one."""


def convolve_groups_on_cpu(x: jax.Array, kernel: jax.Array, stride: int, pad: int) -> jax.Array:
    """Compute `convolve` in groups as dense convolutions of several groups at a time.

    Several neighbouring groups are one dense convolution whose kernel is zero between groups. XLA
    runs that fast on the CPU, gradients included; its own grouped convolution takes 2 to 7 times
    longer, and the gradient with respect to a grouped kernel a thousand times longer
    (benchmarks/train_step.py).
    """
    groups = x.shape[-1] // kernel.shape[2]
    # At most 16 convolutions, to limit the time of compilation.
    wanted = -(-max(SLICE, x.shape[-1] // 16) // kernel.shape[2])
    together = next(n for n in range(min(wanted, groups), groups + 1) if groups % n == 0)
    parts = groups // together
    outputs = [
        convolve(inputs, _block_diagonal(part, together), stride, pad)
        for inputs, part in zip(
            jnp.split(x, parts, axis=-1), jnp.split(kernel, parts, axis=-1), strict=True
        )
    ]
    return jnp.concatenate(outputs, axis=-1)


def _block_diagonal(kernel: jax.Array, groups: int) -> jax.Array:
    """Expand [side, side, in / groups, out] to the equivalent dense [side, side, in, out]."""
    side, _, inputs, outputs = kernel.shape
    apart = kernel.reshape(side, side, 1, inputs, groups, outputs // groups)
    same_group = jnp.eye(groups, dtype=bool)[:, None, :, None]
    return jnp.where(same_group, apart, 0).reshape(side, side, groups * inputs, outputs)


def convolve_on_cpu(x: jax.Array, kernel: jax.Array, stride: int, pad: int) -> jax.Array:
    """Convolve as `convolve` does, in the form that XLA runs fastest on the CPU.

    A convolution without any padding takes 2 to 3 times longer there than one that pads a single
    column, which here is then cut off.
    """
    if pad or x.shape[-1] == 1:
        return convolve(x, kernel, stride, pad)
    width = (x.shape[2] - kernel.shape[1]) // stride + 1
    return convolve(x, kernel, stride, 0, more=1)[:, :, :width]


@jax.custom_vjp
def multiply_on_cpu(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiply the channels of every pixel, [..., in] by [in, out]: a 1x1 convolution.

    The gradient of the kernel names its smaller operand first, which is the one that XLA's CPU back
    end copies to turn it round. Differentiated by JAX it turns the gradient of the larger side, a
    fifth of EfficientNet's whole step (F-CPU-08).
    """
    return x @ kernel


def _multiply_forward(
    x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return x @ kernel, (x, kernel)


def _multiply_backward(
    saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    pixels = tuple(range(x.ndim - 1))
    if x.shape[-1] <= gradient.shape[-1]:
        of_kernel = jnp.tensordot(x, gradient, (pixels, pixels))
    else:
        of_kernel = jnp.tensordot(gradient, x, (pixels, pixels)).T
    return gradient @ kernel.T, of_kernel


multiply_on_cpu.defvjp(_multiply_forward, _multiply_backward)


_platform: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


@contextlib.contextmanager
def tracing_for(platform: str) -> Iterator[None]:
    """Trace networks in the forms that suit a platform, not the one of this process."""
    token = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(token)


def on_cpu() -> bool:
    """Return whether a network that is traced now will run on a CPU."""
    return (_platform.get() or jax.default_backend()) == "cpu"


class Conv(nn.Module):
    """2-D convolution, padded equally on every side.

    Flax's "SAME" pads a stride of 2 on one side only; PyTorch pads both.

    Attributes:
        features: Number of output channels.
        kernel_size: Side of the kernel, pixels; odd unless `padding` is given.
        stride: Step of the output grid, pixels.
        dtype: Compute type; the parameter `kernel` [side, side, in / groups, out] is float32.
        groups: Number of groups of channels, each convolved separately.
        initial: Initialiser of the kernel.
        padding: Pixels of zeros on every side; None: `(kernel_size - 1) // 2`.
        initial_bias: Initialiser of the `bias` [out]; None: no bias.
    """

    features: int
    kernel_size: int
    stride: int = 1
    dtype: Any = jnp.float32
    groups: int = 1
    initial: Callable[..., jax.Array] = kaiming_normal
    padding: int | None = None
    initial_bias: InitialBias | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolve x [batch, height, width, channels].

        Raises:
            UserError: The image is smaller than the kernel.
        """
        side = self.kernel_size
        pad = (side - 1) // 2 if self.padding is None else self.padding
        check_size(x, side - 2 * pad)
        shape = (side, side, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.initial, shape)
        y = self._convolve(x.astype(self.dtype), kernel.astype(self.dtype), pad)
        if self.initial_bias is None:
            return y
        return y + self.param("bias", self.initial_bias, shape).astype(self.dtype)

    def _convolve(self, x: jax.Array, kernel: jax.Array, pad: int) -> jax.Array:
        if not on_cpu():
            return convolve(x, kernel, self.stride, pad)
        if self.groups > 1:
            return convolve_groups_on_cpu(x, kernel, self.stride, pad)
        if kernel.shape[0] == 1 and not pad:
            return multiply_on_cpu(x[:, :: self.stride, :: self.stride], kernel[0, 0])
        return convolve_on_cpu(x, kernel, self.stride, pad)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalise(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalise x [..., channels] by the mean and the biased variance of the batch.

    The gradient is the closed form of Ioffe & Szegedy 2015, section 3: it reads `x` and the
    gradient twice, where differentiating step by step keeps and reads more copies of the batch.

    Returns:
        The result, of the type of `x`, and the mean and variance [channels], float32, through
        which no gradient flows.
    """
    return _normalise_forward(x, scale, bias, epsilon)[0]


def _normalise_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], tuple[jax.Array, ...]]:
    axes = tuple(range(x.ndim - 1))
    x32 = x.astype(jnp.float32)
    mean = x32.mean(axes)
    var = jnp.square(x32 - mean).mean(axes)
    inverse = lax.rsqrt(var + epsilon)
    y = ((x32 - mean) * (scale * inverse) + bias).astype(x.dtype)
    return (y, mean, var), (x, scale, mean, inverse)


def _normalise_backward(
    epsilon: float, saved: tuple[jax.Array, ...], gradients: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, scale, mean, inverse = saved
    axes = tuple(range(x.ndim - 1))
    count = x.size // x.shape[-1]
    gradient = gradients[0].astype(jnp.float32)
    normalised = (x.astype(jnp.float32) - mean) * inverse
    of_bias = gradient.sum(axes)
    of_scale = (gradient * normalised).sum(axes)
    of_x = scale * inverse * (gradient - of_bias / count - normalised * (of_scale / count))
    return of_x.astype(x.dtype), of_scale, of_bias


normalise.defvjp(_normalise_forward, _normalise_backward)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes except the last (Ioffe & Szegedy 2015), as in PyTorch.

    The batch is normalised by its biased variance; the running variance collects the unbiased one.
    Statistics are float32; under `jax.jit` over a mesh they are those of the whole batch.

    Attributes:
        momentum: Weight of the old running statistics (1 - PyTorch's momentum).
        epsilon: Constant added to the variance.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalise x [..., channels]; the result has the type of `x`."""
        channels = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels)
        if not train:
            factor = scale * lax.rsqrt(running_var.value + self.epsilon)
            return ((x - running_mean.value) * factor + bias).astype(x.dtype)
        y, mean, var = normalise(x, scale, bias, self.epsilon)
        if not self.is_initializing():
            count = x.size // x.shape[-1]
            unbiased = var * (count / max(count - 1, 1))
            for running, value in ((running_mean, mean), (running_var, unbiased)):
                running.value = self.momentum * running.value + (1 - self.momentum) * value
        return y


class ConvBlock(nn.Module):
    """3x3 convolutions without padding, each with a bias, batch norm and ReLU.

    These are the blocks of Siamese networks of knees (Tiulpin et al. 2018, Wang et al.), with the
    initial values of their code: Kaiming-uniform kernels, biases of 0.1.

    Attributes:
        features: Channels of every convolution.
        convolutions: Number of convolutions.
        stride: Stride of the first convolution.
        epsilon: Epsilon of batch norm.
        dtype: Compute type.
    """

    features: int
    convolutions: int
    stride: int = 1
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map [B, H, W, C] to [B, about H / stride - 2 convolutions, ..., features]."""
        for i in range(1, self.convolutions + 1):
            x = Conv(
                self.features,
                3,
                self.stride if i == 1 else 1,
                self.dtype,
                initial=kaiming_uniform,
                padding=0,
                initial_bias=constant_bias(0.1),
                name=f"conv{i}",
            )(x)
            x = nn.relu(BatchNorm(epsilon=self.epsilon, name=f"bn{i}")(x, train))
        return x


class Linear(nn.Module):
    """Affine map.

    Attributes:
        features: Number of outputs.
        bias: Whether a bias is added.
        initial: Initialiser of the kernel; by default PyTorch's, U(-1/sqrt(in), 1/sqrt(in)).
        initial_bias: Initialiser of the bias.
        dtype: Compute type, and type of the result; the parameters are float32.
    """

    features: int
    bias: bool = True
    initial: Callable[..., jax.Array] = torch_uniform
    initial_bias: InitialBias = torch_bias
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map x [..., in] to [..., features]."""
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", self.initial, shape).astype(self.dtype)
        # At the default precision a TPU, and some GPUs, would multiply in bfloat16 or TF32.
        precision = "highest" if kernel.dtype == jnp.float32 else None
        y = jnp.matmul(x.astype(self.dtype), kernel, precision=precision)
        if not self.bias:
            return y
        return y + self.param("bias", self.initial_bias, shape).astype(self.dtype)


def max_pool(x: jax.Array, padding: int = 1) -> jax.Array:
    """Take the 3x3 maximum with stride 2 of [B, H, W, C]; 3x3x3 of [B, D, H, W, C].

    It works on one axis after the other, by comparisons: the gradient (to the first of equal
    values, as in PyTorch) is then elementwise, 6 times faster on the CPU than XLA's
    select-and-scatter, and free of the atomic additions that make the latter irreproducible on a
    GPU.

    Args:
        x: Images or volumes to pool.
        padding: Padding. 1: one pixel of -inf around, [B, ceil(H/2), ceil(W/2), C] (torchvision's
            ResNet); 0: none, but windows may extend beyond the end, [B, floor(H/2), floor(W/2), C]
            (Caffe; PyTorch's `ceil_mode`).
    """
    for axis in range(x.ndim - 2, 0, -1):
        x = _max_pool_axis(x, axis, padding)
    return x


def _max_pool_axis(x: jax.Array, axis: int, padding: int) -> jax.Array:
    """Pool one axis; window i covers pixels 2i - padding to 2i - padding + 2."""
    infinity = jnp.array(-jnp.inf, x.dtype)

    def pad(x: jax.Array, before: int, after: int) -> jax.Array:
        config = [(0, 0, 0)] * x.ndim
        config[axis] = (before, after, 0)
        return lax.pad(x, infinity, config)

    size = x.shape[axis]
    pairs = pad(x, 0, size % 2).reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :])
    even, odd = (lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in (0, 1))
    if padding:
        window = (pad(odd, 1, -1), even, odd)
    else:
        whole = size // 2 - even.shape[axis]
        window = (pad(even, 0, whole), pad(odd, 0, whole), pad(even, -1, 1 + whole))
    first, second, third = window
    first = jnp.where(first < second, second, first)
    return jnp.where(first < third, third, first)


def max_pool_2x2(x: jax.Array) -> jax.Array:
    """Take the 2x2 maximum with stride 2, [B, floor(H/2), floor(W/2), C].

    The gradient is as in `max_pool`.

    Raises:
        UserError: The image has only one row or column.
    """
    check_size(x, 2)
    for axis in (2, 1):
        first, second = _pairs(x, axis)
        x = jnp.where(first < second, second, first)
    return x


def average_pool_2x2(x: jax.Array) -> jax.Array:
    """Take the 2x2 mean with stride 2, [B, floor(H/2), floor(W/2), C].

    Raises:
        UserError: The image has only one row or column.
    """
    check_size(x, 2)
    for axis in (2, 1):
        first, second = _pairs(x, axis)
        x = (first + second) / 2
    return x


def _pairs(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Return the even and the odd pixels along an axis; of an odd number, the last is left out."""
    size = x.shape[axis] // 2
    x = lax.slice_in_dim(x, 0, 2 * size, axis=axis)
    x = x.reshape(*x.shape[:axis], size, 2, *x.shape[axis + 1 :])
    first, second = (lax.index_in_dim(x, i, axis + 1, keepdims=False) for i in (0, 1))
    return first, second


def global_average(x: jax.Array) -> jax.Array:
    """Return the mean over rows and columns, [B, H, W, C] to [B, C], float32."""
    return x.mean((1, 2), dtype=jnp.float32)


def global_max(x: jax.Array) -> jax.Array:
    """Return the maximum over rows and columns, [B, H, W, C] to [B, C].

    The gradient goes to the first of equal values. `x.max` divides its gradient by the number of
    pixels that equal the maximum. If XLA recomputes x for that with different rounding, there is
    none, and the gradient is NaN.
    """
    pixels = x.reshape(x.shape[0], -1, x.shape[-1])
    first = jnp.argmax(pixels, axis=1, keepdims=True)
    here = jnp.arange(pixels.shape[1])[:, None] == first
    return jnp.where(here, pixels, 0).sum(1)


def flatten(x: jax.Array) -> jax.Array:
    """Flatten [B, H, W, C] to [B, C H W], channel by channel, in PyTorch's order."""
    return jnp.moveaxis(x, -1, 1).reshape(x.shape[0], -1)


def check_size(x: jax.Array, least: int) -> None:
    """Raise UserError unless x [batch, height, width, channels] has `least` pixels each way."""
    height, width = x.shape[1:3]
    if min(height, width) < least:
        raise UserError(
            f"the input is too small for this network: a map of {height} x {width} px is left of "
            f"it where {least} x {least} px are needed; make the image (config.input.size), or the "
            "patch that the network cuts from it, larger"
        )


def observe(module: nn.Module, name: str, x: jax.Array) -> jax.Array:
    """Expose `x` and its gradient for explanations of a network; otherwise do nothing.

    `apply(..., mutable=["intermediates", "perturbations"])` returns `x` among the intermediates,
    and zeros of its shape among the perturbations; whatever is given as a perturbation is added.

    Args:
        module: Module within whose `__call__` this is called.
        name: Name of the value. `maps...`: the last maps before pooling, [batch, height, width,
            channels], of which there may be several; `evidence...`: maps before them, of finer
            cells, that explanations take in their place; `features`: the input of the heads,
            [batch, features].
        x: Value to expose.

    Returns:
        `x`, with the perturbation added.
    """
    if module.is_initializing():
        return x
    module.sow("intermediates", name, x)
    return module.perturb(name, x)


class Cells(NamedTuple):
    """Places of the cells of a map along an axis of the picture that a network reads.

    Attributes:
        first: Centre of the first cell, pixels; that of the first pixel is 0.5.
        step: Distance of the cells, pixels.
    """

    first: float = 0.5
    step: float = 1.0

    def after(self, side: int, stride: int = 1, pad: int = 0) -> "Cells":
        """Return the places after a convolution or pooling, by what lies before its first pixel."""
        return Cells(self.first + self.step * ((side - 1) / 2 - pad), self.step * stride)

    @staticmethod
    def evenly(size: int, count: int) -> "Cells":
        """Return `count` cells that share `size` pixels."""
        return Cells(size / count / 2, size / count)

    @staticmethod
    def halved(size: int, count: int) -> "Cells":
        """Return the places after layers of odd sides, padded alike before and behind.

        Each layer's first cell is centred on its first pixel, and so is that of the map, whatever
        the number of halvings that have left `count` of `size` pixels.
        """
        return Cells(step=next(step for n in range(64) if -(-size // (step := 2**n)) <= count))


def check_volume(image: jax.Array) -> None:
    """Raise UserError unless `image` is a batch of volumes, [batch, slices, rows, columns, 1]."""
    if image.ndim != 5 or image.shape[-1] != 1:
        raise UserError(
            "the network reads grey volumes, [batch, slices, rows, columns, 1], but was given "
            f"{list(image.shape)}; choose a data set of volumes, or another network"
        )


def choose(table: Mapping, name: Any, what: str) -> Any:
    """Return `table[name]`, or raise UserError with the choices if it is missing."""
    if name not in table:
        raise UserError(f"unknown {what} {name!r}; choose from: {', '.join(map(str, table))}")
    return table[name]
