import re

import cv2
import numpy as np
import pytest
from matplotlib.colors import to_hex
from threadpoolctl import threadpool_limits

from knee_jax.evaluation.explain import Explanation, HeatMaps, SliceMaps
from knee_jax.pictures import LATERAL
from knee_jax.report import explanation, figures
from knee_jax.report.explanation import (
    features_section,
    heat_picture,
    heat_section,
    slices_section,
    t_sne,
)

EARLY = "kl0_vs_kl2"


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
        assert drawing.content.shape[1] > 2 * explanation.PANEL
    assert "two patches of 20 px" in section.notes[-1]


@pytest.mark.parametrize(
    ("losses", "words", "misleads"),
    [
        ([[2.0, 0.5], [1.0, 0.5], [np.nan, np.nan]], "on 2 knees.* takes 1.50 off", False),
        ([[0.5, 0.5], [0.5, 0.5]], "on 2 knees.* takes 0.50 off", True),
        ([[-0.1, -0.5], [-0.1, -0.5]], "takes -0.10 off", True),
        ([[np.nan, np.nan]], "was not tested", False),
    ],
)
def test_heat_that_marks_nothing_is_said_to(losses, words, misleads, early):
    maps = made(early).heat_maps._replace(losses=np.array(losses, np.float32))
    notes = " ".join(heat_section(early, made(early, heat_maps=maps)).notes)
    assert re.search(words, notes)
    assert ("does NOT mark" in notes) == explanation.misleads(maps) == misleads


def test_maps_that_were_not_tested_do_not_mislead(early):
    assert not explanation.misleads(None)
    assert not explanation.misleads(made(early).heat_maps)


def test_a_knee_without_heat_is_said_to_have_none(early):
    cold = made(early)
    cold.heat_maps.heat[0] = 0
    first, second = heat_section(early, cold).drawings
    assert "nothing in its maps speaks" in first.caption
    assert "nothing" not in second.caption
    panel = first.content[24:-30, explanation.PANEL + 10 : 2 * explanation.PANEL]
    assert (np.ptp(panel.astype(int), axis=2) == 0).all()  # Grey throughout.


def test_a_network_that_shows_no_maps_has_a_note(early):
    section = heat_section(early, made(early, heat_maps=None))
    assert section.drawings == ()
    assert "does not let its maps be seen" in section.notes[0]


def test_heat_lies_where_it_was():
    """The picture is grey at the left, and coloured at the right where the heat is."""
    heat = np.zeros((1, 64, 64), np.float32)
    heat[0, :32, :32] = 1
    maps = HeatMaps(np.full((1, 64, 64), 128, np.uint8), heat)
    side = explanation.PANEL
    picture = heat_picture(maps, 0, "KL 2").astype(int)[-side:]
    coloured = np.ptp(picture, axis=2) > 60
    half = side // 2
    assert not coloured[:, :side].any()
    seen = coloured[:, side + 4 : 2 * side + 4]
    assert seen[2 : half - 2, 2 : half - 2].all()
    assert not seen[half:].any()
    assert not seen[:, half:].any()


def test_the_same_explanation_gives_the_same_pictures(early, tmp_path):
    for name in "ab":
        whole = made(early, patch=20)
        (drawing,) = features_section(early, whole).drawings
        figures.save(drawing.content, tmp_path / f"{name}_features.png")
        for drawing in heat_section(early, whole).drawings:
            cv2.imwrite(str(tmp_path / f"{name}_{drawing.name}.png"), drawing.content)
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
        picture = drawing.content.astype(int)
        # Bars of the slices that are shown are orange, and as many as these.
        chart = picture[-explanation.PANEL :, : explanation.PANEL]
        strength = np.concatenate([whole.slices[v].strength[number] for v in views])
        heights = (np.abs(chart - LATERAL).max(2) == 0).sum(0)
        shown = sum(len(whole.slices[view].numbers[number]) for view in views)
        starts = np.flatnonzero(np.diff((heights > 0).astype(int)) == 1)
        assert 1 <= len(starts) <= shown
        tallest = heights.max() / (explanation.PANEL - 34 - 18)
        best = max(
            whole.slices[v].strength[number][whole.slices[v].numbers[number]].max() for v in views
        )
        assert tallest == pytest.approx(best / strength.max(), abs=0.02)


def test_a_network_of_volumes_that_shows_no_maps_has_a_note(early):
    section = slices_section(early, made(early, heat_maps=None))
    assert section.drawings == ()
    assert "does not let its maps be seen" in section.notes[0]
