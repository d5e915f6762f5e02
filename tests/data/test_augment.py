import dataclasses
import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from knee_jax import targets
from knee_jax.config import fields, load
from knee_jax.config.schema import Input
from knee_jax.data import augment
from knee_jax.data.augment import Affine, RandomCrop
from knee_jax.errors import UserError
from knee_jax.models.keypoint_pooling import bilinear_pool
from knee_jax.targets.grades import GRADES

# Seventy small programs, most of whose time is compiling.
pytestmark = pytest.mark.usefixtures("few_optimisations")

PAPER = Affine(translation=10 / 320, rotation=5.0, scale=(0.95, 1.05))
STRONG = Affine(
    translation=0.1, rotation=30.0, scale=(0.7, 1.4), gamma=(0.5, 2.0), brightness=0.3, noise=0.1
)
GEOMETRY = RandomCrop(noise_probability=0, gamma_probability=0)


def small(crop, canvas=33):
    return dataclasses.replace(crop, canvas=canvas)


def build(config, size=300):
    """Make the augmentation of a config's part for inputs of a size."""
    options = dict(config)
    made = fields.build(augment.find(options.pop("name", None)), options, "config.augmentation")
    augment.check_input(made, Input(size=size))
    return made


def draw(augmentation, image, points, seeds, size, channels=1):
    """Return inputs [seeds, size, size, channels] of one image under many keys, and keypoints."""

    def one(key):
        return augmentation.training_input(
            jnp.asarray(image), jnp.asarray(points, jnp.float32), key, size, channels
        )

    return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), seeds))


@functools.cache
def compiled_inputs(augmentation, size=32, channels=1, *, statistics=(0.5, 0.25), train=True):
    """Return the compiled (batch, key) → inputs."""
    return jax.jit(
        functools.partial(
            augment.make_inputs,
            size=size,
            statistics=statistics,
            augmentation=augmentation,
            train=train,
            channels=channels,
        )
    )


def evaluation_input(augmentation, image, points, size, channels=1):
    make = jax.jit(augmentation.evaluation_input, static_argnums=(2, 3))
    return make(jnp.asarray(image), jnp.asarray(points, jnp.float32), size, channels)


def draw_points(augmentation, side, points, seeds, size):
    """Return the keypoints alone, which takes no resampling."""
    image = jnp.zeros((side, side), jnp.uint8)

    def one(key):
        return augmentation.training_input(image, jnp.asarray(points), key, size, 1)[1]

    keys = jax.random.split(jax.random.key(1), seeds)
    return np.asarray(jax.jit(jax.vmap(one))(keys), np.float64)


# ---- Keypoints, in either augmentation ----


@pytest.mark.parametrize("augmentation", [PAPER, STRONG])
@pytest.mark.parametrize(("side", "size"), [(350, 320), (224, 75)])
def test_keypoints_follow_the_picture(augmentation, side, size):
    """A blob at a keypoint is found at the moved keypoint."""
    geometry = Affine(augmentation.translation, augmentation.rotation, augmentation.scale)
    assert_blob_is_followed(geometry, side, size)


@pytest.mark.parametrize(("side", "size"), [(350, 300), (224, 112)])
def test_keypoints_follow_a_random_crop(side, size):
    assert_blob_is_followed(small(GEOMETRY, round(size * 31 / 30)), side, size)


def assert_blob_is_followed(geometry, side, size):
    y, x = np.mgrid[:side, :side] + 0.5
    centre = np.random.default_rng(side).uniform(0.45 * side, 0.55 * side, 2)
    blob = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * (side / 40) ** 2))
    pixels, points = draw(geometry, np.round(255 * blob).astype(np.uint8), centre[None], 4, size)
    pixels = np.asarray(pixels[..., 0], np.float64)
    out_y, out_x = np.mgrid[:size, :size] + 0.5
    found = np.stack([(pixels * out_x).sum((1, 2)), (pixels * out_y).sum((1, 2))], axis=-1)
    np.testing.assert_allclose(
        found / pixels.sum((1, 2))[:, None], np.asarray(points)[:, 0], atol=0.05
    )


def test_a_shift_is_a_fraction_of_the_input():
    centre = np.full((1, 2), 40.0)
    moved = draw_points(Affine(translation=0.25), 80, centre, 200, 20)
    assert 4.8 < np.abs(np.asarray(moved) - 10).max() <= 5.0001


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
    "augmentation",
    [PAPER, STRONG, RandomCrop(99), RandomCrop(128, rotation=30.0)],
    ids=["affine", "strong affine", "random_crop", "strong random_crop"],
)
def test_pooling_at_a_moved_point_returns_the_fields_value(augmentation, train):
    """A smooth field, read at any point, is the same before and after the augmentation."""
    if isinstance(augmentation, Affine):
        geometry = Affine(augmentation.translation, augmentation.rotation, augmentation.scale)
    else:
        geometry = RandomCrop(
            augmentation.canvas, rotation=augmentation.rotation, noise_probability=0,
            gamma_probability=0,
        )  # fmt: skip
    side, size, knees = 120, 96, 16

    def field(x, y):
        return 0.5 + 0.25 * np.sin(18 * x / side + 1) + 0.25 * np.cos(14 * y / side - 5 * x / side)

    y, x = np.mgrid[:side, :side] + 0.5
    points = np.random.default_rng(0).uniform(0.05 * side, 0.95 * side, (knees, 74, 2))
    batch = {
        "image": jnp.asarray(np.round(255 * np.tile(field(x, y), (knees, 1, 1))), jnp.uint8),
        "keypoints": jnp.asarray(points, jnp.float32),
    }
    inputs = compiled_inputs(geometry, size, statistics=(0.0, 1.0), train=train)
    images, moved = inputs(batch, jax.random.key(3))
    pooled = np.asarray(bilinear_pool(images, moved))[..., 0]
    inside = ((moved > 1) & (moved < size - 1)).all(axis=-1)
    assert inside.mean() > 0.55
    # A shift of half a pixel would change the field by up to 0.03.
    expected = field(points[..., 0], points[..., 1])
    np.testing.assert_allclose(pooled[inside], expected[inside], atol=0.012)
    assert np.abs(pooled - expected)[inside].mean() < 0.003


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("augmentation", [STRONG, RandomCrop(33)])
def test_missing_keypoints_stay_missing(augmentation, train):
    batch = make_batch()
    batch["keypoints"] = batch["keypoints"].at[1].set(jnp.nan)
    images, keypoints = compiled_inputs(augmentation, train=train)(batch, jax.random.key(0))
    assert np.isfinite(images).all()
    assert np.isfinite(keypoints[0]).all()
    assert np.isnan(keypoints[1]).all()


# ---- affine ----


def test_shrinking_keeps_the_mean_of_fine_texture():
    """Point sampling of a checkerboard would keep one colour; area means give grey."""
    image = (np.indices((224, 224)).sum(0) % 2 * 255).astype(np.uint8)
    for augmentation in (Affine(), RandomCrop(canvas=112)):
        pixels, _ = evaluation_input(augmentation, image, np.zeros((1, 2)), 112)
        np.testing.assert_allclose(pixels, 0.5, atol=0.5 / 255)


def intensities(augmentation, level=128, seeds=200, side=12):
    image = np.full((side, side), level, np.uint8)
    return np.asarray(draw(augmentation, image, np.zeros((1, 2)), seeds, side)[0][..., 0])


def test_gamma_is_an_exponent_within_its_range():
    values = intensities(Affine(gamma=(0.5, 2.0)))
    exponents = np.log(values[:, 3, 3]) / np.log(128 / 255)
    assert exponents.min() >= 0.5 - 1e-4
    assert exponents.max() <= 2.0 + 1e-4
    assert exponents.mean() == pytest.approx(1.25, abs=0.1)
    assert np.ptp(values, axis=(1, 2)).max() < 1e-6


def test_brightness_scales_within_its_range():
    factors = intensities(Affine(brightness=0.3))[:, 3, 3] / (128 / 255)
    assert factors.min() >= 0.7 - 1e-5
    assert factors.max() <= 1.3 + 1e-5
    assert factors.std() == pytest.approx(0.6 / np.sqrt(12), rel=0.15)


def test_the_draws_of_older_configs_are_what_they_were():
    """Six keys, of which contrast has none; and nothing saturates without it."""
    factors = intensities(Affine(brightness=0.3), level=250)[:, 3, 3] / (250 / 255)
    keys = jax.vmap(lambda key: jax.random.split(key, 6)[4])(
        jax.random.split(jax.random.key(0), 200)
    )
    drawn = jax.vmap(lambda key: jax.random.uniform(key, minval=-1, maxval=1))(keys)
    np.testing.assert_allclose(factors, 1 + 0.3 * np.asarray(drawn), rtol=1e-5)
    assert factors.max() > 1.25


def test_brightness_and_contrast_are_pillows():
    """Both factors are read back from three grey levels; Pillow then repeats the steps."""
    from PIL import Image, ImageEnhance

    image = knee_like(48)
    image[20:28, 20:28], image[:8, :8], image[:8, -8:] = 0, 90, 130
    pixels, _ = draw(Affine(brightness=0.3, contrast=0.3), image, np.zeros((1, 2)), 40, 48)
    saturated = 0
    for ours in np.asarray(pixels[..., 0], np.float64):
        light, dark = ours[4, 44], ours[4, 4]
        slope = (light - dark) / (40 / 255)  # Brightness times contrast.
        candidates = []
        for brightness in np.linspace(0.7, 1.3, 601):
            bright = np.clip(brightness * image / 255, 0, 1)
            contrast = slope / brightness
            level = bright.mean() + contrast * (bright[4, 4] - bright.mean())
            candidates.append((abs(level - dark), brightness, contrast))
        _, brightness, contrast = min(candidates)
        assert 0.69 < brightness < 1.31
        assert 0.69 < contrast < 1.31
        theirs = ImageEnhance.Brightness(Image.fromarray(image)).enhance(brightness)
        theirs = np.asarray(ImageEnhance.Contrast(theirs).enhance(contrast), np.float64)
        np.testing.assert_allclose(255 * ours, theirs, atol=2.5)
        assert ours.min() >= 0
        assert ours.max() <= 1
        saturated += (ours == 1).any() + (ours == 0).any()
    assert saturated > 10


def test_contrast_scales_deviations_within_its_range():
    image = np.tile(np.uint8([100, 150]), (12, 6))
    pixels = np.asarray(draw(Affine(contrast=0.3), image, np.zeros((1, 2)), 2000, 12)[0][..., 0])
    np.testing.assert_allclose(pixels.mean(axis=(1, 2)), 125 / 255, atol=1e-6)
    factors = (pixels[:, 3, 3] - pixels[:, 3, 2]) / (50 / 255)
    assert stats.kstest(factors, stats.uniform(0.7, 0.6).cdf).pvalue > 1e-3
    both = Affine(brightness=0.3, contrast=0.3)
    pixels = np.asarray(draw(both, image, np.zeros((1, 2)), 500, 12)[0][..., 0])
    brightness = pixels.mean(axis=(1, 2)) / (125 / 255)
    factors = (pixels[:, 3, 3] - pixels[:, 3, 2]) / (50 / 255) / brightness
    assert abs(np.corrcoef(brightness, factors)[0, 1]) < 0.15


def test_the_ranges_of_deepknee_can_be_configured():
    """Tiulpin et al. 2018: a crop of 300 px at offsets 6 to 20, so within 7 px of the middle."""
    config = {
        "name": "affine", "translation": 7 / 300, "rotation": 15.0, "gamma": (0.5, 3.0),
        "brightness": 0.3, "contrast": 0.3,
    }  # fmt: skip
    augmentation = build(config)
    points = draw_points(augmentation, 300, [[100.0, 150.0], [200.0, 150.0]], 1000, 300)
    arm, shift = points[:, 1] - points[:, 0], points.mean(axis=1) - 150
    angle = np.rad2deg(np.arctan2(arm[:, 1], arm[:, 0]))
    assert stats.kstest(angle, stats.uniform(-15, 30).cdf).pvalue > 1e-3
    for axis in range(2):
        assert stats.kstest(shift[:, axis], stats.uniform(-7, 14).cdf).pvalue > 1e-3
    images = np.asarray(draw(augmentation, knee_like(64), np.zeros((1, 2)), 64, 64)[0])
    assert images.min() >= 0
    assert images.max() <= 1


def test_noise_has_the_named_deviation_and_no_mean():
    noise = intensities(Affine(noise=0.1)) - 128 / 255
    assert noise.mean() == pytest.approx(0, abs=2e-3)
    assert noise.std() == pytest.approx(0.1, rel=0.02)
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.25


def test_ranges_of_shift_rotation_and_scale_are_reached_and_kept():
    """Read back from how a pair of keypoints moves."""
    points = draw_points(PAPER, 320, [[100.0, 160.0], [220.0, 160.0]], 500, 320)
    arm = points[:, 1] - points[:, 0]
    zoom = np.hypot(*arm.T) / 120
    angle = np.rad2deg(np.arctan2(arm[:, 1], arm[:, 0]))
    shift = points.mean(1) - 160
    assert abs(np.corrcoef(shift.T)[0, 1]) < 0.2
    ranges = ((zoom, 0.95, 1.05), (angle, -5, 5), (shift[:, 0], -10, 10), (shift[:, 1], -10, 10))
    for values, low, high in ranges:
        span = high - low
        assert low - 1e-3 <= values.min() < low + 0.05 * span
        assert high - 0.05 * span < values.max() <= high + 1e-3


def test_the_evaluation_input_is_the_plain_resize():
    image = np.random.default_rng(0).integers(0, 256, (60, 60), np.uint8)
    points = np.array([[0.0, 60.0], [15.0, 20.0]])
    pixels, moved = evaluation_input(STRONG, image, points, 50)
    expected = cv2.resize(image.astype(np.float32) / 255, (50, 50))
    np.testing.assert_allclose(pixels[..., 0], expected, atol=1e-3)
    np.testing.assert_allclose(moved, points * 50 / 60, atol=1e-4)


# ---- random_crop: against NumPy and OpenCV ----


def knee_like(side, seed=0):
    """Smooth grey shapes with fine texture, uint8 from about 40 to 250."""
    rng = np.random.default_rng(seed)
    smooth = cv2.GaussianBlur(rng.normal(size=(side, side)), (0, 0), side / 25)
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    return np.round(40 + 200 * smooth + rng.uniform(0, 10, smooth.shape)).astype(np.uint8)


def test_noise_is_blended_as_opencv_does():
    image = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
    normal = np.random.default_rng(1).normal(size=image.shape)
    noise = 255 * (normal - normal.min()) / (normal.max() - normal.min())
    for gain in (0.0, 0.1137, 0.2999):
        theirs = cv2.addWeighted(image, 1 - gain, noise.astype(np.uint8), gain, 0)
        ours = np.asarray(
            augment.blend_noise(jnp.asarray(image, jnp.float32), jnp.asarray(normal), gain)
        )
        np.testing.assert_array_equal(ours, np.round(ours))
        # Float32 falls to the other side of a half now and then.
        assert np.abs(ours - theirs).max() <= 1
        assert (ours != theirs).mean() < 2e-3


@pytest.mark.parametrize("gamma", [0.5, 0.77, 1.0001, 1.31, 1.5])
def test_gamma_is_the_look_up_table(gamma):
    exact = 255 * (np.arange(256) / 255.0) ** (1 / gamma)
    table = exact.astype(np.uint8)
    image = np.random.default_rng(0).permutation(np.arange(256, dtype=np.uint8)).reshape(16, 16)
    ours = np.asarray(augment.change_gamma(jnp.asarray(image, jnp.float32), gamma))
    theirs = cv2.LUT(image, table)
    # In float32 an entry that all but is a whole number may be cut off from the other side of it.
    clear = np.abs(exact - np.round(exact))[image] > 1e-3
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(ours[clear], theirs[clear])
    assert np.abs(ours - theirs).max() <= 1
    assert ours[image == 0] == 0
    assert ours[image == 255] == 255


def test_inputs_are_opencvs_resize_rotate_and_crop():
    """The draws are read back from three keypoints; OpenCV then repeats the steps."""
    side, canvas, size = 350, 310, 300
    image = knee_like(side)
    points = np.array([[175.0, 175.0], [275.0, 175.0], [175.0, 275.0]])
    pixels, moved = draw(GEOMETRY, image, points, 4, size)
    resized = cv2.resize(image, (canvas, canvas))
    for ours, (centre, right, below) in zip(np.asarray(pixels[..., 0]), np.asarray(moved)):
        angle = np.arctan2(*(right - centre)[::-1])
        np.testing.assert_allclose(
            below - centre, [centre[1] - right[1], right[0] - centre[0]], atol=1e-3
        )
        grown = round(canvas * (abs(np.cos(angle)) + abs(np.sin(angle))))
        matrix = cv2.getRotationMatrix2D((154.5, 154.5), -np.rad2deg(angle), 1)
        matrix[:, 2] += (grown - canvas) / 2
        rotated = cv2.warpAffine(resized, matrix, (grown, grown), flags=cv2.INTER_LINEAR)
        x, y = np.round(grown / 2 - centre).astype(int)
        theirs = rotated[y : y + size, x : x + size].astype(np.float64)
        assert theirs.shape == ours.shape
        difference = np.abs(255 * ours - theirs)
        assert difference.mean() < 0.6
        assert np.quantile(difference, 0.999) < 4
        np.testing.assert_allclose(255 * ours, np.round(255 * ours), atol=1e-3)


def test_angles_and_offsets_are_the_published_ones():
    """U(-10, 10) degrees; corners at int(U[0, 1) (grown - 300)), so shifts up to 29 px."""
    points = draw_points(RandomCrop(), 350, [[175.0, 175.0], [275.0, 175.0]], 4000, 300)
    centre, arm = points[:, 0], points[:, 1] - points[:, 0]
    np.testing.assert_allclose(np.hypot(*arm.T), 100 * 310 / 350, rtol=1e-4)
    angle = np.arctan2(arm[:, 1], arm[:, 0])
    assert stats.kstest(np.rad2deg(angle), stats.uniform(-10, 20).cdf).pvalue > 1e-3
    grown = np.round(310 * (np.abs(np.cos(angle)) + np.abs(np.sin(angle))))
    assert (grown.min(), grown.max()) == (310, 359)
    offset = grown[:, None] / 2 - centre
    np.testing.assert_allclose(offset, np.round(offset), atol=2e-3)
    offset, room = np.round(offset), grown[:, None] - 300
    assert (offset >= 0).all()
    assert (offset < room).all()
    # The whole numbers below `room` are equally likely: a draw inside each makes it uniform again.
    inside = (offset + np.random.default_rng(0).uniform(size=offset.shape)) / room
    for axis in range(2):
        assert stats.kstest(inside[:, axis], "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(inside.T)[0, 1]) < 0.06
    assert abs(np.corrcoef(angle, inside[:, 0])[0, 1]) < 0.06
    assert np.abs(centre - 150).max() == pytest.approx(29.5, abs=2)


def test_noise_comes_with_its_probability_and_gain():
    image = np.zeros((16, 16), np.uint8)
    noisy = RandomCrop(canvas=16, rotation=0, gamma_probability=0)
    values = 255 * np.asarray(draw(noisy, image, np.zeros((1, 2)), 2000, 16)[0][..., 0])
    # The noise's brightest pixel is 255, so that the picture's brightest is the gain.
    gain = values.max(axis=(1, 2)) / 255
    assert (gain > 0).mean() == pytest.approx(0.5, abs=0.04)
    assert gain.max() == pytest.approx(0.3, abs=0.005)
    # Below half a grey level nothing is seen of it, and a level is 1 / 255.
    seen = gain[gain > 0] + np.random.default_rng(0).uniform(-0.5, 0.5, (gain > 0).sum()) / 255
    assert stats.kstest(seen, stats.uniform(0, 0.3).cdf).pvalue > 1e-3


def test_gamma_comes_with_its_probability_and_range():
    image = np.full((4, 4), 100, np.uint8)
    bent = RandomCrop(canvas=4, rotation=0, noise_probability=0)
    values = 255 * np.asarray(draw(bent, image, np.zeros((1, 2)), 3000, 4)[0][:, 0, 0, 0])
    # Cut-off values stand for those up to the next whole number. Very few are 100 by chance.
    changed = np.round(values) != 100
    assert changed.mean() == pytest.approx(0.5, abs=0.04)
    level = np.round(values[changed]) + np.random.default_rng(0).uniform(size=changed.sum())
    gamma = np.log(100 / 255) / np.log(level / 255)
    assert 0.49 < gamma.min() < 0.52
    assert 1.47 < gamma.max() < 1.52
    assert stats.kstest(gamma, stats.uniform(0.5, 1).cdf).pvalue > 1e-3


def test_noise_and_gamma_come_independently():
    image = np.full((8, 8), 60, np.uint8)
    augmentation = RandomCrop(canvas=8, rotation=0, noise_gain=0.3, gamma=(1.5, 1.5))
    values = np.asarray(draw(augmentation, image, np.zeros((1, 2)), 2000, 8)[0][..., 0])
    noisy = np.ptp(values, axis=(1, 2)) > 0
    bent = values.min(axis=(1, 2)) > 70 / 255
    table = np.histogram2d(noisy, bent, bins=2)[0] / len(noisy)
    np.testing.assert_allclose(table, 0.25, atol=0.04)


def test_without_chance_the_crop_is_the_resized_roi():
    still = RandomCrop(canvas=300, noise_probability=0, rotation=0, gamma_probability=0)
    image = knee_like(350)
    pixels, _ = draw(still, image, np.zeros((1, 2)), 1, 300)
    theirs = np.round(cv2.resize(image.astype(np.float32), (300, 300)))
    difference = np.abs(np.round(255 * np.asarray(pixels[0, ..., 0])) - theirs)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


def test_evaluation_sees_the_centre_of_the_canvas():
    image = knee_like(350)
    points = np.array([[175.0, 175.0], [0.0, 350.0]])
    pixels, moved = evaluation_input(RandomCrop(), image, points, 300, 3)
    theirs = cv2.resize(image, (310, 310))[5:305, 5:305]
    for channel in range(3):
        assert np.abs(np.round(255 * np.asarray(pixels[..., channel])) - theirs).max() <= 1
    np.testing.assert_allclose(moved, [[150, 150], [-5, 305]], atol=1e-4)


# ---- Batches ----


def make_batch(size=8, side=32):
    rng = np.random.default_rng(0)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (size, side, side), dtype=np.uint8)),
        "keypoints": jnp.asarray(rng.uniform(0, side, (size, 74, 2)), jnp.float32),
    }


@pytest.mark.parametrize("augmentation", [STRONG, RandomCrop(33)])
def test_inputs_depend_on_the_slot_and_the_key_only(augmentation):
    batch, key = make_batch(), jax.random.key(5)
    inputs = compiled_inputs(augmentation)
    images, keypoints = inputs(batch, key)
    assert images.shape == (8, 32, 32, 1)
    assert keypoints.shape == (8, 74, 2)
    others = {name: value.at[4:].set(value[:4]) for name, value in batch.items()}
    np.testing.assert_array_equal(inputs(others, key)[0][:4], images[:4])
    other = inputs(batch, jax.random.key(6))[0]
    assert (other != images).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("augmentation", [STRONG, RandomCrop(33)])
def test_every_slot_of_a_batch_is_augmented_in_its_own_way(augmentation):
    one = {name: value[:1] for name, value in make_batch().items()}
    same = {name: jnp.repeat(value, 8, axis=0) for name, value in one.items()}
    images, keypoints = compiled_inputs(augmentation)(same, jax.random.key(0))
    for i in range(8):
        for j in range(i):
            assert (images[i] != images[j]).any()
            assert (keypoints[i] != keypoints[j]).any()


@pytest.mark.parametrize("augmentation", [STRONG, RandomCrop(33)])
def test_evaluation_depends_on_nothing_but_the_knee(augmentation):
    batch = make_batch()
    inputs = compiled_inputs(augmentation, train=False)
    ours = inputs(batch, jax.random.key(0))
    turned = {name: value[::-1] for name, value in batch.items()}
    for first, last in zip(ours, inputs(turned, jax.random.key(1))):
        np.testing.assert_array_equal(first, last[::-1])


@pytest.mark.parametrize("augmentation", [PAPER, small(GEOMETRY)])
def test_three_channels_are_the_grey_three_times(augmentation):
    images, _ = compiled_inputs(augmentation, channels=3)(make_batch(), jax.random.key(0))
    assert images.shape == (8, 32, 32, 3)
    np.testing.assert_array_equal(images[..., 0], images[..., 1])
    np.testing.assert_array_equal(images[..., 0], images[..., 2])


def test_channels_have_noise_of_their_own():
    black = np.zeros((32, 32), np.uint8)
    for augmentation in (
        Affine(noise=0.1),
        RandomCrop(canvas=32, rotation=0, noise_probability=1),
    ):
        (noise,) = np.asarray(draw(augmentation, black, np.zeros((1, 2)), 1, 32, channels=3)[0])
        correlation = np.corrcoef(noise.reshape(-1, 3).T)
        assert np.abs(correlation - np.eye(3)).max() < 0.12


def test_inputs_are_normalised():
    batch = make_batch(side=64)
    raw = np.asarray(batch["image"], np.float64) / 255
    inputs = compiled_inputs(Affine(), 64, statistics=(raw.mean(), raw.std()), train=False)
    images, _ = inputs(batch, jax.random.key(0))
    assert float(images.mean()) == pytest.approx(0, abs=1e-4)
    assert float(images.std()) == pytest.approx(1, abs=1e-4)


# ---- From a config ----


def test_a_config_names_its_augmentation():
    config = load.base()
    config.augmentation = load.augmentation("affine", rotation=5.0, scale=(0.95, 1.05))
    assert load.parse(config).augmentation == Affine(rotation=5.0, scale=(0.95, 1.05))
    config.augmentation = load.augmentation("random_crop")
    config.input.size = 300
    assert load.parse(config).augmentation == RandomCrop()
    assert build({"name": "random_crop", "gamma": [0.9, 1.2], "canvas": 66}, 64) == (
        RandomCrop(canvas=66, gamma=(0.9, 1.2))
    )


def test_the_defaults_are_the_papers():
    assert RandomCrop() == RandomCrop(310, 0.5, 0.3, 10.0, 0.5, (0.5, 1.5))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "crop"}, ".name = 'crop': .*choose from affine, random_crop, volume_crop"),
        ({"rotation": 5.0}, ".name = None: choose from affine, random_crop, volume_crop"),
        ({"name": "random_crop", "scale": (1, 1)}, " has no field 'scale': .*canvas, "),
        ({"name": "affine", "scale": (0.0, 1.0)}, r".scale = \(0.0, 1.0\): a .*2 numbers above 0"),
        ({"name": "affine", "gamma": (1.2, 0.8)}, r".gamma = \(1.2, 0.8\): .* must not decrease"),
        ({"name": "affine", "scale": 1.1}, ".scale = 1.1: a tuple of 2 numbers above 0"),
        ({"name": "affine", "rotation": -5.0}, ".rotation = -5.0: a number from 0 to 180"),
        ({"name": "affine", "contrast": 1.5}, ".contrast = 1.5: a number from 0 to 1"),
        ({"name": "affine", "noise": float("nan")}, ".noise = nan: a number from 0 to 1"),
        ({"name": "affine", "translation": "10"}, ".translation = '10': a number from 0 to 1"),
        ({"name": "random_crop", "canvas": 299}, ".canvas = 299: a whole number from 300 to 600"),
        ({"name": "random_crop", "canvas": 620}, ".canvas = 620: .* twice config.input.size"),
        ({"name": "random_crop", "canvas": 310.5}, ".canvas = 310.5: a whole number"),
        ({"name": "random_crop", "rotation": 91}, ".rotation = 91: a number from 0 to 90"),
        ({"name": "random_crop", "gamma": (0.0, 1.0)}, r".gamma = \(0.0, 1.0\): .* above 0"),
        ({"name": "random_crop", "noise_gain": 1.2}, ".noise_gain = 1.2: a number from 0 to 1"),
        ({"name": "random_crop", "noise_probability": 1.5}, ".noise_probability = 1.5: .* 0 to 1"),
        ({"name": "random_crop", "gamma_probability": -1}, ".gamma_probability = -1: .* 0 to 1"),
    ],
)
def test_what_has_no_meaning_is_named(config, message):
    with pytest.raises(UserError, match=f"config.augmentation{message}"):
        build(config)


def test_standardised_images_do_not_know_their_exposure():
    image = jax.random.uniform(jax.random.key(0), (3, 8, 9, 1))
    once = augment.standardise(image)
    np.testing.assert_allclose(once.mean((1, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(once.std((1, 2, 3)), 1, atol=1e-5)
    gain = jnp.array([0.2, 1.0, 7.0]).reshape(3, 1, 1, 1)
    np.testing.assert_allclose(augment.standardise(gain * image - 3), once, atol=1e-4)
    np.testing.assert_allclose(augment.standardise(jnp.full((1, 4, 4, 1), 0.7)), 0, atol=1e-6)


# ---- Erasing and mirroring ----


def test_erased_rectangles_have_their_sizes_and_their_probability():
    image = jnp.asarray(np.random.default_rng(0).random((40, 40)), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 400)
    found = jax.jit(jax.vmap(lambda key: augment.erase(image, key, 0.5)))(keys)
    changed = np.asarray(found != image)
    happened = changed.any((1, 2))
    assert happened.mean() == pytest.approx(0.5, abs=0.08)
    shares = changed[happened].mean((1, 2))
    assert shares.min() > 0.01
    assert shares.max() < 0.24
    for one, mask in zip(np.asarray(found)[happened], changed[happened], strict=True):
        np.testing.assert_array_equal(mask, mask.any(1)[:, None] & mask.any(0))
        np.testing.assert_allclose(one[mask], float(image.mean()), rtol=1e-5)


def test_mirrored_knees_are_the_mirrored_images_of_the_others():
    plain, mirroring = Affine(), Affine(mirror=0.5)
    batch, key = make_batch(size=64), jax.random.key(3)
    images, _ = compiled_inputs(plain)(batch, key)
    found, _ = compiled_inputs(mirroring)(batch, key)
    mirrored = np.asarray(augment.are_mirrored(mirroring, key, 64))
    assert 0.3 < mirrored.mean() < 0.7
    np.testing.assert_array_equal(found[~mirrored], images[~mirrored])
    np.testing.assert_array_equal(found[mirrored], np.asarray(images)[mirrored][:, :, ::-1])
    assert augment.are_mirrored(plain, key, 64) is None
    evaluated, _ = compiled_inputs(mirroring, train=False)(batch, key)
    np.testing.assert_array_equal(evaluated, compiled_inputs(plain, train=False)(batch, key)[0])


def test_lateral_and_medial_labels_of_mirrored_knees_are_exchanged():
    grades = targets.get_all(GRADES)
    labels = {grade: jnp.array([10 * i, 10 * i + 1]) for i, grade in enumerate(GRADES)}
    found = augment.mirror_labels(labels, grades, jnp.array([True, False]))
    opposite = {"kl": "kl", "osfl": "osfm", "ostl": "ostm", "jsl": "jsm"}
    opposite |= {b: a for a, b in opposite.items()}
    for grade in GRADES:
        assert found[grade].tolist() == [labels[opposite[grade]][0], labels[grade][1]]
