import numpy as np
import pandas as pd
import pytest

from knee_jax.errors import UserError
from knee_jax.ingest.report import INDEX_COLUMNS, IngestReport, example, index_row
from knee_jax.targets.grades import GRADES

LABELS = ("stage", "width_mm")


def knee(**labels):
    identity = {"subject": "9000001", "side": "R", "visit": 0, "cohort": "test", "source": "001"}
    return example(np.zeros((4, 4), np.uint8), np.arange(7) % 4, labels=labels, **identity)


class TestLabels:
    def test_they_follow_the_grades(self, tmp_path):
        report = IngestReport(label_columns=LABELS)
        knees = [
            knee(stage=np.int8(2), width_mm=np.float32(4.1234567)),
            knee(stage=-1, width_mm=float("nan")),
        ]
        report.add("study", (index_row(each, LABELS) for each in knees), [])
        report.write(tmp_path)
        lines = (tmp_path / "index.csv").read_text().splitlines()
        assert lines[0].split(",") == [*INDEX_COLUMNS, *LABELS]
        assert lines[0].endswith(",".join(["", *GRADES, *LABELS]))
        assert [line.split(",")[-2:] for line in lines[1:]] == [["2", "4.12346"], ["-1", ""]]
        index = pd.read_csv(tmp_path / "index.csv")
        assert index["stage"].dtype == np.int64
        np.testing.assert_allclose(index["width_mm"], [4.12346, np.nan])

    def test_a_column_of_which_nothing_is_known(self, tmp_path):
        report = IngestReport(label_columns=["width_mm"])
        report.add("study", [index_row(knee(width_mm=np.nan), ["width_mm"])], [])
        report.write(tmp_path)
        assert (tmp_path / "index.csv").read_text().splitlines()[1].endswith(",")

    def test_a_knee_without_one_is_a_mistake(self):
        with pytest.raises(KeyError, match="width_mm"):
            index_row(knee(stage=1), LABELS)

    def test_a_set_without_them(self, tmp_path):
        report = IngestReport()
        report.add("study", [index_row(knee())], [])
        report.write(tmp_path)
        assert pd.read_csv(tmp_path / "index.csv").columns.tolist() == list(INDEX_COLUMNS)


@pytest.mark.parametrize("grade", [7, 1.5, -2, np.nan, "n.d."])
def test_a_grade_off_its_scale_is_refused_by_knee_and_file(grade):
    image = np.zeros((8, 8), np.uint8)
    knee = {"subject": "P3", "side": "L", "visit": 0, "cohort": "own", "source": "a.png"}
    with pytest.raises(UserError, match=r"a.png: kl of knee P3 L is .*, not a grade from 0 to 4"):
        example(image, np.array([grade, *[0] * 6], object), **knee)
    kept = example(image, np.array([4.0, *[-1] * 5, 3]), **knee)["grades"]
    assert kept.dtype == np.int8
    assert kept.tolist() == [4, *[-1] * 5, 3]


@pytest.mark.parametrize("value", ["not read", np.inf, -np.inf, None])
def test_a_label_that_is_no_number_is_refused_by_knee_and_file(value):
    with pytest.raises(UserError, match=r"001: width_mm of knee 9000001 R is .*, not a number"):
        knee(width_mm=value)
    assert np.isnan(knee(width_mm=np.float32("nan"))["width_mm"])
