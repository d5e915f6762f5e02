"""Tables as people hand them in: every way of writing one gives the same cells, or one line."""

import logging
import re

import numpy as np
import pandas as pd
import pytest

from knee_jax.errors import UserError
from knee_jax.foreign_tables import decimals, identifiers, numbers, read_rows, read_table
from knee_jax.ingest import contents, progression
from knee_jax.ingest import tables as study_tables
from knee_jax.ingest.landmark_tables import read_locations
from knee_jax.metrics.grade_coherence import list_suspects
from knee_jax.metrics.predictions import read_predictions
from knee_jax.metrics.readers import read_study
from knee_jax.targets.grades import GRADES
from tests.conftest import CASES
from tests.metrics.test_readers import predictions_of

NAMES = ["id", "side", "note"]
CELLS = [["0000099", "R", "NA"], ["007", "L", " a, b; c"], ["1e5", "", 'say "x"']]


def written(rows, separator=",", end="\n"):
    def field(cell):
        quoted = any(mark in cell for mark in (separator, '"', "\n"))
        return f'"{cell.replace(chr(34), chr(34) * 2)}"' if quoted else cell

    return "".join(separator.join(map(field, row)) + end for row in rows)


@pytest.fixture
def table(tmp_path):
    def write(text, encoding="utf-8"):
        path = tmp_path / "table.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
        return path

    return write


class TestForms:
    @pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    @pytest.mark.parametrize(
        "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be"]
    )
    def test_the_same_cells(self, table, separator, end, encoding):
        text = written([NAMES, *CELLS], separator, end)
        mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
        found = read_table(table(mark + text, encoding))
        assert list(found.columns) == NAMES
        assert found.to_numpy().tolist() == CELLS

    def test_named_encodings(self, table):
        text = written([["id"], ["Zürich"]])
        assert read_table(table(text, "cp1252"), "cp1252")["id"].tolist() == ["Zürich"]
        assert read_table(table(text, "utf-16-le"), "utf-16-le")["id"].tolist() == ["Zürich"]
        assert read_table(table(text, "latin-1"), fallback="latin-1")["id"].tolist() == ["Zürich"]

    def test_a_line_for_excel(self, table):
        found = read_table(table("sep=;\nid;x\n1;2\n"))
        assert (found.to_dict("list"), found.index.tolist()) == ({"id": ["1"], "x": ["2"]}, [3])

    def test_lines_are_those_of_the_file(self, table):
        found = read_table(table('id,x\n\n1,"a\nb"\n,\n2,c\n'))
        assert found.index.tolist() == [3, 6]

    def test_one_empty_field_more(self, table):
        for text in ("id,x\n1,2,\n3,4,\n", "id,x,\n1,2,\n3,4,\n", "id,x,\n1,2\n3,4\n"):
            assert read_table(table(text)).to_dict("list") == {"id": ["1", "3"], "x": ["2", "4"]}

    def test_rows_of_any_length(self, table):
        assert read_rows(table("a,b\n\nc\n")) == [(1, ["a", "b"]), (3, ["c"])]


class TestRefused:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a,b\n1,2\n1,2,3\n", r"line 3 has 3 fields, the header 2: name the column"),
            ("a,b\n1,2,3\n4,5,6\n", r"line 2 has 3 fields, the header 2"),
            ("a,b\n1,2,,\n", r"line 2 has 4 fields"),
            ("a,b\n1\n", r"line 2 has 1 fields, the header 2: it breaks off"),
            ("a,,b\n1,2,3\n", r"column 2 has no name"),
            ("a,b,\n1,2,3\n", r"column 3 has no name"),
            ("a,b,a\n1,2,3\n", r"two columns are called a"),
            ('a,b\n1,"2\n3,4\n', r"line 2: a quotation mark is not closed"),
            ("", r"is empty"),
            ("\n \n", r"is empty"),
            (",\n,\n", r"is empty"),
            (b"\xff\xfe", r"is empty"),
            ("a,b\n1,Z\u00fcrich\n".encode("latin-1"), r"byte 8 \(0xfc\), in line 2, is not UTF-8"),
            (b"\xff\xfea\0,\0b", r"in line 1, is not UTF-16"),
            ("a,b\n1,2\n".encode("utf-16-le"), r"bytes of zero.*--encoding=utf-16-le"),
            (b"PK\x03\x04" + bytes(99), r"a workbook or archive; save the sheet as CSV"),
            (b"\x1f\x8b\x08" + bytes(99), r"compressed"),
            ("<!DOCTYPE html><html>", r"a web page"),
        ],
    )
    def test_in_one_line(self, table, text, message):
        path = table(text)
        with pytest.raises(UserError, match=message) as caught:
            read_table(path)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)

    def test_encodings(self, table):
        with pytest.raises(UserError, match="--encoding=klingon: no such encoding"):
            read_table(table("a\n1\n"), "klingon")
        with pytest.raises(UserError, match="--encoding=cp1252"):
            read_table(table(b"a\n\xfc\n"))
        with pytest.raises(UserError, match="is not ASCII"):
            read_table(table(b"a\n\xfc\n"), "ascii")

    def test_files(self, tmp_path):
        with pytest.raises(UserError, match="no such file"):
            read_table(tmp_path / "no.csv")
        with pytest.raises(UserError, match="directory"):
            read_table(tmp_path)


def test_numbers():
    cells = pd.Series(["1", " 2.50 ", "3,5", "1e-3", "", "NA", "x", "-1", "1,2,3"])
    expected = [1, 2.5, 3.5, 1e-3, np.nan, np.nan, np.nan, -1, np.nan]
    np.testing.assert_array_equal(numbers(cells), expected)


def test_identifiers():
    cells = pd.Series(["0000099", "9000099.0", " M001 ", "1.5", "NA"])
    assert identifiers(cells).tolist() == ["0000099", "9000099", "M001", "1.5", "NA"]


def test_decimals():
    assert decimals(pd.DataFrame({"p": ["0.215", "0.04", "1", ".5"]})) == 3
    assert decimals(pd.DataFrame({"p": ["0,21", "0.0000123"]})) == 2


class TestCoherence:
    @pytest.fixture
    def knees(self):
        rng = np.random.default_rng(0)
        rows = [[f"{n:07d}", "NA", *map(str, rng.integers(0, 3, 7))] for n in range(80)]
        return pd.DataFrame(rows, columns=["ID", "note", *GRADES])

    def test_other_columns_are_as_they_were(self, knees, table):
        text = read_table(table(knees.to_csv(index=False)))
        listing = list_suspects(text)
        assert sorted(listing["ID"]) == knees["ID"].tolist()
        assert set(listing["note"]) == {"NA"}

    def test_spreadsheets_agree(self, knees, table):
        expected = list_suspects(read_table(table(knees.to_csv(index=False))))
        floats = knees.copy()
        floats[list(GRADES)] += ".0"
        for text, encoding in (
            (floats.to_csv(index=False), "utf-8"),
            (knees.to_csv(index=False, sep=";"), "utf-16"),
        ):
            found = list_suspects(read_table(table(text, encoding)))
            pd.testing.assert_frame_equal(found, expected)


class TestPredictions:
    def rounded(self, digits, rows=60):
        rng = np.random.default_rng(1)
        odds = rng.dirichlet(np.ones(5), rows)
        columns = {f"kl_p{c}": [f"{p:.{digits}f}" for p in odds[:, c]] for c in range(5)}
        identity = {"subject": [f"{n:05d}" for n in range(rows)], "side": "L", "visit": "0"}
        return pd.DataFrame(
            identity | {"kl": "1", "kl_pred": odds.argmax(axis=1).astype(str)} | columns
        )

    @pytest.mark.parametrize("digits", [2, 3, 4])
    @pytest.mark.parametrize("separator", [",", ";"])
    def test_rounded_probabilities(self, table, caplog, digits, separator):
        cells = self.rounded(digits)
        text = cells.to_csv(index=False, sep=separator)
        if separator == ";":
            text = text.replace(".", ",")
        with caplog.at_level(logging.WARNING):
            found = read_predictions(table(text))
        sums = found.filter(regex="kl_p[0-9]").sum(axis="columns")
        np.testing.assert_allclose(sums, 1, atol=1e-12)
        assert found["subject"].tolist() == cells["subject"].tolist()
        (message,) = caplog.messages
        most = np.abs(cells.filter(regex="kl_p[0-9]").astype(float).sum(axis="columns") - 1).max()
        assert f"{most:.2g}" in message

    def test_more_than_rounding_explains(self, table):
        cells = self.rounded(3)
        cells.loc[7, "kl_p2"] = f"{float(cells.loc[7, 'kl_p2']) + 0.006:.3f}"
        with pytest.raises(UserError, match="kl_p0 to kl_p4 do not sum to 1 in row 8"):
            read_predictions(table(cells.to_csv(index=False)))

    def test_our_own_tables_are_as_they_were(self, table, caplog):
        cells = self.rounded(6)
        found = read_predictions(table(cells.to_csv(index=False)))
        for name in cells.filter(regex="kl_p[0-9]"):
            assert found[name].tolist() == cells[name].astype(float).tolist()
        assert not caplog.messages


def test_readers_of_a_spreadsheet(table):
    truth = np.array([0, 1, 0, 1])
    predictions = predictions_of(truth, truth).assign(subject=["9000001", "9000001", "12", "12"])
    rows = predictions[["subject", "side"]].astype(str).assign(visit="0.0", A=["0", "2", "0", "0"])
    rows["subject"] += ".0"
    study = read_study(table(rows.to_csv(index=False, sep=";"), "utf-16"), predictions)
    assert study.grades["A"].tolist() == [0, 1, 0, 0]


TABLES = CASES / "tables"


@pytest.mark.skipif(not TABLES.exists(), reason=f"{TABLES} is not here")
class TestSharedCases:
    def test_grades(self):
        plain = read_table(TABLES / "c_plain.csv")
        pd.testing.assert_frame_equal(read_table(TABLES / "c_utf16.csv"), plain)
        latin = read_table(TABLES / "c_latin1.csv", "latin-1")
        pd.testing.assert_frame_equal(latin.drop(columns="site"), plain)
        with pytest.raises(UserError, match=r"0xfc.*in line 2.*--encoding"):
            read_table(TABLES / "c_latin1.csv")
        with pytest.raises(UserError, match="line 2 has 11 fields, the header 10"):
            read_table(TABLES / "c_row_one_longer.csv")
        listing = list_suspects(read_table(TABLES / "c_no_identity_id.csv"))
        assert listing["ID"].str.fullmatch(r"\d{7}").all()
        assert set(listing["note"]) == {"NA"}

    def test_predictions(self, caplog):
        plain = read_predictions(TABLES / "p_plain.csv")
        assert not caplog.messages
        rounded = read_predictions(TABLES / "p_round3.csv")
        assert len(caplog.messages) == 1
        columns = [f"kl_p{c}" for c in range(5)]
        rows = plain[columns].to_numpy()[: len(rounded)]
        assert np.abs(rounded[columns].to_numpy() - rows).max() < 0.002


PLANTED = "MUELLER"


def forms_of(rng, rows):
    """A table in another form, with the same cells."""
    separator = str(rng.choice([",", ";", "\t", "|"]))
    end = str(rng.choice(["\n", "\r\n"]))
    text = written(rows, separator, end)
    kind = rng.integers(5)
    if kind == 0:
        text = "".join(f"{line}{separator}{end}" for line in text.split(end)[:-1])
    if kind == 1:
        text = text.removesuffix(end)
    if kind == 2:
        text = f"{end}{text}{end}{end}"
    encoding = str(rng.choice(["utf-8", "utf-8-sig", "utf-16", "utf-32"]))
    return text.encode(encoding)


def damaged(rng, data):
    """A table with bytes flipped, cut off, put in, or swapped."""
    kind = rng.integers(6)
    found = bytearray(data)
    places = rng.integers(0, len(data), rng.integers(1, 6))
    if kind == 0:
        for place in places:
            found[place] = rng.integers(256)
    elif kind == 1:
        found = found[: places[0]]
    elif kind == 2:
        for place in places:
            found[place:place] = bytes([rng.choice(list(b',;\t|"\n\r\0'))])
    elif kind == 3:
        low, high = sorted((places[0], places[-1]))
        found = found[:low] + found[high:]
    elif kind == 4:
        lines = bytes(found).split(b"\n")
        line = rng.integers(len(lines))
        lines[line] = lines[line] + b"," + PLANTED.encode()
        found = bytearray(b"\n".join(lines))
    else:
        found = found[places[0] :] + found[: places[0]]
    return bytes(found)


def outcome(read, path):
    """Files that are read, and the words of a refusal."""
    try:
        return read(path), ""
    except UserError as error:
        return None, str(error)


def fuzz(tmp_path, count):
    """Read tables in other forms and damaged ones by everything that reads a person's tables."""
    rng = np.random.default_rng(11)
    truth = np.array([0, 1] * 6)
    predictions = predictions_of(truth, truth)
    readers = predictions[["subject", "side", "visit"]].astype(str).assign(A="0", B="2")
    points = ",".join(map(str, range(18)))
    landmarks = pd.DataFrame(
        {"subject": ["9000001"], "visit": "0", "side": "L", "tibia_mm": points}
    ).assign(femur_mm=",".join(map(str, range(14))))
    listing = {
        "ParticipantID": "9000001",
        "Folder": "0.C.2/9000001/20040101/00000001",
        "StudyDate": "20040101",
        "SeriesDescription": PLANTED,
    }
    labels = pd.DataFrame({"ID": ["9000001"], "SIDE": "R", "KL": "3", "PROGRESSOR": "2"})
    folder = tmp_path / "tables"
    folder.mkdir()
    kinds = {
        "predictions.csv": (predictions.astype(str), read_predictions),
        "readers.csv": (readers, lambda path: read_study(path, predictions)),
        "keypoints.csv": (
            landmarks,
            lambda _: read_locations(tmp_path, "keypoints"),
        ),
        "contents.csv": (pd.DataFrame([listing]), lambda path: contents.read_contents(path.parent)),
        "labels.csv": (labels, progression.read_labels),
        "study.txt": (labels, lambda path: study_tables.read_table(path, ["ID"])),
    }
    outcomes = {"same": 0, "refused": 0, "read": 0}
    for number in range(count):
        name = list(kinds)[number % len(kinds)]
        cells, read = kinds[name]
        for file in folder.iterdir():
            file.unlink()
        path = folder / name
        rows = [list(cells.columns), *cells.to_numpy().tolist()]
        path.write_text(written(rows), encoding="utf-8")
        expected = read(path)
        data = forms_of(rng, rows)
        is_whole = number % 2
        path.write_bytes(data if is_whole else damaged(rng, data))
        found, error = outcome(read, path)
        if error:
            assert not is_whole, (number, error)
            assert "\n" not in error
            assert PLANTED not in error
            assert not re.search(r"(Error|Exception)\b|object at", error), error
            outcomes["refused"] += 1
        else:
            same = str(found) == str(expected)
            assert same or not is_whole, number
            outcomes["same" if same else "read"] += 1
    return outcomes


def test_some_strange_tables(tmp_path):
    outcomes = fuzz(tmp_path, 36)
    assert outcomes["same"] >= 18
    assert outcomes["refused"] > 5


@pytest.mark.long
def test_five_hundred_strange_tables(tmp_path):
    outcomes = fuzz(tmp_path, 500)
    print(outcomes)
    assert outcomes["same"] >= 250
    assert outcomes["refused"] > 100
