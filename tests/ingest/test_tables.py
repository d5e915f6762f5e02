import numpy as np
import pandas as pd
import pytest

from knee_jax.errors import UserError
from knee_jax.ingest.tables import codes, find_table, look_for_table, named, numbers, read_table

from .sas import write_sas7bdat


def write(path, content="ID|X\n1|2\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("latin-1"))
    return path


class TestFinding:
    def test_in_any_case_and_below_the_folder(self, tmp_path):
        path = write(tmp_path / "General_ASCII" / "Enrollees.TXT")
        write(tmp_path / "General_ASCII" / "enrollees_contents.txt")
        assert find_table(tmp_path, "enrollees") == path
        assert look_for_table(tmp_path, "outcomes99") is None

    def test_sas_file_before_its_twin(self, tmp_path):
        write(tmp_path / "ASCII" / "enrollees.txt")
        path = write(tmp_path / "SAS" / "enrollees.sas7bdat", b"")
        assert find_table(tmp_path, "enrollees") == path

    def test_twice(self, tmp_path):
        for folder in ("new", "old"):
            write(tmp_path / folder / "enrollees.txt")
        with pytest.raises(UserError, match=r"new/enrollees\.txt and .*old/enrollees\.txt"):
            find_table(tmp_path, "enrollees")

    def test_two_releases(self, tmp_path):
        for name in ("enrollees.sas7bdat", "oai_enrollee01.txt"):
            write(tmp_path / name)
        with pytest.raises(UserError, match=r"enrollees\.sas7bdat and .*oai_enrollee01\.txt"):
            find_table(tmp_path, "enrollees", "oai_enrollee01")

    def test_folder_of_the_same_name(self, tmp_path):
        path = write(tmp_path / "enrollees.txt" / "enrollees.txt")
        assert find_table(tmp_path, "enrollees") == path

    def test_links_are_followed(self, tmp_path):
        write(tmp_path / "disk" / "a" / "enrollees.txt")
        (tmp_path / "tables").mkdir()
        (tmp_path / "tables" / "ascii").symlink_to(tmp_path / "disk")
        (tmp_path / "tables" / "again").symlink_to(tmp_path / "tables")
        found = find_table(tmp_path / "tables", "enrollees")
        assert found == tmp_path / "tables" / "ascii" / "a" / "enrollees.txt"

    def test_nowhere(self, tmp_path):
        with pytest.raises(UserError, match=r"enrollees\.sas7bdat or enrollees\.txt is missing"):
            find_table(tmp_path, "enrollees")


class TestReading:
    @pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
    def test_text_as_utf_16(self, tmp_path, encoding):
        path = write(tmp_path / "a.txt", "\ufeffID|X\n1|2\n".encode(encoding))
        assert read_table(path).to_dict("list") == {"ID": ["1"], "X": ["2"]}

    @pytest.mark.parametrize("separator", ["|", ",", "\t"])
    def test_separators(self, tmp_path, separator):
        text = "\n".join(separator.join(line) for line in (["id ", "V00x"], ["0123", " "]))
        table = read_table(write(tmp_path / "a.txt", text), ["ID", "V00X"])
        assert table.to_dict("list") == {"ID": ["0123"], "V00X": [" "]}

    def test_line_that_describes_the_columns(self, tmp_path):
        text = "subjectkey\tx\nThe unique key\tWhat x is\nNDAR1\t2\nNDAR2\t3\n"
        table = read_table(write(tmp_path / "oai_x01.txt", text))
        assert table["X"].tolist() == ["2", "3"]
        assert table.index.tolist() == [0, 1]

    def test_sas_file_with_special_values(self, tmp_path):
        values = {"id": ["9000099", "9000296", "9"], "V00XRKL": [2.0, "P", np.nan]}
        write_sas7bdat(tmp_path / "a.sas7bdat", values)
        table = read_table(tmp_path / "a.sas7bdat", ["ID", "V00XRKL"])
        assert table["ID"].tolist() == values["id"]
        assert codes(table["V00XRKL"]).tolist() == ["2.0", "P", ""]
        np.testing.assert_array_equal(numbers(table["V00XRKL"], tmp_path), [2.0, np.nan, np.nan])

    @pytest.mark.parametrize("name", ["a.txt", "a.sas7bdat"])
    def test_web_page(self, tmp_path, name):
        path = write(tmp_path / name, "\n<!DOCTYPE html><html>Please log in</html>")
        with pytest.raises(UserError, match=f"{name}: a web page"):
            read_table(path)

    @pytest.mark.parametrize("content", ["ID|X\n", "subjectkey\tID\tX\nin words\ta\tb\n"])
    def test_no_rows(self, tmp_path, content):
        with pytest.raises(UserError, match=r"a\.txt: the table has no rows"):
            read_table(write(tmp_path / "a.txt", content), ["ID", "X"])

    def test_sas_file_without_rows(self, tmp_path):
        write_sas7bdat(tmp_path / "a.sas7bdat", {"ID": [], "X": []})
        with pytest.raises(UserError, match=r"a\.sas7bdat: the table has no rows"):
            read_table(tmp_path / "a.sas7bdat", ["ID", "X"])

    def test_sas_file_that_is_none(self, tmp_path):
        with pytest.raises(UserError, match=r"a\.sas7bdat: not a table"):
            read_table(write(tmp_path / "a.sas7bdat", "not a SAS file"))

    def test_sas_file_that_was_cut_off(self, tmp_path):
        path = tmp_path / "a.sas7bdat"
        write_sas7bdat(path, {"ID": ["1", "2"], "X": [1.0, 2.0]})
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(UserError, match=r"a\.sas7bdat: not a table"):
            read_table(path)

    @pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\x01" * 50, "ID|X\n1|2|3|4\n1|2\n"])
    def test_text_file_that_is_none(self, tmp_path, content):
        with pytest.raises(UserError, match=r"a\.txt"):
            read_table(write(tmp_path / "a.txt", content), ["ID", "Y"])

    def test_text_file_that_was_cut_off(self, tmp_path):
        path = write(tmp_path / "a.txt", "ID|X|Y\n1|2|3\n\n4|5|\n6|7")
        with pytest.raises(UserError, match=r"a\.txt: line 5 has 2 fields, .*it breaks off"):
            read_table(path)

    def test_rows_without_the_last_separator_of_the_header(self, tmp_path):
        table = read_table(write(tmp_path / "a.txt", "ID|X|\n1|2\n3|4\n"), ["ID", "X"])
        assert table["X"].tolist() == ["2", "4"]

    def test_byte_order_mark(self, tmp_path):
        table = read_table(write(tmp_path / "a.txt", b"\xef\xbb\xbfID|X\n1|2\n"), ["ID", "X"])
        assert table["ID"].tolist() == ["1"]

    def test_missing_column(self, tmp_path):
        with pytest.raises(UserError, match=r"a\.txt: the column Y is missing"):
            read_table(write(tmp_path / "a.txt"), ["ID", "Y"])


class TestValues:
    def test_names_of_codes(self, tmp_path):
        column = pd.Series(["1: Male", "2", "2.0", ".M: Missing", "", "."], name="P02SEX")
        assert named(column, {"1": "M", "2": "F"}, tmp_path).tolist() == ["M", "F", "F", *[""] * 3]

    def test_code_without_a_name(self, tmp_path):
        column = pd.Series(["1", "3: Other"], name="P02SEX")
        with pytest.raises(
            UserError, match=r"row 2 of column P02SEX holds another code than 1, 2;"
        ):
            named(column, {"1": "M", "2": "F"}, tmp_path)

    def test_number_that_is_none(self, tmp_path):
        with pytest.raises(UserError, match="row 3 of column X holds neither a number nor a code"):
            numbers(pd.Series(["1", ".T: poor", "two"], name="X"), tmp_path)
