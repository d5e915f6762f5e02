import numpy as np
import pandas as pd
import pytest

from knee_jax.errors import UserError
from knee_jax.grades import GRADES
from knee_jax.ingest.readings import codes, read_readings, read_sites, round_grades


def write_table(folder, text, visit="00"):
    (folder / f"kxr_sq_bu{visit}.txt").write_text(text)


def grades_of(reading):
    return dict(zip(GRADES, reading.grades.tolist()))


class TestTable:
    def test_grades_sides_and_ids(self, make, tmp_path):
        rows = [
            ("9000099", "1: Right", 15, 2, 1, 0, 3, 2, 0, 1),
            ("9000099", "2: Left", 15, "3: moderate", 0, 1, 2, 3, "1: mild", 2),
        ]
        write_table(tmp_path, make.table(0, rows))
        readings, counts = read_readings(tmp_path, 0)
        assert set(readings) == {("9000099", "R"), ("9000099", "L")}
        assert readings["9000099", "R"].grades.tolist() == [2, 1, 0, 3, 2, 0, 1]
        assert readings["9000099", "L"].grades.tolist() == [3, 0, 1, 2, 3, 1, 2]
        assert not any(counts.values())

    def test_columns_in_any_case_and_order(self, make, tmp_path):
        row = ("9000099", 2, 15, 4, 1, 2, 3, 0, 1, 2)
        header, values = (line.split("|") for line in make.table(24, [row]).splitlines())
        shuffled = ["|".join(["extra", *line[::-1]]) for line in (header, values)]
        (tmp_path / "KXR_SQ_BU03.TXT").write_text("\n".join(shuffled).lower())
        readings, _ = read_readings(tmp_path, 24)
        assert readings["9000099", "L"].grades.tolist() == [4, 1, 2, 3, 0, 1, 2]

    def test_commas_instead_of_bars(self, make, tmp_path):
        row = ("9000099", 2, 15, "1: a|b", 1, 2, 3, 0, 1, 2)
        text = make.table(0, [row]).replace("|", ",")
        (tmp_path / "kxr_sq_bu00.csv").write_text(text.replace("a,b", "a|b"))
        readings, _ = read_readings(tmp_path, 0)
        assert readings["9000099", "L"].grades.tolist() == [1, 1, 2, 3, 0, 1, 2]

    def test_special_missing_codes(self, make, tmp_path):
        missing = [".T: Technical problems", ".A: Not expected", ".M", ".", "", " ", "P"]
        rows = [
            ("1", 1, 15, *missing),
            ("1", 2, 15, ".P: Prosthetic", *[".P: Prosthetic"] * 6),
        ]
        write_table(tmp_path, make.table(0, rows))
        readings, _ = read_readings(tmp_path, 0)
        for reading in readings.values():
            assert reading.grades.tolist() == [-1] * 7
        assert not readings["1", "R"].unusable
        assert readings["1", "L"].unusable == "prosthesis"

    def test_project_priority(self, make, tmp_path):
        kl = dict(zip((42, 99, 37, 15), (4, 3, 2, 1)))
        rows = [("1", 1, project, grade, *[0] * 6) for project, grade in kl.items()]
        rows += [("2", 1, project, kl[project], *[0] * 6) for project in (99, 42, 37)]
        rows += [("3", 1, project, kl[project], *[0] * 6) for project in (99, 42)]
        rows += [("4", 1, 15, *[".T"] * 7), ("4", 1, 37, 2, *[1] * 6)]
        write_table(tmp_path, make.table(0, rows))
        readings, counts = read_readings(tmp_path, 0)
        assert [grades_of(readings[s, "R"])["kl"] for s in "1234"] == [1, 2, 4, 2]
        assert counts["other_projects"] == 7
        assert counts["duplicate_readings"] == 0

    def test_duplicate_rows_count_once(self, make, tmp_path):
        rows = [("1", 1, 15, kl, *[0] * 6) for kl in (2, 2, 3)]
        write_table(tmp_path, make.table(0, [*rows, ("1", 2, 15, 0, *[0] * 6)]))
        readings, counts = read_readings(tmp_path, 0)
        assert len(readings) == 2
        assert grades_of(readings["1", "R"])["kl"] == 2
        assert counts == {"duplicate_readings": 2, "other_projects": 0, "grades_out_of_range": 0}

    def test_beyond_the_scale(self, make, tmp_path):
        write_table(tmp_path, make.table(0, [("1", 1, 15, 8, 4, 0, 0, 0, 9, 3)]))
        readings, counts = read_readings(tmp_path, 0)
        assert readings["1", "R"].grades.tolist() == [-1, -1, 0, 0, 0, -1, 3]
        assert counts["grades_out_of_range"] == 3

    def test_sites(self, tmp_path):
        (tmp_path / "enrollees.txt").write_text("id|v00site|X\n9000099|C: Baltimore|\n9|A|\n")
        assert read_sites(tmp_path) == {"9000099": "C", "9": "A"}


class TestRounding:
    def test_within_grade_decimals_are_cut_off(self):
        values = np.array([[1.9, 0.5, 1.5, 2.5, 3.4, 2.9, np.nan]])
        grades, beyond = round_grades(values)
        assert grades.tolist() == [[1, 0, 1, 2, 3, 2, -1]]
        assert beyond == 0
        assert grades.dtype == np.int8

    def test_published_rounding_is_half_to_even(self):
        values = np.array([[1.9, 0.5, 1.5, 2.5, 3.4, 2.9, np.nan]])
        grades, beyond = round_grades(values, "half_even")
        assert grades.tolist() == [[2, 0, 2, 2, 3, 3, -1]]
        assert beyond == 0


def test_codes_of_a_sas_file():
    """With user_missing, pyreadstat gives numbers and letters in one column of objects."""
    column = pd.Series([2.0, "P", np.nan, 1.5, "T"], dtype=object)
    assert codes(column).tolist() == ["2.0", "P", "", "1.5", "T"]


class TestUserErrors:
    def test_missing_table(self, tmp_path):
        with pytest.raises(UserError, match=r"kxr_sq_bu03\.sas7bdat or kxr_sq_bu03\.txt"):
            read_readings(tmp_path, 24)

    def test_missing_column(self, make, tmp_path):
        text = make.table(0, [("1", 1, 15, *[0] * 7)])
        write_table(tmp_path, text.replace("V00XROSTM", "V00XR"))
        with pytest.raises(UserError, match=r"kxr_sq_bu00\.txt.*V00XROSTM"):
            read_readings(tmp_path, 0)

    def test_strange_value(self, make, tmp_path):
        write_table(tmp_path, make.table(0, [("1", 1, 15, "two", *[0] * 6)]))
        with pytest.raises(UserError, match=r"kxr_sq_bu00\.txt.*V00XRKL.*'two'"):
            read_readings(tmp_path, 0)

    @pytest.mark.parametrize("side", ["3: Both", ""])
    def test_strange_side(self, make, tmp_path, side):
        rows = [("1", 1, 15, *[0] * 7), ("1", side, 15, *[0] * 7)]
        write_table(tmp_path, make.table(0, rows))
        with pytest.raises(UserError, match="SIDE of row 2"):
            read_readings(tmp_path, 0)

    def test_sas_file_that_is_none(self, tmp_path):
        (tmp_path / "kxr_sq_bu00.sas7bdat").write_text("not a SAS file")
        with pytest.raises(UserError, match=r"kxr_sq_bu00\.sas7bdat"):
            read_readings(tmp_path, 0)

    @pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\x01" * 50])
    def test_text_file_that_is_none(self, tmp_path, content):
        (tmp_path / "kxr_sq_bu00.txt").write_bytes(content)
        with pytest.raises(UserError, match=r"kxr_sq_bu00\.txt"):
            read_readings(tmp_path, 0)
