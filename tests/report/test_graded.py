"""The page of graded knees says what was measured, and where it was not."""

import pandas as pd
import pytest

from knee_jax import targets
from knee_jax.inference.grade import WARNING
from knee_jax.report.graded import render

MEASURED = {
    "jsw_lateral_mm": 5.04,
    "jsw_medial_mm": 3.46,
    "jsw_error_mm": 0.31,
    "joint_angle_deg": -1.26,
    "joint_angle_error_deg": 0.74,
    "axis_angle_deg": None,
    "axis_angle_error_deg": None,
}


@pytest.fixture
def page():
    """The page of one graded knee, of which some things were measured."""

    def made(**measured):
        kl = targets.get("kl")
        row = {"status": "graded", "file": "a <b>.png", "side": "L", "notes": "", "kl_pred": 2}
        row |= dict.fromkeys(kl.output_columns(), 0.2)
        row |= {"kl_expected": 2.1, "kl_confidence": 0.6, "kl_calibrated": True} | measured
        row |= {"reason": "", "detail": ""}
        return render(pd.DataFrame([row]), (kl,), {0: "data:,"}, "a model", WARNING)

    return made


def test_measures_are_told_with_their_errors(page):
    text = page(**MEASURED)
    assert "Joint space width: lateral 5.0 mm, medial 3.5 mm (± 0.3 mm)<br>" in text
    assert "Joint line convergence angle, varus positive: -1.3° (± 0.7°)" in text
    assert "axes" not in text
    assert "a &lt;b&gt;.png" in text


@pytest.mark.parametrize("measured", [{}, dict.fromkeys(MEASURED)])
def test_nothing_is_told_of_what_was_not_measured(measured, page):
    text = page(**measured)
    assert "Joint space" not in text
    assert "nan" not in text


def test_the_knees_of_a_film_stand_in_one_row():
    kl = targets.get("kl")
    of_all = {"status": "graded", "notes": "", "kl_pred": 2, "reason": "", "detail": ""}
    of_all |= dict.fromkeys(kl.output_columns(), 0.2) | {
        "kl_expected": 2.0,
        "kl_confidence": 0.6,
        "kl_calibrated": True,
    }
    names = ["a.png", "film", "film", "b.png"]
    table = pd.DataFrame(
        [of_all | {"file": name, "side": side} for name, side in zip(names, "RRLR")]
    )
    text = render(table, (kl,), {}, "a model", WARNING)
    figures = text.split("<figure")[1:]
    assert ['class="begins"' in each.partition(">")[0] for each in figures] == [
        name == "film" and number == 1 for number, name in enumerate(names)
    ]


def test_widths_without_an_error_stand_alone(page):
    text = page(**MEASURED | {"jsw_error_mm": None, "joint_angle_deg": None})
    assert "Joint space width: lateral 5.0 mm, medial 3.5 mm</p>" in text
