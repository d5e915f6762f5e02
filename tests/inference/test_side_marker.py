"""Letters of lead are read as they are and mirrored, in fonts other than those of the reader."""

import time

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
@pytest.mark.parametrize("name", "ABCDEFGHIJKMNOPQSTUVWXYZ0123456789")
def test_other_characters_are_no_letters_of_a_side(name, mirrored):
    film = film_with(letter(name))
    assert read(film[:, ::-1] if mirrored else film, MM) == []


@pytest.mark.parametrize("quarters", [0, 1, 3])
@pytest.mark.parametrize("text", ["LEFT", "RIGHT", "AP L KNEE", "R. LOW"])
def test_letters_of_words_say_nothing(text, quarters):
    assert read(film_with(np.rot90(letter(text, 30), quarters)), MM) == []


def test_the_size_is_that_in_mm():
    film = film_with(letter("R"))
    assert [each.name for each in read(film, (0.2, 0.2))] == ["R"]
    assert read(film, (2.0, 2.0)) == [], "a letter of 15 cm"
    wide = cv2.resize(film, (1200, 400))
    assert [each.name for each in read(wide, (0.2, 0.4))] == ["R"]


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (3, 900)])
def test_tiny_pictures_have_no_letters(shape):
    assert read(np.full(shape, 200, np.uint8), MM) == []


def test_noise_is_given_up_soon():
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000), np.uint8)
    begin = time.process_time()
    assert read(noise, (0.4, 0.4)) == []
    assert read(noise, (3.0, 3.0)) == []
    assert time.process_time() - begin < 5


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

    def with_letter(name, where, film=grey, mirrored=False):
        shown = letter(name)[:80, :80]
        return film_with(shown[:, ::-1] if mirrored else shown, at[where], 0, film=film)

    assert reason(grey, knees) is None
    for name, own, other in (("R", "left", "right"), ("L", "right", "left")):
        assert reason(with_letter(name, own), knees) is None
        found, detail = reason(with_letter(name, other), knees)
        assert found == "letter_mismatch"
        assert f"letter {name} " in detail
        # Seen from the front, what is mirrored looks like the other side.
        found, detail = reason(with_letter(name, other, mirrored=True), knees)
        assert found == "mirrored_film"
        assert f"letter {name} is mirrored" in detail
        laid_face_down = with_letter(name, own, mirrored=True)
        assert reason(laid_face_down, knees) is None
    # One of two letters says that all is right.
    both = with_letter("R", "left", film=with_letter("R", "right"))
    assert reason(both, knees) is None


def test_a_letter_between_two_knees_belongs_to_neither(two_knees):
    grey, knees = two_knees
    middle = int(np.mean([knee.points[:, 0].mean() for knee in knees]))
    for name in ("R", "L"):
        for x in range(middle - 90, middle + 20, 20):
            assert reason(film_with(letter(name)[:80, :80], x, 0, film=grey), knees) is None
    inner = round(knees[1].points[:, 0].mean()) - 60
    found, _ = reason(film_with(letter("R")[:80, :80], inner, 0, film=grey), knees)
    assert found == "letter_mismatch"


def test_a_single_knee_is_of_the_side_of_its_letter(two_knees):
    grey, (right, _) = two_knees
    film = film_with(letter("L")[:80, :80], film=grey)
    assert reason(film, [right])[0] == "letter_mismatch"
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
