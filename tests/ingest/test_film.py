import numpy as np
import pandas as pd
import pytest
import scipy.ndimage

from knee_jax.ingest.dicom import Film, read_film
from knee_jax.ingest.film import Roi, cut_roi, intensity_window, roi_to_film
from tests.ingest.conftest import reason_of

BLOBS = (0, 20, 36, 40, 47, 55, 63, 70)
SIGMA_MM = 1.0


def blobs(points_mm, spacing, shape):
    """A film with a Gaussian blob at each point, peak 1, where pixel i spans [i, i + 1)."""
    height, width = shape
    x = (np.arange(width) + 0.5) * spacing[0]
    y = (np.arange(height) + 0.5) * spacing[1]
    gauss = lambda axis, at: np.exp(-np.square(axis - at) / (2 * SIGMA_MM**2))  # noqa: E731
    return sum(np.outer(gauss(y, py), gauss(x, px)) for px, py in points_mm)


def centroid(image, near, radius=9):
    x0, y0 = (int(v) - radius for v in near)
    part = image[y0 : y0 + 2 * radius + 1, x0 : x0 + 2 * radius + 1].astype(float)
    y, x = np.mgrid[: part.shape[0], : part.shape[1]]
    return np.array([(part * x).sum(), (part * y).sum()]) / part.sum() + (x0 + 0.5, y0 + 0.5)


SPACINGS = [(0.1, 0.1), (0.143, 0.143), (0.2, 0.2), (0.12, 0.19)]


class TestGeometry:
    @pytest.mark.parametrize("side", ["R", "L"])
    @pytest.mark.parametrize("tilt", [0.0, -9.1, 6.9])
    @pytest.mark.parametrize("spacing", SPACINGS)
    def test_keypoints_lie_on_what_they_mark(self, make, side, tilt, spacing):
        points = make.on_film((95.3, 80.9), side, tilt)
        shape = (round(160 / spacing[1]), round(190 / spacing[0]))
        pixels = (60000 * blobs(points[list(BLOBS)], spacing, shape)).astype(np.uint16)
        image, keypoints = cut_roi(Film(pixels, spacing), (0, 60000), points, side, Roi())
        assert image.shape == (350, 350)
        for index in BLOBS:
            found = centroid(image, keypoints[index])
            np.testing.assert_allclose(found, keypoints[index], atol=0.02)

    @pytest.mark.parametrize("side", ["R", "L"])
    def test_plateau_is_level_central_and_lateral_is_left(self, make, side):
        points = make.on_film((70.0, 60.0), side, 8.0)
        pixels = np.zeros((600, 900), np.uint16)
        film = Film(pixels, (0.2, 0.2))
        _, keypoints = cut_roi(film, (0, 1), points, side, Roi())
        np.testing.assert_allclose(keypoints[55], (175, 175), atol=1e-9)
        # 80 mm of plateau, level: 200 pixels of 0.4 mm about the centre.
        np.testing.assert_allclose(keypoints[47], (75, 175), atol=1e-9)
        np.testing.assert_allclose(keypoints[63], (275, 175), atol=1e-9)
        assert keypoints[18, 1] < 175 < keypoints[37, 1]

    @pytest.mark.parametrize("side", ["R", "L"])
    def test_tilt_is_kept_on_demand(self, make, side):
        points = make.on_film((70.0, 60.0), side, 8.0)
        film = Film(np.zeros((600, 900), np.uint16), (0.2, 0.2))
        _, keypoints = cut_roi(film, (0, 1), points, side, Roi(level_plateau=False))
        x, y = keypoints[63] - keypoints[47]
        assert np.degrees(np.arctan2(y, x)) == pytest.approx(8.0)

    def test_left_knee_is_the_mirror_image_of_the_right(self, make):
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 4096, (700, 900), np.uint16)
        points = make.on_film((82.0, 66.0), "R", 5.0)
        mirrored = points * (-1, 1) + (900 * 0.2, 0)
        right, of_right = cut_roi(Film(pixels, (0.2, 0.2)), (0, 4095), points, "R", Roi())
        film = Film(pixels[:, ::-1], (0.2, 0.2))
        left, of_left = cut_roi(film, (0, 4095), mirrored, "L", Roi())
        # OpenCV's interpolation steps are not symmetric: half a grey level, rounded.
        assert np.abs(right.astype(int) - left).max() <= 1
        np.testing.assert_allclose(of_right, of_left, atol=1e-9)

    @pytest.mark.parametrize(("size_mm", "pixels"), [(140, 350), (120, 300), (140, 320)])
    def test_size(self, make, size_mm, pixels):
        points = make.on_film((90.0, 80.0))
        roi = Roi(size_mm, pixels)
        matrix = roi_to_film(points, "R", roi)
        corners = matrix @ np.array([[0, pixels], [0, pixels], [1, 1]])
        np.testing.assert_allclose(corners[:, 1] - corners[:, 0], size_mm)
        np.testing.assert_allclose(corners.mean(axis=1), points[55])
        assert roi.spacing_mm == size_mm / pixels


@pytest.mark.real
def test_tilt_of_real_knees(request):
    """748 annotated knees: tilt -1.0 +- 2.4 degrees, plateau 79 +- 7.7 mm; level once cut."""
    path = request.config.rootpath.parent / "shared" / "data" / "kneel_landmarks_0.3mm.csv"
    if not path.is_file():
        pytest.skip("the real landmarks are not beside the project")
    film = Film(np.zeros((10, 10), np.uint16), (30.0, 30.0))
    tilts, widths = [], []
    for tibia in pd.read_csv(path)["tibia"]:
        points = np.zeros((74, 2))
        points[47:64:2] = np.array(tibia.split(","), float).reshape(9, 2) * 0.3
        (a, b, _), (c, d, _) = roi_to_film(points, "R", Roi())
        assert (a, c) == pytest.approx((d, -b))
        tilts.append(np.degrees(np.arctan2(c, a)))
        _, keypoints = cut_roi(film, (0, 1), points, "R", Roi(140, 35))
        assert keypoints[47, 1] == pytest.approx(keypoints[63, 1])
        widths.append((keypoints[63, 0] - keypoints[47, 0]) * 4)
    assert np.mean(tilts) == pytest.approx(-1.0, abs=0.05)
    assert np.std(tilts) == pytest.approx(2.4, abs=0.05)
    assert np.mean(widths) == pytest.approx(79, abs=0.5)
    assert np.std(widths) == pytest.approx(7.7, abs=0.1)


class TestResampling:
    @pytest.mark.parametrize("side", ["R", "L"])
    @pytest.mark.parametrize("spacing", [(0.1, 0.1), (0.15, 0.15), (0.2, 0.12), (0.4, 0.4)])
    @pytest.mark.parametrize(("blur", "tolerance"), [(0, 0.1), (1, 0.03)])
    def test_parity_with_scipy(self, make, side, spacing, blur, tolerance):
        """Area averages of noise by an independent resampler: 12 x 12 bilinear points a pixel.

        White noise is the hardest film there is; blurred by a pixel it is like real ones.
        """
        shape = (round(60 / spacing[1]), round(60 / spacing[0]))
        noise = np.random.default_rng(1).normal(size=shape)
        noise = scipy.ndimage.gaussian_filter(noise, blur)
        pixels = np.rint(noise / noise.std() * 10000 + 30000).clip(0, 65535).astype(np.uint16)
        points = make.on_film((30.0, 31.0), side, 6.0)
        roi = Roi(28, 70)
        image, _ = cut_roi(Film(pixels, spacing), (9000, 51000), points, side, roi)

        windowed = np.clip((pixels.astype(float) - 9000) / 42000 * 255, 0, 255)
        k = 12
        to_film = roi_to_film(points, side, roi) / np.array(spacing)[:, None]
        swap = np.array([[0, 1], [1, 0]])
        linear = swap @ to_film[:, :2] @ swap / k
        offset = swap @ to_film[:, 2] + linear @ np.full(2, 0.5) - 0.5
        fine = scipy.ndimage.affine_transform(windowed, linear, offset, (70 * k, 70 * k), order=1)
        expected = fine.reshape(70, k, 70, k).mean(axis=(1, 3))
        assert (image - expected).std() < tolerance * expected.std()
        assert abs((image - expected).mean()) < 0.1

    def test_stripes_keep_their_mean(self, make):
        """Stripes too fine for the ROI become their mean grey, not stripes of full contrast."""
        pixels = np.zeros((1700, 2000), np.uint16)
        pixels[:, ::3] = 3000
        points = make.on_film((100.0, 80.0))
        image, _ = cut_roi(Film(pixels, (0.1, 0.1)), (0, 3000), points, "R", Roi())
        # 4 film pixels lie under one of the ROI, one or two of them white.
        assert image.min() >= 255 / 4 - 1
        assert image.max() <= 255 / 2 + 1
        assert image.mean() == pytest.approx(255 / 3, abs=0.5)

    def test_black_beyond_the_film(self, make):
        pixels = np.full((400, 900), 5000, np.uint16)
        points = make.on_film((90.0, 20.0))
        image, _ = cut_roi(Film(pixels, (0.2, 0.2)), (0, 5000), points, "R", Roi())
        # The joint, 50 pixels of 0.4 mm below the film's upper edge, is in the middle, row 175.
        assert (image[:124] == 0).all()
        assert (image[126:320] == 255).all()

    def test_window(self, make):
        pixels = np.full((800, 900), 30, np.uint16)
        points = make.on_film((90.0, 80.0))
        film = Film(pixels, (0.2, 0.2))
        levels = [
            cut_roi(film, window, points, "R", Roi())[0] for window in ((0, 60), (30, 40), (0, 9))
        ]
        assert [int(level[175, 175]) for level in levels] == [128, 0, 255]


class TestWindow:
    def test_percentiles_of_the_whole_film(self):
        pixels = np.arange(10001, dtype=np.uint16).reshape(73, 137)
        assert intensity_window(pixels) == (500, 9900)

    def test_flat_film(self):
        flat = np.full((10, 10), 7, np.uint16)
        assert reason_of(intensity_window, flat) == "flat_image"

    def test_polarity_does_not_matter(self, make, tmp_path):
        """The same film as MONOCHROME1 and as MONOCHROME2 gives the same knee."""
        pixels = np.random.default_rng(2).integers(0, 4096, (300, 400), np.uint16)
        pixels[0, :2] = 0, 4095
        make.write(tmp_path / "2", make.dataset(pixels))
        inverted = make.dataset(4095 - pixels, PhotometricInterpretation="MONOCHROME1")
        make.write(tmp_path / "1", inverted)
        points = make.on_film((100.0, 75.0))
        films = [read_film(tmp_path / name) for name in "12"]
        images = [
            cut_roi(film, intensity_window(film.pixels), points, "R", Roi())[0] for film in films
        ]
        np.testing.assert_array_equal(*images)
