"""The shipped models through the server: a film's rows are those of `knee-jax predict`."""

import json

import pytest

from knee_jax.inference import grade, locate, models
from knee_jax.phantom.study import write_study
from knee_jax.serve import grading
from tests.serve.conftest import Here

COUNTED = ("landmark_error", "novelty", "jsw", "joint_angle", "axis_angle", "kl_p", "kl_e", "kl_c")


@pytest.mark.slow
def test_rows_of_a_film_are_those_of_predict_whatever_the_batch(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(grading, "GRADER_SIZES", (8,))
    monkeypatch.setattr(grading, "LOCALISER_SIZES", (16,))
    write_study(tmp_path / "study", num_subjects=2, visits=(0,), rows=768, progress=False)
    folder = tmp_path / "films"
    folder.mkdir()
    for number, path in enumerate(sorted((tmp_path / "study").rglob("001"))):
        path.rename(folder / f"film_{number}.dcm")
    predictor = models.load("kl-kneekl224")
    expected = json.loads(grade.grade(predictor, [folder]).to_json(orient="records"))
    assert {row["status"] for row in expected} == {"graded"}
    assert len(expected) == 4
    client = serve(Here(), predictor=predictor, localiser=locate.shipped(), lanes=2)
    files = [("files", (path.name, path.read_bytes())) for path in sorted(folder.iterdir())]
    rows = client.post("/predict", files=files).json()["rows"]
    for row, wanted in zip(rows, expected, strict=True):
        assert row.pop("picture")
        assert row.pop("in_doubt") in (True, False)
        numbers = {name for name in wanted if name.startswith(COUNTED) and wanted[name] is not None}
        for name in numbers:
            # Angles are told in hundredths of a degree, to which a hair's breadth may round them.
            tolerance = 0.0101 if "angle" in name else 2e-6
            assert row[name] == pytest.approx(wanted[name], abs=tolerance), name
        assert {n: v for n, v in row.items() if n not in numbers} == {
            n: v for n, v in wanted.items() if n not in numbers
        }
