import jax
import numpy as np
import pandas as pd
import pytest

from knee_jax.report import coherence, figures
from knee_jax.report.examples import Example
from knee_jax.targets.grades import GRADES
from knee_jax.tasks import coherence_loss as losses

DENSITY = np.linspace(-30, 30, 61)


@pytest.mark.parametrize("temperature", coherence.TEMPERATURES)
def test_curves_are_those_of_the_loss(temperature):
    def loss(g):
        return losses.incoherence(g, temperature)

    value, slope = jax.jit(jax.vmap(jax.value_and_grad(loss)))(DENSITY.astype(np.float32))
    np.testing.assert_allclose(coherence.mapping(DENSITY, temperature), value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(coherence.mapping_gradient(DENSITY, temperature), slope, atol=1e-5)


@pytest.mark.parametrize(
    ("draw", "function"),
    [
        (coherence.mapping_figure, coherence.mapping),
        (coherence.gradient_figure, coherence.mapping_gradient),
    ],
)
def test_figures_have_a_line_a_temperature(draw, function, tmp_path):
    figure = draw()
    (axes,) = figure.axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == [f"$\\tau$ = {t}" for t in ("0.25", "0.5", "0.75", "1", "1.5")]
    x, y = axes.lines[3].get_data()
    np.testing.assert_allclose(y, function(x, 1.0))
    figures.save(figure, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000


def listing_of(number):
    identity = {"subject": "9000001", "side": "R", "visit": 24}
    rows = [
        identity
        | dict.fromkeys(GRADES, 1)
        | {"log_density": -9.0 - i, "surprise": 30.5 - i, "incoherence": 31.0}
        for i in range(number)
    ]
    return pd.DataFrame(rows).assign(suspect="jsl")


def test_the_section_shows_the_first_knees_with_their_grades():
    image = np.zeros((8, 8), np.uint8)
    knee = Example(image, dict.fromkeys(GRADES, 3), dict.fromkeys(GRADES, 0), "9000001 R, month 24")
    section = coherence.suspects_section(listing_of(30), [knee, knee], number=5)
    (table,) = section.tables
    assert len(table.rows) == 5
    assert table.rows[2] == ("9000001", "R", "24", *["1"] * 7, "jsl", "28.5", "-11.0", "31.0")
    assert [drawing.name for drawing in section.drawings] == ["suspect_01", "suspect_02"]
    assert section.drawings[0].caption.startswith("KL 3, OSFL 3")
    assert section.drawings[0].caption.endswith("9000001 R, month 24")
    assert "Of 30 knee images" in section.notes[0]


def test_the_loss_is_drawn_for_the_run():
    section = coherence.loss_section(0.75)
    assert "temperature is 0.75" in section.notes[0]
    assert [drawing.name for drawing in section.drawings] == [
        "coherence_mapping",
        "coherence_gradient",
    ]
