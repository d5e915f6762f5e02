import numpy as np
import pytest

from knee_jax.errors import UnusableKnee
from knee_jax.ingest.landmarks import check_orientation, check_place, read_landmarks

SIZE = (320.0, 200.0)
WIDTH = SIZE[0]


def test_left_knee_is_on_the_film_as_it_is(make, tmp_path):
    points = make.on_film((230.0, 100.0), "L")
    make.write_points(tmp_path / "001.pts", points)
    np.testing.assert_array_equal(read_landmarks(tmp_path, "001", "L", WIDTH), points)


def test_right_knee_is_on_the_mirrored_film(make, tmp_path):
    points = make.on_film((90.0, 100.0), "R")
    make.write_points(tmp_path / "001_f.pts", points * (-1, 1) + (WIDTH, 0))
    found = read_landmarks(tmp_path, "001", "R", WIDTH)
    np.testing.assert_allclose(found, points, atol=1e-12)


def test_files_apart_from_the_films_count(make, tmp_path):
    """Under `landmarks`, in the film's own folders; the file beside the film is the older one."""
    apart, beside = make.on_film((230.0, 100.0), "L"), make.on_film((231.0, 100.0), "L")
    for folder in ("", "landmarks"):
        (tmp_path / folder / "00m" / "9000001").mkdir(parents=True)
    make.write_points(tmp_path / "landmarks" / "00m" / "9000001" / "001.pts", apart)
    source = "00m/9000001/001"
    np.testing.assert_array_equal(read_landmarks(tmp_path, source, "L", WIDTH), apart)
    make.write_points(tmp_path / "00m" / "9000001" / "001.pts", beside)
    np.testing.assert_array_equal(read_landmarks(tmp_path, source, "L", WIDTH), apart)


def with_nan(points):
    points[3, 1] = np.nan
    return points


@pytest.mark.parametrize(
    ("reason", "change"),
    [("landmarks_count", lambda points: points[:73]), ("landmarks_nan", with_nan)],
)
def test_unusable(make, tmp_path, reason, change):
    make.write_points(tmp_path / "001.pts", change(make.on_film((230.0, 100.0), "L")))
    with pytest.raises(UnusableKnee, match=r"\*\.pts") as caught:
        read_landmarks(tmp_path, "001", "L", WIDTH)
    assert caught.value.reason == reason


def test_missing(tmp_path):
    with pytest.raises(UnusableKnee, match=r"\*_f\.pts is missing") as caught:
        read_landmarks(tmp_path, "001", "R", WIDTH)
    assert caught.value.reason == "no_landmarks"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"version: 1\nn_points: 74\n",
        b"{\n1 2\n3\n}",
        b"{\n1 2\nDoe Jane\n}",
        b"{\n1 2 3\n4 5 6\n}",
        b"{\n\n}",
        bytes(range(256)),
    ],
)
def test_unreadable(tmp_path, content):
    (tmp_path / "001.pts").write_bytes(content)
    with pytest.raises(UnusableKnee) as caught:
        read_landmarks(tmp_path, "001", "L", WIDTH)
    assert caught.value.reason == "landmarks_unreadable"
    assert "Doe" not in caught.value.detail


def test_a_folder_in_a_file_s_place(tmp_path):
    (tmp_path / "001.pts").mkdir()
    with pytest.raises(UnusableKnee) as caught:
        read_landmarks(tmp_path, "001", "L", WIDTH)
    # Neither where the study lies nor what the film is called.
    assert caught.value.detail == "*.pts: Is a directory"


class TestPlace:
    def test_a_knee(self, make):
        check_place(make.on_film((230.0, 100.0), "L"), SIZE)

    @pytest.mark.parametrize("shift", [(60, 0), (-200, 0), (0, 60), (0, -95)])
    def test_beyond_the_film(self, make, shift):
        with pytest.raises(UnusableKnee, match="320 x 200") as caught:
            check_place(make.on_film((230.0, 100.0), "L") + shift, SIZE)
        assert caught.value.reason == "landmarks_outside"

    @pytest.mark.parametrize("scale", [0.2, 5])
    def test_pixels_for_millimetres(self, make, scale):
        with pytest.raises(UnusableKnee, match="mm") as caught:
            check_place(make.on_film((230.0, 100.0), "L") * scale, SIZE)
        assert caught.value.reason == "landmarks_implausible"

    def test_unknown_points_are_not_checked(self):
        points = np.full((74, 2), np.nan)
        points[55] = 230, 100
        check_place(points, SIZE)
        points[55] = 330, 100
        with pytest.raises(UnusableKnee, match="landmarks_outside"):
            check_place(points, SIZE)


class TestOrientation:
    """A right knee at x = 90 and a left one at x = 230 of a film 320 mm wide."""

    def both(self, make, tilt=0.0):
        return {
            "R": make.on_film((90.0, 100.0), "R", tilt),
            "L": make.on_film((230.0, 100.0), "L", -tilt),
        }

    def reasons(self, points):
        return {side: each.reason for side, each in check_orientation(points, WIDTH).items()}

    @pytest.mark.parametrize("tilt", [-20, 0, 20])
    def test_as_it_should_be(self, make, tilt):
        both = self.both(make, tilt)
        assert not self.reasons(both)
        assert not self.reasons({"L": both["L"]})
        assert not self.reasons({})

    def test_a_film_upside_down(self, make):
        """Flipped or turned by half a turn: the femur is checked before the halves."""
        flipped = {side: knee * (1, -1) + (0, 200) for side, knee in self.both(make).items()}
        assert self.reasons(flipped) == {"R": "upside_down", "L": "upside_down"}
        turned = {side: knee * (-1, 1) + (WIDTH, 0) for side, knee in flipped.items()}
        assert self.reasons(turned) == {"R": "upside_down", "L": "upside_down"}

    def test_one_knee_upside_down_leaves_the_other(self, make):
        both = self.both(make)
        assert self.reasons(both | {"L": both["L"] * (1, -1) + (0, 200)}) == {"L": "upside_down"}

    def test_a_mirrored_film_or_swapped_sides(self, make):
        both = self.both(make)
        mirrored = {side: knee * (-1, 1) + (WIDTH, 0) for side, knee in both.items()}
        swapped = {"R": both["L"], "L": both["R"]}
        for points in (mirrored, swapped):
            assert self.reasons(points) == {"R": "sides_swapped", "L": "sides_swapped"}
        (wrong, _) = check_orientation(swapped, WIDTH).values()
        assert wrong.detail == (
            "the right knee is in the film's right half, the left knee is in the film's left half"
        )

    def test_the_same_knee_twice(self, make):
        right = self.both(make)["R"]
        assert self.reasons({"R": right, "L": right}) == {"R": "same_half", "L": "same_half"}

    @pytest.mark.parametrize("side", ["R", "L"])
    def test_one_knee_in_the_wrong_half(self, make, side):
        other = self.both(make)["L" if side == "R" else "R"]
        assert self.reasons({side: other}) == {side: "wrong_half"}

    @pytest.mark.parametrize("side", ["R", "L"])
    def test_lateral_and_medial_swapped(self, make, side):
        both = self.both(make)
        middle = both[side][55, 0]
        both[side] = both[side] * (-1, 1) + (2 * middle, 0)
        assert self.reasons(both) == {side: "landmarks_reversed"}

    def test_centres_alone(self, make):
        """As boxes tell: the halves are checked, and nothing else can be."""
        only = {side: np.where(np.arange(74)[:, None] == 55, knee, np.nan)
                for side, knee in self.both(make).items()}  # fmt: skip
        assert not self.reasons(only)
        swapped = {"R": only["L"], "L": only["R"]}
        assert self.reasons(swapped) == {"R": "sides_swapped", "L": "sides_swapped"}
