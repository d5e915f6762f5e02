import itertools

import numpy as np
import pandas as pd
import pytest

from knee_jax.landmarks import CONDYLES, FEMUR, NUM_LANDMARKS, PLATEAU, TIBIA
from knee_jax.phantom.anatomy import Knee, make_knee, medial_joint_space

KNEEL_TIBIA, KNEEL_FEMUR = list(range(47, 64, 2)), list(range(12, 25, 2))


def knee(seed: int, *, spurs=(0, 0, 0, 0), lost=(0, 0), width=78.0) -> Knee:
    return make_knee(np.random.default_rng(seed), np.array(spurs), np.array(lost), width, 0.0)


def gap(made: Knee, low: float, high: float) -> float:
    """Least vertical gap between the outlines, x from `low` to `high` mm, by brute force."""
    tibia, femur = (
        outline[(outline[:, 0] > low) & (outline[:, 0] < high) & (np.abs(outline[:, 1]) < 30)]
        for outline in (made.tibia, made.femur)
    )
    across = np.abs(tibia[:, None, 0] - femur[None, :, 0])
    down = tibia[:, None, 1] - femur[None, :, 1]
    return float(down[across < 0.2].min())


def distance(points: np.ndarray, outline: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - outline[None], axis=-1).min(axis=1)


@pytest.mark.parametrize("seed", range(5))
def test_landmarks_lie_on_the_outlines_in_order(seed):
    made = knee(seed, spurs=(2, 4, 1, 6), lost=(0.1, 0.6))
    assert made.landmarks.shape == (NUM_LANDMARKS, 2)
    assert distance(made.landmarks[FEMUR], made.femur).max() < 0.35
    assert distance(made.landmarks[TIBIA], made.tibia).max() < 0.35
    for window in (CONDYLES, PLATEAU):
        assert (np.diff(made.landmarks[list(window), 0]) > 0).all()
    # Femur above the tibia, lateral before medial.
    assert (made.landmarks[[0, 36], 1] < -30).all()
    assert (made.landmarks[[37, 73], 1] > 30).all()
    for first, last in ((0, 36), (37, 73)):
        assert made.landmarks[first, 0] < 0 < made.landmarks[last, 0]


@pytest.mark.parametrize("seed", range(5))
def test_joint_space_is_what_it_says(seed):
    for lost in ((0, 0), (0.3, 0), (0, 0.5), (0.2, 0.9)):
        made = knee(seed, lost=lost)
        lateral = gap(made, -0.40 * 78, -0.20 * 78)
        medial = gap(made, 0.20 * 78, 0.40 * 78)
        np.testing.assert_allclose([lateral, medial], made.space, atol=0.25)


@pytest.mark.parametrize("seed", range(5))
def test_medial_joint_space_is_the_least_distance_of_the_bones(seed):
    """By brute force, from the outlines' own points; they are 0.4 mm apart, which adds a little."""
    for spurs, lost in (((0, 0, 0, 0), (0, 0)), ((2, 5, 1, 6), (0.4, 0.6)), ((0,) * 4, (0, 0.9))):
        made = knee(seed, spurs=spurs, lost=lost)
        (left, _), (right, _) = made.landmarks[[59, 62]]
        across = (made.tibia[:, 0] > left - 0.4) & (made.tibia[:, 0] < right + 0.4)
        nearest = distance(made.tibia[across & (made.tibia[:, 1] < 20)], made.femur).min()
        found = medial_joint_space(made)
        assert nearest - 0.25 < found < nearest + 0.1
        assert found < made.space[1] + 0.1
        # Between the landmarks, which are joined by straight lines here.
        plateau, condyles = (
            np.concatenate([np.linspace(a, b, 40) for a, b in itertools.pairwise(points)])
            for points in (made.landmarks[59:63], made.landmarks[list(CONDYLES)])
        )
        assert -0.1 < distance(plateau, condyles).min() - found < 0.35


def test_joint_space_narrows_with_what_is_lost():
    for compartment in range(2):
        lost = np.eye(2)[compartment]
        spaces = [knee(3, lost=amount * lost).space for amount in (0, 0.25, 0.6, 0.95)]
        narrowed = np.array(spaces)[:, compartment]
        assert (np.diff(narrowed) < -0.5).all()
        assert narrowed[0] > 2.5
        assert narrowed[-1] < 0.6
        np.testing.assert_allclose(np.array(spaces)[:, 1 - compartment], spaces[0][1 - compartment])


@pytest.mark.parametrize(
    ("feature", "corner", "outward"), [(0, 12, -1), (1, 24, 1), (2, 47, -1), (3, 63, 1)]
)
def test_an_osteophyte_grows_at_its_own_corner_only(feature, corner, outward):
    plain, grown = knee(1), knee(1, spurs=5 * np.eye(4)[feature])
    moved = grown.landmarks - plain.landmarks
    length = np.linalg.norm(moved, axis=1)
    assert length[corner] == pytest.approx(5, abs=0.6)
    assert moved[corner, 0] * outward > 3.5
    others = [c for c in (12, 24, 47, 63) if c != corner]
    assert length[others].max() < 0.05
    assert length[[18, 55]].max() < 1e-9


def test_width_is_that_of_the_plateau():
    for width in (65.0, 78.0, 95.0):
        corners = knee(0, width=width).landmarks[[47, 63]]
        np.testing.assert_allclose(corners, [[-width / 2, 0], [width / 2, 0]], atol=0.3)


def test_a_knee_is_a_function_of_its_stream():
    np.testing.assert_array_equal(knee(4).landmarks, knee(4).landmarks)
    assert not np.allclose(knee(4).landmarks, knee(5).landmarks, atol=0.1)


def _upright(points: np.ndarray) -> np.ndarray:
    """Surfaces [knees, 16, 2], tibia first, in per cent of the width with the corners on y = 0."""
    first, last = points[:, 0], points[:, 8]
    along = last - first
    width = np.linalg.norm(along, axis=1)[:, None]
    unit = along / width
    relative = points - ((first + last) / 2)[:, None]
    across = np.stack([-unit[:, 1], unit[:, 0]], -1)
    turned = np.stack([np.sum(relative * v[:, None], -1) for v in (unit, across)], -1)
    return 100 * turned / width[:, None]


@pytest.mark.real
def test_healthy_surfaces_have_the_shape_of_real_ones(real_data):
    table = pd.read_csv(real_data / "kneel_landmarks_0.3mm.csv")
    table = table[table["kl"] <= 1]
    cells = table["tibia"] + "," + table["femur"]
    real = np.stack([np.array(cell.split(","), float).reshape(-1, 2) for cell in cells])
    ours = np.stack([knee(seed).landmarks[KNEEL_TIBIA + KNEEL_FEMUR] for seed in range(150)])
    real, ours = _upright(real), _upright(ours)
    np.testing.assert_allclose(ours.mean(axis=0), real.mean(axis=0), atol=1.0)
    spread = ours.std(axis=0)[1:8].mean() / real.std(axis=0)[1:8].mean()
    assert 0.6 < spread < 1.3
