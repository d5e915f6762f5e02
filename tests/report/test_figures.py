import cv2
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from knee_jax.grades import GRADES
from knee_jax.metrics.summary import summarise
from knee_jax.report import figures
from knee_jax.report.examples import Example


def test_confusion_matrices_show_percent_and_counts(table):
    (axes,) = figures.confusion_figure(table, ["kl"]).axes
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


def test_curves_have_the_area_that_their_legend_says(table):
    summary = summarise(table, num_resamples=20)
    left, right = figures.curves_figure(table, "kl_ge_2", summary).axes
    x, y = left.lines[1].get_data()
    assert np.trapezoid(y, x) == pytest.approx(summary["kl_ge_2"]["roc_auc"]["value"])
    area = summary["kl_ge_2"]["average_precision"]
    text = right.get_legend().get_texts()[1].get_text()
    assert text == f"AP {area['value']:.3f} [{area['low']:.3f}, {area['high']:.3f}]"


@pytest.mark.parametrize("grades", [GRADES, ("kl",), ("kl", "jsl", "jsm", "osfl", "ostl")])
def test_distributions_sum_to_a_hundred_percent(table, grades):
    figure = figures.distribution_figure(table.assign(osfm=-1), grades)
    assert len(figure.axes) == len(grades)
    for axes, grade in zip(figure.axes, grades, strict=True):
        for bars in axes.containers:
            total = sum(bar.get_height() for bar in bars)
            assert total == pytest.approx(0.0 if grade == "osfm" else 100.0)


def test_training_curves_share_a_panel_by_quantity():
    history = pd.DataFrame(
        [
            (1, "train/loss", 3.0),
            (2, "train/loss", 2.0),
            (2, "validation/loss", 2.5),
            (2, "validation/kl/accuracy", 0.5),
            (1, "lr", 0.1),
        ],
        columns=["step", "name", "value"],
    )
    loss, accuracy, rate = figures.training_figure(history).axes
    assert [line.get_label() for line in loss.lines] == ["train", "validation"]
    np.testing.assert_array_equal(loss.lines[0].get_xydata(), [[1, 3], [2, 2]])
    assert [line.get_label() for line in accuracy.lines] == ["validation/kl"]
    assert rate.get_legend() is None


def test_landmarks_lie_where_the_pixels_are(tmp_path):
    """A femoral landmark at the centre of pixel (12, 40) is drawn there, in its colour."""
    keypoints = np.full((74, 2), -10.0)
    keypoints[3] = (40.5, 12.5)
    knee = Example(np.zeros((64, 64), np.uint8), {"kl": 0}, {"kl": 0}, keypoints=keypoints)
    figures.save(figures.example_figure(knee), tmp_path / "knee.png")
    picture = cv2.imread(str(tmp_path / "knee.png"))[..., ::-1] / 255.0
    marked = np.abs(picture - to_rgb(figures.ORANGE)).max(-1) < 0.02
    rows, columns = np.nonzero(marked)
    scale = picture.shape[0] / 64
    assert rows.mean() + 0.5 == pytest.approx(12.5 * scale, abs=1)
    assert columns.mean() + 0.5 == pytest.approx(40.5 * scale, abs=1)


def test_the_image_is_shown_upright_with_lateral_at_the_left(tmp_path):
    image = np.zeros((64, 64), np.uint8)
    image[:32, :32] = 255
    figure = figures.example_figure(Example(image, {"kl": 0}, {"kl": 0}))
    figures.save(figure, tmp_path / "knee.png")
    picture = cv2.imread(str(tmp_path / "knee.png"), cv2.IMREAD_GRAYSCALE)
    half = picture.shape[0] // 2
    assert picture[: half - 5, : half - 5].mean() > 250
    assert picture[: half - 5, half + 5 :].mean() < 5
    left, right = figure.axes[0].texts
    assert (left.get_text(), right.get_text()) == ("lateral", "medial")
    assert left.get_position()[0] < right.get_position()[0]


def test_figures_are_the_same_bytes_again(table, tmp_path):
    for name in ("a.png", "b.png"):
        figures.save(figures.confusion_figure(table, ["kl", "jsm"]), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
