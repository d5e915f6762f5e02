import numpy as np
import pandas as pd
import pytest

from knee_jax import targets
from knee_jax.metrics.endpoints import dichotomy_samples
from knee_jax.metrics.summary import summarise
from knee_jax.report import figures
from knee_jax.targets.grades import GRADES
from tests.factories import endpoint, kinds, random_predictions, random_values


def test_confusion_matrices_show_percent_and_counts(table):
    (axes,) = figures.confusion_figure(table, kinds(["kl"])).axes
    texts = [text.get_text() for text in axes.texts]
    counts = pd.crosstab(table["kl"], table["kl_pred"]).reindex(
        index=range(5), columns=range(5), fill_value=0
    )
    expected = []
    for _, row in counts.iterrows():
        for count in row:
            expected += [f"{100 * count / row.sum():.0f}%", str(count)]
    assert texts == expected
    np.testing.assert_allclose(axes.images[0].get_array().sum(1), 100.0)


def test_curves_have_the_areas_that_their_legend_says(table):
    """Five curves in each panel (Tiulpin & Saarakkala 2020, Figure 3), also with missing grades."""
    table = table.assign(ostl=np.where(table.index < 20, -1, table["ostl"]))
    summary = summarise(table, num_resamples=20)
    tasks = [each for each in targets.dichotomies().values() if set(each.targets) <= set(GRADES)]
    left, right = figures.curves_figure(table, tasks, summary).axes
    curves = left.lines[1:]  # after the diagonal
    steps = right.lines[::2]  # with the prevalence after each
    assert len(curves) == len(steps) == len(tasks) == 5
    assert len({line.get_color() for line in curves}) == 5
    for task, roc, step, prevalence in zip(tasks, curves, steps, right.lines[1::2], strict=True):
        x, y = roc.get_data()
        area = summary[task.name]["roc_auc"]
        assert np.trapezoid(y, x) == pytest.approx(area["value"])
        words = f"{task.title}: AUC {area['value']:.3f}"
        assert roc.get_label() == f"{words} [{area['low']:.3f}, {area['high']:.3f}]"
        x, y = step.get_data()
        area = summary[task.name]["average_precision"]
        assert (np.diff(x) * y[1:]).sum() == pytest.approx(area["value"])
        assert f"{task.title}: AP {area['value']:.3f}" in step.get_label()
        assert prevalence.get_ydata()[0] == dichotomy_samples(table, task).positives.mean()
        assert prevalence.get_color() == step.get_color() == roc.get_color()
    texts = [text.get_text() for text in left.get_legend().get_texts()]
    assert texts == [line.get_label() for line in curves]


def test_two_classes_are_named_and_have_curves():
    table = random_predictions(30, names=("kl0_vs_kl2",))
    (axes,) = figures.confusion_figure(table, kinds(["kl0_vs_kl2"])).axes
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [text.get_text() for text in labels] == ["KL 0", "KL 2"]
    (axes,) = figures.distribution_figure(table, kinds(["kl0_vs_kl2"])).axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["KL 0", "KL 2"]
    summary = summarise(table, num_resamples=20)
    left, _ = figures.curves_figure(table, [endpoint("kl0_vs_kl2")], summary).axes
    x, y = left.lines[1].get_data()
    assert np.trapezoid(y, x) == pytest.approx(summary["kl0_vs_kl2"]["roc_auc"]["value"])


def test_cohorts_stand_side_by_side_in_percent_of_each():
    rng = np.random.default_rng(0)
    oai, most = (
        pd.DataFrame(rng.integers(-1, 4, (n, 3)), columns=["osfl", "ostl", "jsl"]) for n in (90, 40)
    )
    figure = figures.cohorts_figure({"OAI": oai, "MOST": most}, kinds(("osfl", "ostl", "jsl")))
    for axes, grade in zip(figure.axes, ("osfl", "ostl", "jsl"), strict=True):
        for bars, table in zip(axes.containers, (oai, most), strict=True):
            read = table[grade][table[grade] >= 0]
            expected = [100 * (read == value).mean() for value in range(4)]
            np.testing.assert_allclose([bar.get_height() for bar in bars], expected)
        lefts = [bar.get_x() for bars in axes.containers for bar in bars]
        assert len(set(np.round(lefts, 6))) == 8
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["OAI (90 knees)", "MOST (40 knees)"]


@pytest.mark.parametrize("grades", [GRADES, ("kl",), ("kl", "jsl", "jsm", "osfl", "ostl")])
def test_distributions_sum_to_a_hundred_percent(table, grades):
    figure = figures.distribution_figure(table.assign(osfm=-1), kinds(grades))
    assert len(figure.axes) == len(grades)
    for axes, grade in zip(figure.axes, grades, strict=True):
        for bars in axes.containers:
            total = sum(bar.get_height() for bar in bars)
            assert total == pytest.approx(0.0 if grade == "osfm" else 100.0)


def test_training_curves_are_of_the_loss_and_the_chosen_metric():
    history = pd.DataFrame(
        [
            (1, "train/loss", 3.0),
            (2, "train/loss", 2.0),
            (1, "validation/loss", 2.6),
            (2, "validation/loss", 2.5),
            (1, "validation/mean_accuracy", 0.4),
            (2, "validation/mean_accuracy", 0.5),
            (1, "train/learning_rate", 0.1),
            (2, "train/learning_rate", 0.1),
        ],
        columns=["step", "name", "value"],
    )
    loss, accuracy = figures.training_figure(history, 2).axes
    labels = ["training", "validation", "best checkpoint"]
    assert [line.get_label() for line in loss.lines] == labels
    np.testing.assert_array_equal(loss.lines[0].get_xydata(), [[1, 3], [2, 2]])
    assert [line.get_label() for line in accuracy.lines] == labels[1:]
    assert list(accuracy.lines[1].get_xdata()) == [2, 2]
    assert figures.training_figure(history[history["step"] == 1]) is None


def test_figures_are_the_same_bytes_again(table, tmp_path):
    for kind in ("png", "svg", "pdf"):
        for name in "ab":
            figure = figures.confusion_figure(table, kinds(["jsm"]))
            figures.save(figure, tmp_path / f"{name}.{kind}")
        first, second = ((tmp_path / f"{name}.{kind}").read_bytes() for name in "ab")
        assert first == second
    assert b"<text" not in (tmp_path / "a.svg").read_bytes()  # No font can be missing.
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


def test_the_bland_altman_plot_has_bias_and_limits_of_agreement():
    table = random_values(40, missing=0.1)
    (width,) = kinds(["jsw_medial"])
    left, right = figures.bland_altman_figure(table, width).axes
    errors = (table["jsw_medial_pred"] - table["jsw_medial"]).dropna()
    bias, spread = errors.mean(), 1.96 * errors.std()
    heights = [line.get_ydata()[0] for line in left.lines]
    np.testing.assert_allclose(heights, [bias, bias + spread, bias - spread], rtol=1e-5)
    assert left.texts[0].get_text() == f"bias {bias:.2f}"
    points = left.collections[0].get_offsets()
    assert len(points) == len(errors)
    np.testing.assert_allclose(np.sort(points[:, 1]), np.sort(errors), rtol=1e-5)
    assert "mm" in left.get_xlabel()
    assert "mm" in right.get_ylabel()
