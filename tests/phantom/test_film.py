import numpy as np
import pytest

from knee_jax.landmarks import CONDYLES, PLATEAU
from knee_jax.phantom import film, render
from knee_jax.phantom.anatomy import make_knee

SPACING = 0.3


def knee(seed: int, *, lost=(0.0, 0.0), spurs=(0, 0, 0, 0)):
    return make_knee(np.random.default_rng(seed), np.array(spurs), np.array(lost), 78.0, 0.0)


def bones(made, seed: int = 0) -> np.ndarray:
    return render.attenuation(made, SPACING, np.random.default_rng(seed))


def sample(image: np.ndarray, points: np.ndarray, spacing: float, origin) -> np.ndarray:
    """Nearest values of an image at points in mm from `origin` mm off its corner."""
    index = np.floor((points + np.asarray(origin)) / spacing).astype(int)
    return image[index[..., 1], index[..., 0]]


ORIGIN = (render.HALF_WIDTH_MM, render.ABOVE_MM)


@pytest.mark.parametrize("seed", range(4))
def test_landmarks_lie_on_the_edges_of_the_picture(seed):
    made = knee(seed)
    image = bones(made)
    away = np.linspace(-4, 4, 81)
    for window, outward in ((PLATEAU, -1), (CONDYLES, 1)):
        marks = made.landmarks[list(window)[2:-2]]
        tangent = np.gradient(marks, axis=0)
        normal = outward * np.stack([-tangent[:, 1], tangent[:, 0]], -1)
        normal /= np.linalg.norm(normal, axis=1)[:, None]
        # Bone on one side, joint space (less than half as dense) on the other.
        profile = sample(image, marks[:, None] + away[:, None] * normal[:, None], SPACING, ORIGIN)
        inside = profile[:, (away < -0.8) & (away > -2.5)].mean(axis=1)
        just_outside = profile[:, (away > 0.5) & (away < 1.5)].max(axis=1)
        assert (just_outside < 0.5 * inside).all()
        edge = away[np.argmin(profile > 0.4 * inside[:, None], axis=1)]
        assert np.abs(edge).mean() < 0.35
        assert np.abs(edge).max() < 1.2  # At the tips of the spines.


def pixel_space(image: np.ndarray, x_mm: float) -> float:
    """Height in mm of the dark band between the bones, in the columns around `x_mm`."""
    low, high = (int((x + render.HALF_WIDTH_MM) / SPACING) for x in (x_mm - 1, x_mm + 1))
    first, last = (int((y + render.ABOVE_MM) / SPACING) for y in (-25, 15))
    column = image[first:last, low:high].mean(axis=1)
    return SPACING * float(np.sum(column < 0.4 * np.median(column)))


def test_the_joint_space_in_the_pixels_narrows_with_what_is_lost():
    for compartment, x in ((0, -24.0), (1, 24.0)):
        spaces = []
        for amount in (0, 0.33, 0.6, 0.95):
            lost = np.eye(2)[compartment] * amount
            spaces.append(np.mean([pixel_space(bones(knee(s, lost=lost)), x) for s in range(6)]))
        assert (np.diff(spaces) < -0.6).all(), spaces
        assert spaces[0] > 3


def test_sclerosis_brightens_the_plate_under_the_lost_space():
    plain, ill = (bones(knee(2, lost=lost)) for lost in ((0, 0), (0, 0.8)))
    under = knee(2).landmarks[58:62] + np.array([0, 3])
    other = knee(2).landmarks[49:52] + np.array([0, 3])
    assert (sample(ill - plain, under, SPACING, ORIGIN) > 0.1).all()
    assert np.abs(sample(ill - plain, other, SPACING, ORIGIN)).max() < 0.05


def test_osteophytes_are_seen_outside_the_healthy_outline():
    plain, ill = (bones(knee(2, spurs=spurs)) for spurs in ((0, 0, 0, 0), (0, 0, 0, 6)))
    tip = knee(2, spurs=(0, 0, 0, 6)).landmarks[63]
    beside = tip - (2.0, -0.3)
    assert sample(ill - plain, beside, SPACING, ORIGIN) > 0.2


def test_cortex_makes_the_outline_bright():
    shaft = bones(knee(0))[int((-150 + render.ABOVE_MM) / SPACING)]
    inside = np.flatnonzero(shaft > 0.2)
    middle = shaft[(inside[0] + inside[-1]) // 2]
    assert shaft[inside[0] : inside[0] + 20].max() > 1.15 * middle


def place(seed: int, rows: int = 512) -> film.Geometry:
    return film.place(np.random.default_rng(seed), rows, 340.0, 1.25)


def test_patients_right_knee_is_on_the_left_of_the_film_lateral_side_outwards():
    made = knee(0)
    for seed in range(10):
        geometry = place(seed)
        right, left = (geometry.on_film(side, made.landmarks) for side in (0, 1))
        assert right[:, 0].max() < geometry.columns * geometry.spacing / 2 < left[:, 0].min()
        assert (np.diff(right[list(PLATEAU), 0]) > 0).all()
        assert (np.diff(left[list(PLATEAU), 0]) < 0).all()
        assert (right[list(PLATEAU), 1] > right[list(CONDYLES), 1].min()).all()


def test_knees_lie_as_they_do_on_real_films():
    placed = [place(seed) for seed in range(600)]
    angle = np.degrees([g.angles for g in placed]) * [1, -1]
    assert angle.mean() == pytest.approx(-1.0, abs=0.3)
    assert angle.std() == pytest.approx(2.4, abs=0.2)
    assert np.corrcoef(angle.T)[0, 1] == pytest.approx(0.5, abs=0.12)
    apart = np.array([g.origins[1, 0] - g.origins[0, 0] for g in placed])
    assert 170 < apart.mean() < 195
    level = np.array([g.origins[:, 1].mean() for g in placed])
    assert level.mean() == pytest.approx(175, abs=4)


def expose(seed: int, *, poor: bool = False, rows: int = 768):
    geometry = place(seed, rows)
    looks = [np.random.default_rng(side) for side in (0, 1)]
    picture = film.expose(
        geometry, (knee(1), knee(2)), looks, np.random.default_rng(seed), bulk=1.0, poor=poor
    )
    return geometry, picture


@pytest.mark.parametrize("seed", range(3))
def test_film_shows_bone_brighter_than_joint_space_where_the_landmarks_say(seed):
    geometry, picture = expose(seed)
    assert picture.shape == (geometry.rows, geometry.columns)
    assert picture.min() == 0
    assert 0.7 < picture.max() < 1.5
    for side, made in enumerate((knee(1), knee(2))):
        plateau, condyles = made.landmarks[[50, 60]], made.landmarks[[14, 22]]
        for x in (0, 1):
            between = (plateau[x] + [plateau[x, 0], condyles[x, 1]]) / 2
            points = np.stack([condyles[x] - (0, 8), between, plateau[x] + (0, 8)])
            around = points[:, None] + np.random.default_rng(0).uniform(-0.7, 0.7, (40, 2))
            values = sample(
                picture,
                geometry.on_film(side, around.reshape(-1, 2)).reshape(around.shape),
                geometry.spacing,
                (0, 0),
            ).mean(axis=1)
            assert values[1] < 0.97 * values[[0, 2]].min()


def test_poor_films_are_noisier():
    grain = []
    for poor in (False, True):
        geometry, picture = expose(0, poor=poor)
        tibia = geometry.on_film(0, np.array([[0.0, 30.0]]))[0] / geometry.spacing
        x, y = tibia.astype(int)
        patch = picture[y - 15 : y + 15, x - 15 : x + 15]
        grain.append(np.std(np.diff(patch, axis=1)))
    assert grain[1] > 1.3 * grain[0]
