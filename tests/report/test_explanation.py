import cv2
import numpy as np
import pytest
from matplotlib.colors import to_hex
from threadpoolctl import threadpool_limits

from knee_jax.evaluation.explain import Explanation, HeatMaps, SliceMaps
from knee_jax.report import explanation, figures
from knee_jax.report.explanation import (
    features_section,
    heat_figure,
    heat_section,
    slices_section,
    t_sne,
)

EARLY = "kl0_vs_kl2"
SHOWN = figures.ORANGE.lower()


def groups(number, dimensions=12):
    """Features of two groups of knees, far from each other."""
    rng = np.random.default_rng(0)
    group = np.arange(number) % 2
    return group, (rng.normal(size=(number, dimensions)) + 12 * group[:, None]).astype(np.float32)


def made(table, target=EARLY, shown=(3, 0), patch=0, **changes):
    """An explanation of all knees of a table."""
    rng = np.random.default_rng(0)
    heat = rng.random((len(shown), 48, 48), np.float32)
    images = rng.integers(256, size=heat.shape, dtype=np.uint8)
    whole = Explanation(
        target=target,
        gathered=np.arange(len(table)),
        features=groups(len(table))[1],
        shown=np.array(shown),
        heat_maps=HeatMaps(images, heat, patch),
    )
    return whole._replace(**changes)


def test_neighbours_stay_neighbours():
    group, features = groups(40)
    places = t_sne(features)
    centres = np.stack([places[group == g].mean(0) for g in (0, 1)])
    nearest = np.linalg.norm(places[:, None] - centres, axis=2).argmin(1)
    np.testing.assert_array_equal(nearest, group)


def test_the_map_does_not_depend_on_threads():
    _, features = groups(60, 1500)
    found = []
    for threads in (1, 4):
        with threadpool_limits(threads):
            found.append(t_sne(features))
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("number", [explanation.FEWEST_KNEES, 31])
def test_few_knees_have_a_map(number):
    assert np.isfinite(t_sne(groups(number)[1])).all()


@pytest.mark.parametrize("target", ["kl", EARLY])
def test_knees_are_coloured_by_class_and_hollow_where_wrong(target, table, early):
    table = early if target == EARLY else table
    places = np.random.default_rng(0).normal(size=(len(table), 2))
    (axes,) = explanation.features_figure(places, table, target).axes
    drawn = [points for points in axes.collections if len(points.get_offsets())]
    seen = 0
    for points in drawn:
        colour = to_hex(points.get_edgecolors()[0]).upper()
        value = figures.COLOURS.index(colour)
        hollow = not len(points.get_facecolors())
        wrong = table[target] != table[f"{target}_pred"]
        expected = places[(table[target] == value) & (wrong == hollow)]
        np.testing.assert_array_equal(points.get_offsets(), expected)
        seen += len(expected)
    assert seen == len(table)


def test_features_have_a_section(early):
    section = features_section(early, made(early))
    (drawing,) = section.drawings
    assert drawing.name == "features"
    assert "12 features" in section.notes[0]
    assert "40 knees" in section.notes[0]
    assert "evenly" not in section.notes[0]


def test_it_is_said_that_knees_were_drawn(early, monkeypatch):
    monkeypatch.setattr(explanation, "MOST_KNEES", len(early))
    assert "drawn evenly" in features_section(early, made(early)).notes[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"features": None}, "does not let its features be seen"),
        ({"gathered": np.arange(9)}, "9 knees are too few"),
        ({"features": np.ones((40, 3), np.float32)}, "the same for all knees"),
    ],
)
def test_without_a_map_it_is_said_why(changes, words, early):
    section = features_section(early, made(early, **changes))
    assert section.drawings == ()
    assert words in section.notes[0]


def test_each_shown_knee_has_its_heat_and_caption(early):
    section = heat_section(early, made(early, patch=20))
    for number, (row, drawing) in enumerate(zip((3, 0), section.drawings, strict=True)):
        knee = early.iloc[row]
        read, predicted = (("KL 0", "KL 2")[knee[c]] for c in (EARLY, f"{EARLY}_pred"))
        probability = knee[[f"{EARLY}_p0", f"{EARLY}_p1"]].max()
        assert drawing.name == f"heat_{number:02d}"
        assert drawing.caption == (
            f"{'Right' if read == predicted else 'Wrong'}: read {read}, predicted {predicted} with "
            f"probability {probability:.2f}. {knee['subject']} {knee['side']}, month 0"
        )
        frames = drawing.figure.axes[1].patches
        assert [(p.get_x(), p.get_y(), p.get_width()) for p in frames] == [
            (0, 16, 20),
            (28, 16, 20),
        ]
    assert "two patches of 20 px" in section.notes[-1]


def test_a_knee_without_heat_is_said_to_have_none(early):
    cold = made(early)
    cold.heat_maps.heat[0] = 0
    first, second = heat_section(early, cold).drawings
    assert "nothing in its last maps speaks" in first.caption
    assert "nothing" not in second.caption
    assert not first.figure.axes[1].images[1].get_array()[..., 3].any()


def test_a_network_that_shows_no_maps_has_a_note(early):
    section = heat_section(early, made(early, heat_maps=None))
    assert section.drawings == ()
    assert "does not let its maps be seen" in section.notes[0]


def test_heat_lies_where_it_was(tmp_path):
    """The picture is grey at the left, and coloured at the right where the heat is."""
    heat = np.zeros((64, 64), np.float32)
    heat[:32, :32] = 1
    image = np.full((64, 64), 128, np.uint8)
    figures.save(heat_figure(image, heat), tmp_path / "heat.png")
    picture = cv2.imread(str(tmp_path / "heat.png")).astype(int)
    assert picture.shape[1] == pytest.approx(2 * picture.shape[0], abs=2)
    coloured = np.ptp(picture, axis=2) > 60
    half, side = picture.shape[1] // 2, picture.shape[0] // 2
    assert not coloured[:, : half - 5].any()
    assert coloured[5 : side - 5, half + 8 : half + side - 5].all()
    assert not coloured[side + 5 :].any()
    assert not coloured[:, half + side + 8 :].any()


def test_the_same_explanation_gives_the_same_pictures(early, tmp_path):
    for name in "ab":
        whole = made(early, patch=20)
        for drawing in (
            *features_section(early, whole).drawings,
            *heat_section(early, whole).drawings,
        ):
            figures.save(drawing.figure, tmp_path / f"{name}_{drawing.name}.png")
    for path in tmp_path.glob("a_*.png"):
        assert path.read_bytes() == path.with_name(path.name.replace("a_", "b_", 1)).read_bytes()
    assert len(list(tmp_path.iterdir())) == 6


def volumes(number, views=("sagittal",), side=(30, 26), count=16):
    """Slices of knees in some views, as explanations have them."""
    rng = np.random.default_rng(0)
    found = {}
    for view in views:
        shown = 3 // len(views)
        strength = rng.dirichlet(np.ones(count), number).astype(np.float32)
        numbers = np.sort(np.argsort(-strength, axis=1)[:, :shown], axis=1)
        heat = rng.random((number, shown, *side), np.float32)
        images = rng.integers(256, size=heat.shape, dtype=np.uint8)
        found[view] = SliceMaps(strength, numbers, images, heat)
    return found


@pytest.mark.parametrize("views", [("coronal",), ("sagittal", "coronal", "axial")])
@pytest.mark.parametrize("attended", [True, False])
def test_slices_are_shown_beside_their_strength(views, attended, early):
    whole = made(early, heat_maps=None, slices=volumes(2, views), attended=attended)
    section = slices_section(early, whole)
    assert ("class token attends" in section.notes[0]) == attended
    for number, (row, drawing) in enumerate(zip((3, 0), section.drawings, strict=True)):
        assert drawing.name == f"slices_{number:02d}"
        assert early.iloc[row]["subject"] in drawing.caption
        bars, *pictures = drawing.figure.axes
        assert bars.get_ylabel() == ("Attention" if attended else "Share of evidence")
        ordered = [view for view in ("sagittal", "axial", "coronal") if view in views]
        strength = np.concatenate([whole.slices[view].strength[number] for view in ordered])
        np.testing.assert_allclose([bar.get_height() for bar in bars.patches], strength)
        orange = {i for i, bar in enumerate(bars.patches) if to_hex(bar.get_facecolor()) == SHOWN}
        numbers = [(v, n) for v in ordered for n in whole.slices[v].numbers[number]]
        assert orange == {16 * ordered.index(view) + n for view, n in numbers}
        titles = [picture.get_title("left") for picture in pictures]
        assert titles == [f"{view} {n + 1}" for view, n in numbers]
        for picture, view in zip(pictures, (v for v, _ in numbers)):
            image = picture.images[0].get_array()
            assert any((image == each).all() for each in whole.slices[view].images[number])


def test_a_network_of_volumes_that_shows_no_maps_has_a_note(early):
    section = slices_section(early, made(early, heat_maps=None))
    assert section.drawings == ()
    assert "does not let its maps be seen" in section.notes[0]
