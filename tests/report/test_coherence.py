import jax
import numpy as np
import pandas as pd
import pytest

from knee_jax import coherence as losses
from knee_jax.grades import GRADES
from knee_jax.report import coherence, figures

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


def table_of(given, predicted):
    table = pd.DataFrame({"coherence_given": given, "coherence_predicted": predicted})
    table[["subject", "side", "visit"]] = ["9000001", "R", 24]
    for grade in GRADES:
        table[grade], table[f"{grade}_pred"] = 1, 2
    return table


def test_the_least_coherent_come_first_and_unread_knees_never():
    table = table_of([3.0, -9.0, np.nan, -40.0, -9.0], [5.0, -2.0, 1.0, -5.0, 4.0])
    assert coherence.least_coherent(table, 9) == [3, 4, 1, 0]
    assert coherence.least_coherent(table, 2) == [3, 4]
    assert coherence.least_coherent(table.drop(columns="coherence_given"), 2) == []


def test_an_example_says_both_log_densities():
    example = coherence.example_of(table_of([-9.04], [4.0]).iloc[0], np.zeros((8, 8), np.uint8))
    assert example.caption == (
        "9000001 R, month 24: log-density of the reading -9.0, of the prediction 4.0"
    )
    assert example.truth == dict.fromkeys(GRADES, 1)
    assert example.prediction == dict.fromkeys(GRADES, 2)
