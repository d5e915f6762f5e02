import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from knee_jax.errors import UserError
from knee_jax.models import layers


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize(
    ("side", "stride", "height", "width", "inputs", "padding"),
    [
        (1, 1, 9, 8, 6, None),
        (1, 2, 9, 8, 6, None),
        (1, 1, 9, 8, 3, None),
        (3, 1, 10, 7, 5, None),
        (3, 2, 11, 8, 5, None),
        (7, 2, 21, 24, 1, None),
        (1, 1, 9, 8, 6, 1),
        (3, 1, 10, 7, 5, 0),
        (3, 2, 11, 7, 5, 0),
        (3, 2, 10, 8, 5, 0),
        (3, 2, 11, 8, 1, 0),
        (3, 1, 3, 3, 5, 0),
        (5, 3, 13, 16, 2, 1),
    ],
)
def test_every_form_of_the_convolution_is_the_native_one(
    monkeypatch, side, stride, height, width, inputs, padding
):
    """Values and both gradients, on the CPU's path and on that of the other back ends."""
    x = normal(0, 3, height, width, inputs)
    conv = layers.Conv(4, side, stride, padding=padding)
    variables = conv.init(jax.random.key(0), x)
    kernel = variables["params"]["kernel"]
    assert kernel.shape == (side, side, inputs, 4)
    results = {}
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        y, vjp = jax.vjp(lambda k, x: conv.apply({"params": {"kernel": k}}, x), kernel, x)
        results[backend] = (y, *vjp(normal(1, *y.shape)))
    pad = (side - 1) // 2 if padding is None else padding
    reference = nn.Conv(4, (side, side), stride, ((pad, pad), (pad, pad)), use_bias=False)
    y, vjp = jax.vjp(lambda k, x: reference.apply({"params": {"kernel": k}}, x), kernel, x)
    for result in results.values():
        for actual, desired in zip(result, (y, *vjp(normal(1, *y.shape))), strict=True):
            scale = float(jnp.abs(desired).max())
            np.testing.assert_allclose(actual, desired, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize(
    ("channels", "features", "groups", "stride", "convolutions"),
    [
        (32, 32, 8, 1, 1),
        (64, 128, 32, 2, 2),
        (96, 96, 3, 2, 3),
        (80, 40, 20, 1, 2),
        (1024, 32, 32, 1, 16),
    ],
)
def test_grouped_convolution_on_the_cpu_is_the_native_one(
    channels, features, groups, stride, convolutions
):
    x = normal(0, 2, 7, 6, channels)
    conv = layers.Conv(features, 3, stride, groups=groups, initial=layers.torch_uniform)
    kernel = conv.init(jax.random.key(0), x)["params"]["kernel"]
    assert kernel.shape == (3, 3, channels // groups, features)
    reference = nn.Conv(
        features, (3, 3), stride, ((1, 1), (1, 1)), feature_group_count=groups, use_bias=False
    )
    results = []
    for module in (conv, reference):

        def apply(kernel, x, module=module):
            return module.apply({"params": {"kernel": kernel}}, x)

        y, vjp = jax.vjp(apply, kernel, x)
        results.append((y, *vjp(normal(1, *y.shape))))
    for actual, desired in zip(*results, strict=True):
        scale = float(jnp.abs(desired).max())
        np.testing.assert_allclose(actual, desired, rtol=0, atol=1e-5 * scale)
    text = str(jax.make_jaxpr(lambda x: conv.apply({"params": {"kernel": kernel}}, x))(x))
    assert text.count("conv_general_dilated[") == convolutions


def test_grouped_convolution_is_xlas_own_on_other_back_ends(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    x = normal(0, 1, 4, 4, 64)
    conv = layers.Conv(64, 3, groups=32)
    kernel = {"params": {"kernel": normal(1, 3, 3, 2, 64)}}
    text = str(jax.make_jaxpr(lambda x: conv.apply(kernel, x))(x))
    assert text.count("conv_general_dilated[") == 1
    assert "feature_group_count=32" in text


def test_bfloat16_convolution_keeps_float32_parameters_and_gradients():
    x = normal(0, 2, 8, 8, 3)
    conv = layers.Conv(4, 3, dtype="bfloat16")
    variables = conv.init(jax.random.key(0), x)
    gradient = jax.grad(lambda v: conv.apply(v, x).astype(jnp.float32).sum())(variables)
    exact = jax.grad(lambda v: layers.Conv(4, 3).apply(v, x).sum())(variables)
    assert conv.apply(variables, x).dtype == jnp.bfloat16
    assert gradient["params"]["kernel"].dtype == jnp.float32
    difference = jnp.abs(gradient["params"]["kernel"] - exact["params"]["kernel"]).max()
    assert difference < 0.02 * jnp.abs(exact["params"]["kernel"]).max()


@pytest.mark.parametrize("shape", [(2, 12, 8, 3), (1, 7, 9, 2), (1, 1, 2, 1), (3, 5, 4, 1)])
@pytest.mark.parametrize("decimals", [0, 6])
def test_max_pool_and_its_gradient_are_the_native_ones_also_with_ties(shape, decimals):
    x = jnp.round(normal(0, *shape), decimals)
    native, native_vjp = jax.vjp(lambda x: nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))), x)
    pooled, vjp = jax.vjp(layers.max_pool, x)
    np.testing.assert_array_equal(pooled, native)
    gradient = normal(1, *pooled.shape)
    np.testing.assert_allclose(vjp(gradient)[0], native_vjp(gradient)[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 12, 8, 3), (1, 7, 9, 2), (1, 2, 3, 1), (3, 5, 4, 1)])
@pytest.mark.parametrize("decimals", [0, 6])
def test_max_pool_without_padding_lets_windows_jut_out(shape, decimals):
    """As PyTorch's `ceil_mode`: the last window may hold one or two pixels in place of three."""
    x = jnp.round(normal(0, *shape), decimals)
    beyond = [(0, 1 - size % 2) for size in shape[1:3]]
    native, native_vjp = jax.vjp(lambda x: nn.max_pool(x, (3, 3), (2, 2), beyond), x)
    pooled, vjp = jax.vjp(lambda x: layers.max_pool(x, padding=0), x)
    np.testing.assert_array_equal(pooled, native)
    assert pooled.shape == (shape[0], shape[1] // 2, shape[2] // 2, shape[3])
    gradient = normal(1, *pooled.shape)
    np.testing.assert_allclose(vjp(gradient)[0], native_vjp(gradient)[0], rtol=1e-6, atol=1e-6)


def test_max_pool_of_negative_values_ignores_the_border():
    assert layers.max_pool(jnp.full((1, 3, 3, 1), -2.0)).max() == -2


@pytest.mark.parametrize("shape", [(2, 6, 4, 3), (1, 5, 3, 2)])
@pytest.mark.parametrize("decimals", [0, 6])
@pytest.mark.parametrize("kind", ["max", "average"])
def test_pools_of_two_pixels_are_the_native_ones(shape, decimals, kind):
    x = jnp.round(normal(0, *shape), decimals)
    native_pool = {"max": nn.max_pool, "average": nn.avg_pool}[kind]
    native, native_vjp = jax.vjp(lambda x: native_pool(x, (2, 2), (2, 2)), x)
    pooled, vjp = jax.vjp(getattr(layers, f"{kind}_pool_2x2"), x)
    np.testing.assert_allclose(pooled, native, rtol=1e-6, atol=1e-7)
    gradient = normal(1, *pooled.shape)
    np.testing.assert_allclose(vjp(gradient)[0], native_vjp(gradient)[0], rtol=1e-6, atol=1e-6)
    for small in ((1, 1, 5, 1), (1, 5, 1, 1)):
        with pytest.raises(UserError, match="too small for this network"):
            getattr(layers, f"{kind}_pool_2x2")(jnp.zeros(small))


def test_global_maximum_has_its_gradient_at_the_first_of_equal_values():
    x = jnp.round(normal(0, 3, 4, 5, 6))
    pooled, vjp = jax.vjp(layers.global_max, x)
    np.testing.assert_array_equal(pooled, x.max((1, 2)))
    gradient = normal(1, 3, 6)
    desired = np.zeros((3, 20, 6), np.float32)
    for b in range(3):
        for c in range(6):
            desired[b, np.argmax(x[b, :, :, c]), c] = gradient[b, c]
    np.testing.assert_array_equal(vjp(gradient)[0], desired.reshape(x.shape))


def test_flattening_goes_channel_by_channel():
    x = normal(0, 2, 3, 4, 5)
    np.testing.assert_array_equal(layers.flatten(x)[1], np.asarray(x)[1].transpose(2, 0, 1).ravel())


def test_batch_norm_normalises_by_biased_and_remembers_unbiased_variance():
    x = 3 + 2 * normal(0, 5, 2, 1, 4)
    norm = layers.BatchNorm()
    variables = norm.init(jax.random.key(0), x, train=True)
    np.testing.assert_array_equal(variables["batch_stats"]["var"], np.ones(4))
    y, state = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(y.var((0, 1, 2)), 1, rtol=1e-4)
    flat = np.asarray(x, np.float64).reshape(-1, 4)
    np.testing.assert_allclose(state["batch_stats"]["mean"], 0.1 * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(
        state["batch_stats"]["var"], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-5
    )


def test_batch_norm_has_the_gradient_of_its_definition():
    x, upstream = 5 + 2 * normal(0, 6, 5, 4, 3), normal(1, 6, 5, 4, 3)
    scale, bias = 1 + 0.3 * normal(2, 3), normal(3, 3)

    def by_definition(x, scale, bias):
        variance = ((x - x.mean((0, 1, 2))) ** 2).mean((0, 1, 2))
        return (x - x.mean((0, 1, 2))) / jnp.sqrt(variance + 1e-3) * scale + bias

    def by_layer(x, scale, bias):
        norm = layers.BatchNorm(epsilon=1e-3)
        variables = norm.init(jax.random.key(0), x, True)
        variables["params"] = {"scale": scale, "bias": bias}
        return norm.apply(variables, x, True, mutable=["batch_stats"])[0]

    y, pull = jax.vjp(by_layer, x, scale, bias)
    with jax.enable_x64(True):
        desired, pull_back = jax.vjp(
            by_definition, *(jnp.asarray(np.asarray(v), jnp.float64) for v in (x, scale, bias))
        )
        desired = (desired, *pull_back(jnp.asarray(np.asarray(upstream), jnp.float64)))
    for actual, expected in zip((y, *pull(upstream)), desired, strict=True):
        np.testing.assert_allclose(actual, np.asarray(expected), rtol=2e-5, atol=2e-5)
    half = jax.grad(lambda x: (by_layer(x, scale, bias) * upstream).sum())(x.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), np.asarray(desired[1]), atol=0.03)


def test_batch_norm_keeps_its_precision_far_from_zero():
    x = 1000 + normal(0, 64, 4, 4, 2)
    norm = layers.BatchNorm()
    y, _ = norm.apply(norm.init(jax.random.key(0), x, True), x, True, mutable=["batch_stats"])
    x64 = np.asarray(x, np.float64)
    expected = (x64 - x64.mean((0, 1, 2))) / np.sqrt(x64.var((0, 1, 2)) + 1e-5)
    np.testing.assert_allclose(y, expected, atol=1e-3)


def test_biases_are_added_and_have_their_initial_values():
    x = normal(0, 2, 6, 7, 3)
    conv = layers.Conv(8, 3, initial_bias=layers.torch_bias, dtype="bfloat16")
    params = conv.init(jax.random.key(0), x)["params"]
    assert params["bias"].shape == (8,)
    assert params["bias"].dtype == jnp.float32
    assert 0.5 * 27**-0.5 < np.abs(params["bias"]).max() <= 27**-0.5
    assert conv.apply({"params": params}, x).dtype == jnp.bfloat16
    conv = layers.Conv(8, 3, initial_bias=layers.constant_bias(0.1))
    params = conv.init(jax.random.key(0), x)["params"]
    np.testing.assert_array_equal(params["bias"], np.full(8, 0.1, "f4"))
    assert layers.constant_bias(0)(jax.random.key(0), (3, 5)).dtype == jnp.float32
    bare = layers.Conv(8, 3).apply({"params": {"kernel": params["kernel"]}}, x)
    np.testing.assert_allclose(conv.apply({"params": params}, x), bare + 0.1, rtol=1e-6)


def test_an_image_smaller_than_the_kernel_is_reported():
    with pytest.raises(
        UserError, match="a map of 2 x 9 px is left of it where 3 x 3 px are needed"
    ):
        layers.Conv(4, 3, padding=0).init(jax.random.key(0), jnp.zeros((1, 2, 9, 1)))


def test_initial_values_follow_torchvision():
    """Kaiming normal (fan out) for convolutions, U(-1/sqrt(in), 1/sqrt(in)) for linear layers."""
    x = jnp.zeros((1, 4, 4, 16))
    kernel = layers.Conv(64, 3).init(jax.random.key(0), x)["params"]["kernel"]
    assert float(kernel.std()) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)
    params = layers.Linear(500).init(jax.random.key(0), jnp.zeros((1, 16)))["params"]
    kernel = layers.torch_uniform(jax.random.key(1), (3, 3, 16, 64))
    for bound, value in ((1 / 4, params["kernel"]), (1 / 4, params["bias"]), (1 / 12, kernel)):
        assert 0.96 * bound < float(jnp.abs(value).max()) <= bound
        assert abs(float(value.mean())) < 0.12 * bound


def test_choose_lists_what_there_is():
    with pytest.raises(UserError, match="unknown fruit 'fig'; choose from: apple, pear"):
        layers.choose({"apple": 1, "pear": 2}, "fig", "fruit")
