import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from knee_jax.data import augment
from knee_jax.data.augment import Augmentation
from knee_jax.errors import UserError

PAPER = Augmentation(translation=10 / 320, rotation=5.0, scale=(0.95, 1.05))
STRONG = Augmentation(
    translation=0.1, rotation=30.0, scale=(0.7, 1.4), gamma=(0.5, 2.0), brightness=0.3, noise=0.1
)


def smooth_image(side, seed=0):
    noise = np.random.default_rng(seed).normal(size=(side, side))
    image = ndimage.gaussian_filter(noise, side / 20)
    return ((image - image.min()) / np.ptp(image)).astype(np.float32)


def scipy_resample(image, matrix, size):
    """The same map by SciPy, whose coordinates are pixel indices in the order (row, column)."""
    linear, offset = matrix[::-1, :2][:, ::-1], matrix[::-1, 2]
    offset = offset + linear @ (0.5, 0.5) - 0.5
    return ndimage.affine_transform(
        image, linear, offset, (size, size), order=1, mode="grid-constant"
    )


@pytest.mark.parametrize(("side", "size"), [(50, 50), (50, 64), (64, 41)])
@pytest.mark.parametrize(
    ("shift", "angle", "zoom"), [((0, 0), 0, 1), ((3.3, -7.1), 0.4, 1.2), ((-20, 30), -2.5, 0.6)]
)
def test_resampling_equals_scipy(side, size, shift, angle, zoom):
    image = smooth_image(side)
    matrix = augment.affine(jnp.array(shift, jnp.float32), angle, zoom, side, size)
    ours = augment.resample(jnp.asarray(image), matrix, size)
    theirs = scipy_resample(image.astype(np.float64), np.asarray(matrix, np.float64), size)
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_the_identity_map_returns_the_image():
    image = smooth_image(37)
    matrix = augment.affine(jnp.zeros(2), 0.0, 1.0, 37, 37)
    np.testing.assert_allclose(augment.resample(jnp.asarray(image), matrix, 37), image, atol=1e-6)


def test_directions_of_shift_rotation_and_scale():
    """A point right of the centre: shifted down, turned clockwise, and moved outwards."""
    point = jnp.array([[80.0, 50.0]])

    def moved(shift, angle, zoom):
        matrix = augment.affine(jnp.array(shift, jnp.float32), angle, zoom, 100, 100)
        return augment.map_points(matrix, point)[0]

    np.testing.assert_allclose(moved((0, 10), 0.0, 1.0), (80, 60), atol=1e-4)
    np.testing.assert_allclose(moved((0, 0), np.pi / 2, 1.0), (50, 80), atol=1e-4)
    np.testing.assert_allclose(moved((0, 0), 0.0, 1.5), (95, 50), atol=1e-4)


@pytest.mark.parametrize("augmentation", [Augmentation(), PAPER, STRONG])
@pytest.mark.parametrize(("side", "size"), [(350, 320), (350, 160), (224, 112), (224, 75)])
def test_keypoints_follow_the_picture(augmentation, side, size):
    """A blob at a keypoint is found at the moved keypoint."""
    y, x = np.mgrid[:side, :side] + 0.5
    rng = np.random.default_rng(0)
    geometry = Augmentation(augmentation.translation, augmentation.rotation, augmentation.scale)
    for seed, centre in enumerate(rng.uniform(0.4 * side, 0.6 * side, (4, 2))):
        blob = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * (side / 40) ** 2))
        image = np.round(255 * blob).astype(np.uint8)
        pixels, points = augment.view(
            jnp.asarray(image),
            jnp.asarray(centre[None], jnp.float32),
            jax.random.key(seed),
            size,
            geometry,
        )
        pixels = np.asarray(pixels, np.float64)
        out_y, out_x = np.mgrid[:size, :size] + 0.5
        found = np.array([(pixels * out_x).sum(), (pixels * out_y).sum()]) / pixels.sum()
        np.testing.assert_allclose(found, points[0], atol=0.05)


def test_shrinking_keeps_the_mean_of_fine_texture():
    """Point sampling of a checkerboard would keep one colour; area means give grey."""
    image = (np.indices((224, 224)).sum(0) % 2 * 255).astype(np.uint8)
    pixels, _ = augment.view(
        jnp.asarray(image), jnp.zeros((1, 2)), jax.random.key(0), 112, Augmentation()
    )
    np.testing.assert_allclose(pixels, 0.5, atol=1e-6)


def intensities(augmentation, level=128, seeds=200, side=16):
    image = jnp.full((side, side), level, jnp.uint8)
    draw = jax.vmap(lambda key: augment.view(image, jnp.zeros((1, 2)), key, side, augmentation)[0])
    return np.asarray(draw(jax.random.split(jax.random.key(0), seeds)))


def test_gamma_is_an_exponent_within_its_range():
    values = intensities(Augmentation(gamma=(0.5, 2.0)))
    exponents = np.log(values[:, 3, 3]) / np.log(128 / 255)
    assert exponents.min() >= 0.5 - 1e-4
    assert exponents.max() <= 2.0 + 1e-4
    assert exponents.mean() == pytest.approx(1.25, abs=0.1)
    assert np.ptp(values, axis=(1, 2)).max() < 1e-6


def test_brightness_scales_within_its_range():
    factors = intensities(Augmentation(brightness=0.3))[:, 3, 3] / (128 / 255)
    assert factors.min() >= 0.7 - 1e-5
    assert factors.max() <= 1.3 + 1e-5
    assert factors.std() == pytest.approx(0.6 / np.sqrt(12), rel=0.15)


def test_noise_has_the_named_deviation_and_no_mean():
    noise = intensities(Augmentation(noise=0.1)) - 128 / 255
    assert noise.mean() == pytest.approx(0, abs=2e-3)
    assert noise.std() == pytest.approx(0.1, rel=0.02)
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.25


def test_ranges_of_shift_rotation_and_scale_are_reached_and_kept():
    """Read back from how a pair of keypoints moves."""
    pair = jnp.array([[100.0, 160.0], [220.0, 160.0]])
    image = jnp.zeros((320, 320), jnp.uint8)
    _, points = jax.vmap(lambda key: augment.view(image, pair, key, 320, PAPER))(
        jax.random.split(jax.random.key(1), 500)
    )
    arm = np.asarray(points[:, 1] - points[:, 0], np.float64)
    zoom = np.hypot(*arm.T) / 120
    angle = np.rad2deg(np.arctan2(arm[:, 1], arm[:, 0]))
    shift = np.asarray(points.mean(1)) - 160
    assert abs(np.corrcoef(shift.T)[0, 1]) < 0.2
    ranges = ((zoom, 0.95, 1.05), (angle, -5, 5), (shift[:, 0], -10, 10), (shift[:, 1], -10, 10))
    for values, low, high in ranges:
        span = high - low
        assert low - 1e-3 <= values.min() < low + 0.05 * span
        assert high - 0.05 * span < values.max() <= high + 1e-3


def make_batch(size=8, side=32):
    rng = np.random.default_rng(0)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (size, side, side), dtype=np.uint8)),
        "keypoints": jnp.asarray(rng.uniform(0, side, (size, 74, 2)), jnp.float32),
    }


def test_views_depend_on_the_slot_and_the_key_only():
    batch, key = make_batch(), jax.random.key(5)
    images, keypoints = augment.views(batch, key, 32, (0.5, 0.25), STRONG)
    assert images.shape == (8, 32, 32, 1)
    assert keypoints.shape == (8, 74, 2)
    half = {name: value[:4] for name, value in batch.items()}
    np.testing.assert_array_equal(augment.views(half, key, 32, (0.5, 0.25), STRONG)[0], images[:4])
    other = augment.views(batch, jax.random.key(6), 32, (0.5, 0.25), STRONG)[0]
    assert (other != images).any(axis=(1, 2, 3)).all()


def test_every_slot_of_a_batch_is_augmented_in_its_own_way():
    one = {name: value[:1] for name, value in make_batch().items()}
    same = {name: jnp.repeat(value, 8, axis=0) for name, value in one.items()}
    images, keypoints = augment.views(same, jax.random.key(0), 32, (0.5, 0.25), PAPER)
    for i in range(8):
        for j in range(i):
            assert (images[i] != images[j]).any()
            assert (keypoints[i] != keypoints[j]).any()


@pytest.mark.parametrize("field", ["scale", "gamma"])
@pytest.mark.parametrize("value", [(0.0, 1.0), (1.2, 0.8)])
def test_a_range_without_meaning_is_named(field, value):
    with pytest.raises(UserError, match=rf"augmentation.{field} = \({value[0]}, {value[1]}\)"):
        Augmentation(**{field: value})


def test_views_are_normalised():
    batch = make_batch(side=64)
    raw = np.asarray(batch["image"], np.float64) / 255
    images, _ = augment.views(batch, jax.random.key(0), 64, (raw.mean(), raw.std()), Augmentation())
    assert float(images.mean()) == pytest.approx(0, abs=1e-4)
    assert float(images.std()) == pytest.approx(1, abs=1e-4)
