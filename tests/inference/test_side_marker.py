"""Letters of lead are read as they are and mirrored, in fonts other than those of the reader."""

import cv2
import matplotlib
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import pytest

from knee_jax.errors import UnusableKnee
from knee_jax.inference.side_marker import Letter, check, read
from tests.inference.drawn_knees import knee_at, picture

MM = (0.4, 0.4)


def letter(text, size=40, angle=0.0, font="DejaVuSans-Bold"):
    """A word of lead, cut out, uint8."""
    path = f"{matplotlib.get_data_path()}/fonts/ttf/{font}.ttf"
    page = PIL.Image.new("L", (60 + size * len(text), 120))
    PIL.ImageDraw.Draw(page).text((30, 30), text, 255, PIL.ImageFont.truetype(path, size))
    turn = cv2.getRotationMatrix2D((60, 60), angle, 1.0)
    return cv2.warpAffine(np.asarray(page), turn, page.size)


def film_with(shown, x=20, y=20, ground=40, film=None):
    """A grainy film with something of lead on it."""
    film = np.full((400, 600), ground) if film is None else film
    film = film + np.random.default_rng(0).normal(0, 5, film.shape)
    height, width = shown.shape
    part = film[y : y + height, x : x + width]
    part[:] = np.maximum(part, shown)
    return np.clip(film, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("name", ["R", "L"])
@pytest.mark.parametrize("ground", [0, 60, 110])
@pytest.mark.parametrize(("size", "angle"), [(28, 0.0), (40, 7.0), (60, -7.0)])
@pytest.mark.parametrize("font", ["DejaVuSans", "DejaVuSans-Bold"])
def test_letters_are_read_as_they_are_and_mirrored(font, size, angle, ground, name, mirrored):
    film = film_with(letter(name, size, angle, font), ground=ground)
    found = read(film[:, ::-1] if mirrored else film, MM)
    assert [(each.name, each.mirrored) for each in found] == [(name, mirrored)]
    assert (found[0].x > 0.5) == mirrored


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("name", "ABCDEFGHIKMNOPQSTUVWXYZ0123456789")
def test_other_characters_are_no_letters_of_a_side(name, mirrored):
    film = film_with(letter(name))
    assert read(film[:, ::-1] if mirrored else film, MM) == []


@pytest.mark.parametrize("text", ["LEFT", "RIGHT", "AP L KNEE", "R. LOW"])
def test_letters_of_words_say_nothing(text):
    assert read(film_with(letter(text)), MM) == []


def test_the_size_is_that_in_mm():
    film = film_with(letter("R"))
    assert read(film, MM) == read(film, MM)
    assert [each.name for each in read(film, (0.2, 0.2))] == ["R"]
    assert read(film, (2.0, 2.0)) == [], "a letter of 15 cm"
    wide = cv2.resize(film, (1200, 400))
    assert [each.name for each in read(wide, (0.2, 0.4))] == ["R"]


@pytest.fixture(scope="module")
def two_knees():
    grey, planted = picture(700, 900, [(160, 330, 160, "R"), (760, 350, 170, "L")])
    return grey, [knee_at(points, side) for points, side in zip(planted, "RL")]


def reason(film, knees):
    try:
        check(film, MM, knees)
    except UnusableKnee as error:
        return error.reason, error.detail
    return None


def test_letters_are_held_against_the_knees(two_knees):
    grey, knees = two_knees
    at = {"left": 0, "right": 820}

    def with_letter(name, where, film=grey):
        return film_with(letter(name)[:80, :80], at[where], 0, film=film)

    assert reason(grey, knees) is None
    assert reason(with_letter("R", "left"), knees) is None
    assert reason(with_letter("L", "right"), knees) is None
    for name, where in (("R", "right"), ("L", "left")):
        found, detail = reason(with_letter(name, where), knees)
        assert found == "side_mismatch"
        assert f"letter {name} " in detail
        flipped = np.ascontiguousarray(with_letter(name, where)[:, ::-1])
        found, detail = reason(flipped, knees)
        assert found == "mirrored_film"
        assert f"letter {name} is mirrored" in detail
    # One of two knees says that it is right, the other that it is wrong.
    both = with_letter("R", "left", film=with_letter("R", "right"))
    assert reason(both, knees) is None


def test_a_single_knee_is_of_the_side_of_its_letter(two_knees):
    grey, (right, _) = two_knees
    film = film_with(letter("L")[:80, :80], film=grey)
    assert reason(film, [right])[0] == "side_mismatch"
    far = film_with(letter("L")[:80, :80], 820, 0, film=grey)
    assert reason(far, [right]) is None, "it is that of a knee which was not found"
    assert reason(film_with(letter("R")[:80, :80], film=grey), [right]) is None


@pytest.mark.real
def test_real_crops_show_no_letters(real_data):
    files = sorted((real_data / "kneekl224/val").glob("*/*.png"))[::8]
    found: list[Letter] = []
    for file in files:
        found += read(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE), (0.45, 0.45))
    assert len(files) > 80
    assert len(found) <= 1
