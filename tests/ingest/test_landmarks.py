import numpy as np
import pytest

from knee_jax.errors import UnusableKnee
from knee_jax.ingest.landmarks import read_landmarks

SIZE = (320.0, 200.0)


def test_left_knee_is_on_the_film_as_it_is(make, tmp_path):
    points = make.on_film((230.0, 100.0), "L")
    make.write_points(tmp_path / "001.pts", points)
    np.testing.assert_array_equal(read_landmarks(tmp_path / "001", "L", SIZE), points)


def test_right_knee_is_on_the_mirrored_film(make, tmp_path):
    points = make.on_film((90.0, 100.0), "R")
    make.write_points(tmp_path / "001_f.pts", points * (-1, 1) + (SIZE[0], 0))
    np.testing.assert_allclose(read_landmarks(tmp_path / "001", "R", SIZE), points, atol=1e-12)


def with_nan(points):
    points[3, 1] = np.nan
    return points


BAD = {
    "landmarks_count": lambda points: points[:73],
    "landmarks_nan": with_nan,
    "landmarks_outside": lambda points: points + np.array([60, 0]),
    "landmarks_reversed": lambda points: points * (-1, 1) + (320, 0),
    "landmarks_implausible": lambda points: points * 0.2,
}


@pytest.mark.parametrize("reason", BAD)
def test_unusable(make, tmp_path, reason):
    make.write_points(tmp_path / "001.pts", BAD[reason](make.on_film((230.0, 100.0), "L")))
    with pytest.raises(UnusableKnee, match=r"001\.pts") as caught:
        read_landmarks(tmp_path / "001", "L", SIZE)
    assert caught.value.reason == reason


def test_missing(tmp_path):
    with pytest.raises(UnusableKnee, match=r"001_f\.pts") as caught:
        read_landmarks(tmp_path / "001", "R", SIZE)
    assert caught.value.reason == "no_landmarks"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"version: 1\nn_points: 74\n",
        b"{\n1 2\n3\n}",
        b"{\n1 2\nx y\n}",
        b"{\n1 2 3\n4 5 6\n}",
        b"{\n\n}",
        bytes(range(256)),
    ],
)
def test_unreadable(tmp_path, content):
    (tmp_path / "001.pts").write_bytes(content)
    with pytest.raises(UnusableKnee) as caught:
        read_landmarks(tmp_path / "001", "L", SIZE)
    assert caught.value.reason == "landmarks_unreadable"
