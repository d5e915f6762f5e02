import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from knee_jax.data import geometry


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
    matrix = geometry.affine(jnp.array(shift, jnp.float32), angle, zoom, side, size)
    ours = geometry.resample(jnp.asarray(image), matrix, size)
    theirs = scipy_resample(image.astype(np.float64), np.asarray(matrix, np.float64), size)
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_the_identity_map_returns_the_image():
    image = smooth_image(37)
    matrix = geometry.affine(jnp.zeros(2), 0.0, 1.0, 37, 37)
    np.testing.assert_allclose(geometry.resample(jnp.asarray(image), matrix, 37), image, atol=1e-6)


def test_directions_of_shift_rotation_and_scale():
    """A point right of the centre: shifted down, turned clockwise, and moved outwards."""
    point = jnp.array([[80.0, 50.0]])

    def moved(shift, angle, zoom):
        matrix = geometry.affine(jnp.array(shift, jnp.float32), angle, zoom, 100, 100)
        return geometry.map_points(matrix, point)[0]

    np.testing.assert_allclose(moved((0, 10), 0.0, 1.0), (80, 60), atol=1e-4)
    np.testing.assert_allclose(moved((0, 0), np.pi / 2, 1.0), (50, 80), atol=1e-4)
    np.testing.assert_allclose(moved((0, 0), 0.0, 1.5), (95, 50), atol=1e-4)


def test_points_go_where_the_map_takes_them_from():
    matrix = geometry.affine(jnp.array([3.0, -4.0]), 0.7, 1.3, 64, 41)
    points = jnp.asarray(np.random.default_rng(0).uniform(-5, 70, (74, 2)), jnp.float32)
    found = np.asarray(geometry.map_points(matrix, points), np.float64)
    back = np.c_[found, np.ones(74)] @ np.asarray(matrix, np.float64).T
    np.testing.assert_allclose(back, points, atol=1e-4)


def test_a_missing_point_stays_missing_and_alone():
    matrix = geometry.affine(jnp.zeros(2), 0.3, 1.0, 50, 50)
    points = jnp.array([[10.0, 20.0], [jnp.nan, jnp.nan], [30.0, 5.0]])
    found = np.isnan(np.asarray(geometry.map_points(matrix, points)))
    np.testing.assert_array_equal(found, [[False] * 2, [True] * 2, [False] * 2])


def opencv_rotated_canvas(image, degrees):
    """The image rotated by OpenCV onto a canvas that holds all of it, centre to centre."""
    side = len(image)
    # OpenCV's angles are anticlockwise as seen, and its pixel centres are whole numbers.
    matrix = cv2.getRotationMatrix2D((side / 2 - 0.5, side / 2 - 0.5), -degrees, 1)
    corners = np.array([[0, 0], [side, 0], [0, side], [side, side]]) @ matrix[:, :2].T
    grown = round(np.ptp(corners[:, 0]))
    matrix[:, 2] += (grown - side) / 2
    return cv2.warpAffine(image, matrix, (grown, grown), flags=cv2.INTER_LINEAR)


@pytest.mark.parametrize("degrees", [0.0, 3.0, -7.5, 10.0, 40.0])
@pytest.mark.parametrize(("canvas", "size"), [(310, 300), (65, 40)])
def test_a_rotated_crop_is_opencvs_of_the_grown_canvas(degrees, canvas, size):
    image = smooth_image(canvas) + 0.2  # The corners of the frame stand out against the zeros.
    whole = opencv_rotated_canvas(image, degrees)
    angle = jnp.float32(np.deg2rad(degrees))
    assert float(geometry.rotated_side(angle, canvas)) == len(whole)
    for x, y in [(0, 0), (len(whole) - size, 0), ((len(whole) - size) // 2, 3)]:
        matrix = geometry.rotated_crop(angle, jnp.array([x, y], jnp.float32), canvas, size)
        ours = np.asarray(geometry.resample(jnp.asarray(image), matrix, size))
        theirs = whole[y : y + size, x : x + size]
        assert theirs.shape == (size, size)
        # OpenCV rounds where it samples to 1/32 px, which shows most on the frame's edge.
        np.testing.assert_allclose(ours, theirs, atol=0.05)
        assert np.abs(ours - theirs).mean() < 1e-3


def test_a_grown_canvas_has_black_corners():
    angle, image = jnp.float32(np.deg2rad(10)), jnp.ones((310, 310))
    matrix = geometry.rotated_crop(angle, jnp.zeros(2), 310, 300)
    dark = np.asarray(geometry.resample(image, matrix, 300)) == 0
    # The frame's first corner lies on the canvas' upper edge; beside it, on the left, is a whole
    # triangle of the canvas, and on the right another, which the crop ends in.
    corner = 310 * np.sin(np.deg2rad(10))
    left = corner * 310 * np.cos(np.deg2rad(10)) / 2
    right = (300 - corner) ** 2 * np.tan(np.deg2rad(10)) / 2
    assert dark.sum() == pytest.approx(left + right, rel=0.03)
    assert dark[0, 0]
    assert not dark[150, 150]


def test_block_means_keep_the_mean_of_fine_texture():
    """Point sampling of a checkerboard would keep one colour; area means give grey."""
    image = jnp.asarray(np.indices((224, 224)).sum(0) % 2, jnp.float32)
    np.testing.assert_allclose(geometry.resize(image, 112), 0.5, atol=1e-6)
    np.testing.assert_allclose(geometry.resize(image, 100), 0.5, atol=1e-6)


@pytest.mark.parametrize(("side", "size"), [(350, 310), (50, 50), (50, 73)])
def test_resizing_equals_opencv(side, size):
    image = np.random.default_rng(0).uniform(0, 255, (side, side)).astype(np.float32)
    ours = jax.jit(geometry.resize, static_argnums=1)(image, size)
    np.testing.assert_allclose(ours, cv2.resize(image, (size, size)), atol=2e-2)
