import numpy as np
import pandas as pd

from knee_jax.metrics.calibration import reliability
from knee_jax.report import figures
from knee_jax.report.confidence import (
    confidence_section,
    curves_figure,
    reliability_figure,
)
from knee_jax.targets.grades import GRADES
from tests.factories import kinds

EARLY = "kl0_vs_kl2"


def test_the_diagram_shows_the_bins(table):
    scores = table[[f"kl_p{c}" for c in range(5)]].max(axis=1).to_numpy()
    bins = reliability(scores, (table["kl"] == table["kl_pred"]).to_numpy())
    (axes,) = reliability_figure({"KL grade": (bins, "ECE 0.123")}).axes
    full = bins.counts > 0
    np.testing.assert_allclose(
        axes.collections[0].get_offsets(), np.stack([bins.predicted, bins.observed], 1)[full]
    )
    heights = [bar.get_height() for bar in axes.containers[0]]
    np.testing.assert_allclose(heights, bins.counts / bins.counts.sum())
    areas = axes.collections[0].get_sizes()
    np.testing.assert_array_equal(np.argsort(areas), np.argsort(bins.counts[full]))
    assert "ECE 0.123" in axes.get_xlabel()


def test_curves_are_sorted_and_wrong_knees_are_marked(early):
    (axes,) = curves_figure(early, kinds([EARLY])[0]).axes
    _, zero, wrong_zeros, two, wrong_twos, _ = axes.lines
    for value, line, marks in ((0, zero, wrong_zeros), (1, two, wrong_twos)):
        knees = early[early[EARLY] == value]
        x, y = line.get_data()
        np.testing.assert_array_equal(y, np.sort(knees[f"{EARLY}_p1"])[::-1])
        assert 0 < x[0] < x[-1] < 100
        wrong = knees[knees[f"{EARLY}_pred"] != value]
        np.testing.assert_array_equal(marks.get_ydata(), np.sort(wrong[f"{EARLY}_p1"])[::-1])
        assert len(wrong)
        assert marks.get_linestyle() == "None"
        name = ("KL 0", "KL 2")[value]
        assert line.get_label() == f"{name}: {len(knees)} knees, {len(wrong)} wrong"
    assert axes.get_ylabel() == "Probability of KL 2"


def test_curves_of_one_class_alone(early, tmp_path):
    figures.save(
        curves_figure(early[early[EARLY] == 0], kinds([EARLY])[0]), tmp_path / "curves.png"
    )


def test_two_classes_have_curves_and_grades_have_diagrams(table, early):
    section = confidence_section(early)
    assert [d.name for d in section.drawings] == ["reliability", f"confidence_{EARLY}"]
    assert len(section.notes) == 2
    section = confidence_section(table.assign(osfm=-1))
    (drawing,) = section.drawings
    titles = [axes.get_title(loc="left") for axes in drawing.content.axes]
    assert len(titles) == len(GRADES) - 1
    assert titles[0] == "KL grade"


def test_knees_without_the_grade_do_not_count(early):
    more = pd.concat([early, early.assign(**{EARLY: -1})], ignore_index=True)
    for ours, other in zip(*(confidence_section(t).drawings for t in (early, more)), strict=True):
        labels = [[axes.get_xlabel() for axes in d.content.axes] for d in (ours, other)]
        assert labels[0] == labels[1]
    (axes,) = confidence_section(more).drawings[1].content.axes
    assert len(axes.lines[1].get_xdata()) == (early[EARLY] == 0).sum()


def test_nothing_read_is_nothing_drawn(early):
    assert confidence_section(early.assign(**{EARLY: -1})).drawings == []
