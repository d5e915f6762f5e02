import numpy as np
import pandas as pd
import pytest

from knee_jax.errors import UserError
from knee_jax.ingest.inventory import Rules
from knee_jax.ingest.readings import VISITS, read_readings, round_grades
from knee_jax.phantom.study import write_study
from knee_jax.targets.grades import GRADES

from .sas import write_sas7bdat


def read(folder, visit=0, **rules):
    """The readings of one visit by (subject, side), and the counts that are not 0."""
    found, notes = read_readings(folder, [visit], Rules(**rules))
    assert all(month == visit for *_, month in found)
    counts = {name: count for name, count in notes.items() if count}
    return {(subject, side): reading for (subject, side, _), reading in found.items()}, counts


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
        readings, counts = read(tmp_path, 0)
        assert set(readings) == {("9000099", "R"), ("9000099", "L")}
        assert readings["9000099", "R"].grades.tolist() == [2, 1, 0, 3, 2, 0, 1]
        assert readings["9000099", "L"].grades.tolist() == [3, 0, 1, 2, 3, 1, 2]
        assert not counts

    def test_columns_in_any_case_and_order(self, make, tmp_path):
        row = ("9000099", 2, 15, 4, 1, 2, 3, 0, 1, 2)
        header, values = (line.split("|") for line in make.table(24, [row]).splitlines())
        shuffled = ["|".join(["extra", *line[::-1]]) for line in (header, values)]
        (tmp_path / "KXR_SQ_BU03.TXT").write_text("\n".join(shuffled).lower())
        readings, _ = read(tmp_path, 24)
        assert readings["9000099", "L"].grades.tolist() == [4, 1, 2, 3, 0, 1, 2]

    def test_commas_instead_of_bars(self, make, tmp_path):
        row = ("9000099", 2, 15, "1: a|b", 1, 2, 3, 0, 1, 2)
        text = make.table(0, [row]).replace("|", ",")
        (tmp_path / "kxr_sq_bu00.csv").write_text(text.replace("a,b", "a|b"))
        readings, _ = read(tmp_path, 0)
        assert readings["9000099", "L"].grades.tolist() == [1, 1, 2, 3, 0, 1, 2]

    def test_special_missing_codes(self, make, tmp_path):
        missing = [".T: Technical problems", ".A: Not expected", ".M", ".", "", " ", "P"]
        rows = [
            ("1", 1, 15, *missing),
            ("1", 2, 15, ".P: Prosthetic", *[".P: Prosthetic"] * 6),
        ]
        write_table(tmp_path, make.table(0, rows))
        readings, counts = read(tmp_path, 0)
        for reading in readings.values():
            assert reading.grades.tolist() == [-1] * 7
        names = ("prosthesis", "poor_film", "not_expected", "missing")
        coded = dict(zip((f"readings_coded_{name}" for name in names), (2, 1, 1, 1)))
        assert counts == coded | {"unread_poor_film": 1}
        assert not readings["1", "R"].unusable
        assert readings["1", "L"].unusable == "prosthesis"

    def test_project_priority(self, make, tmp_path):
        kl = dict(zip((42, 37, 15), (4, 2, 1)))
        rows = [("1", 1, project, grade, *[0] * 6) for project, grade in kl.items()]
        rows += [("2", 1, project, kl[project], *[0] * 6) for project in (42, 37)]
        rows += [("3", 1, 42, 4, *[0] * 6)]
        rows += [("4", 1, 15, *[".T"] * 7), ("4", 1, 37, 2, *[1] * 6)]
        write_table(tmp_path, make.table(0, rows))
        readings, counts = read(tmp_path, 0)
        assert [grades_of(readings[s, "R"])["kl"] for s in "1234"] == [1, 2, 4, 2]
        assert counts == {"other_projects": 4}

    def test_prosthesis_counts_before_a_grade_of_a_later_project(self, make, tmp_path):
        rows = [("1", 1, 37, 2, *[0] * 6), ("1", 1, 15, *[".P"] * 7)]
        write_table(tmp_path, make.table(0, rows))
        readings, _ = read(tmp_path, 0)
        assert readings["1", "R"].unusable == "prosthesis"

    def test_projects_that_are_not_listed_are_left_out_loudly(self, make, tmp_path):
        rows = [("1", 1, 37, 2, *[0] * 6), ("1", 1, 15, 1, *[0] * 6), ("2", 1, 15, 0, *[0] * 6)]
        rows += [("3", 2, 42, 3, *[0] * 6), ("3", 2, 37, 2, *[0] * 6), ("4", 1, "", 1, *[0] * 6)]
        rows += [("5", 1, 42, *[".P"] * 7)]
        write_table(tmp_path, make.table(0, rows))
        readings, counts = read(tmp_path, projects=(15,))
        assert [grades_of(readings[s, "R"])["kl"] for s in "12"] == [1, 0]
        lost = {knee: r for knee, r in readings.items() if r.unusable}
        assert set(lost) == {("3", "L"), ("4", "R"), ("5", "R")}
        assert {r.unusable for r in lost.values()} == {"other_project"}
        assert "project 42 alone" in lost["3", "L"].detail
        assert all((r.grades == -1).all() for r in lost.values())
        assert counts == {
            "readings_of_project_37_left_out": 2,
            "readings_of_project_42_left_out": 2,
            "readings_of_project_nan_left_out": 1,
        } | {"readings_coded_prosthesis": 1}

    def test_published_order_is_the_first_row_in_the_file(self, make, tmp_path):
        rows = [("1", 1, 42, *[".T"] * 7), ("1", 1, 15, 2, *[1] * 6), ("2", 1, 37, 1, *[0] * 6)]
        rows += [("2", 1, 15, 3, *[0] * 6), ("2", 1, 15, 2, *[0] * 6), ("2", 1, 15, 2, *[0] * 6)]
        write_table(tmp_path, make.table(0, rows))
        for order, kl in (("projects", [2, 3]), ("file", [-1, 1])):
            readings, counts = read(tmp_path, order=order)
            assert [grades_of(readings[s, "R"])["kl"] for s in "12"] == kl
            assert counts["other_projects"] == 2
            assert counts["duplicate_readings"] == 2
        frame = pd.read_csv(tmp_path / "kxr_sq_bu00.txt", sep="|", dtype=str)
        first = frame.drop_duplicates(["ID", "SIDE"]).set_index("ID")["V00XRKL"]
        assert first.tolist() == [".T", "1"]

    def test_duplicate_rows_count_once(self, make, tmp_path):
        rows = [("1", 1, 15, kl, *[0] * 6) for kl in (2, 2, 3)]
        write_table(tmp_path, make.table(0, [*rows, ("1", 2, 15, 0, *[0] * 6)]))
        readings, counts = read(tmp_path, 0)
        assert len(readings) == 2
        assert grades_of(readings["1", "R"])["kl"] == 2
        assert counts == {"duplicate_readings": 2}

    def test_beyond_the_scale(self, make, tmp_path):
        write_table(tmp_path, make.table(0, [("1", 1, 15, 8, 4, 0, 0, 0, 9, 3)]))
        readings, counts = read(tmp_path, 0)
        assert readings["1", "R"].grades.tolist() == [-1, -1, 0, 0, 0, -1, 3]
        assert counts["grades_out_of_range"] == 3

    def test_codes_are_counted_by_reading_and_by_what_stands_for_kl(self, make, tmp_path):
        kl = ("", ".T", ".A", ".M", ".", "8", "2", "1: doubtful")
        rest = ("", "", ".A", "", "", "", ".A: Not expected", ".A")
        rows = [(str(i), 1, 15, a, *[b] * 6) for i, (a, b) in enumerate(zip(kl, rest))]
        write_table(tmp_path, make.table(0, rows))
        readings, counts = read(tmp_path)
        assert not any(reading.unusable for reading in readings.values())
        found = [readings[str(i), "R"].grades[0] for i in range(len(kl))]
        assert found == [-1] * 6 + [2, 1]
        assert counts == {
            "readings_coded_poor_film": 1,
            "readings_coded_not_expected": 3,
            "readings_coded_missing": 1,
            "unread_blank": 3,
            "unread_poor_film": 1,
            "unread_not_expected": 1,
            "unread_missing": 1,
            "grades_out_of_range": 1,
        }

    def test_another_version_is_counted(self, make, tmp_path):
        text = make.table(0, [(str(i), 1, 15, *[0] * 7) for i in range(5)])
        lines = text.splitlines()
        versions = ["VERSION", "0.8", "0.8", "0.9", "0.8", "0.7"]
        write_table(tmp_path, "\n".join(map("|".join, zip(lines, versions))))
        assert read(tmp_path)[1] == {"readings_of_another_version": 2}

    def test_interim_visits_are_passed_over(self, make, tmp_path):
        write_table(tmp_path, make.table(0, [("1", 1, 15, *[0] * 7)]))
        found, _ = read_readings(tmp_path, [0, 18, 30])
        assert list(found) == [("1", "R", 0)]

    def test_tables_of_visits_that_are_not_asked_for_are_read_where_they_are(self, make, tmp_path):
        for visit in (0, 12, 96):
            text = make.table(visit, [("1", 1, 15, *[0] * 7)])
            write_table(tmp_path, text, VISITS[visit])
        found, _ = read_readings(tmp_path, [12])
        assert list(found) == [("1", "R", visit) for visit in (0, 12, 96)]
        with pytest.raises(UserError, match=r"kxr_sq_bu05\.sas7bdat .* is missing"):
            read_readings(tmp_path, [36])


class TestArchive:
    """`oai_kxrsemiquant01.txt` of the NIMH Data Archive."""

    HEADER = ("subjectkey", "src_subject_id", "visit", "readprj", "side")

    def write(self, folder, rows, header=HEADER):
        columns = [*header, *(f"xr{grade}" for grade in GRADES), "barcode"]
        lines = [columns, ["Described in some words"] * len(columns), *rows]
        text = "\n".join("\t".join(f'"{cell}"' for cell in line) for line in lines)
        (folder / "oai_kxrsemiquant01.txt").write_text(text)

    def test_visits_sides_and_projects(self, tmp_path):
        rows = [
            ("NDAR1", "9000099", "V00", 15, 1, 2, 1, 0, 3, 2, 0, 1, "0123"),
            ("NDAR1", "9000099", "V00", 37, 1, 0, 0, 0, 0, 0, 0, 0, "0123"),
            ("NDAR1", "9000099", "V00", 15, 2, 3, 0, 1, 2, 3, 1.2, 2, "0123"),
            ("NDAR1", "9000099", "V08", 42, 2, 4, 0, 1, 2, 3, "", 3, "0124"),
            ("NDAR2", "9000296", "V10", 37, 1, "", "", "", "", "", "", "", "0125"),
            ("NDAR2", "9000296", "V06", 15, 1, *[0] * 7, "0126"),
        ]
        self.write(tmp_path, rows)
        rows.append(("NDAR2", "9000296", "V09", 15, 1, *[0] * 7, "0127"))
        self.write(tmp_path, rows)
        found, notes = read_readings(tmp_path, (0, 72, 96))
        assert {knee: r.grades.tolist() for knee, r in found.items()} == {
            ("9000099", "R", 0): [2, 1, 0, 3, 2, 0, 1],
            ("9000099", "L", 0): [3, 0, 1, 2, 3, 1, 2],
            ("9000099", "L", 72): [4, 0, 1, 2, 3, -1, 3],
            ("9000296", "R", 96): [-1] * 7,
            ("9000296", "R", 48): [0] * 7,
        }
        assert {name: count for name, count in notes.items() if count} == {
            "other_projects": 1,
            "unread_blank": 1,
            "readings_of_unknown_visits": 1,
        }

    def test_without_the_study_s_ids_and_without_a_description(self, tmp_path):
        header = ["subjectkey", "visit", "readprj", "side"]
        self.write(tmp_path, [("9000099", "v01", 15, 2, *[1] * 7, "0123")], header)
        path = tmp_path / "oai_kxrsemiquant01.txt"
        assert set(read(tmp_path, 12)[0]) == {("9000099", "L")}
        lines = path.read_text().splitlines()
        path.write_text("\n".join([lines[0], *lines[2:]]))
        assert set(read(tmp_path, 12)[0]) == {("9000099", "L")}

    def test_visit_that_is_not_there(self, tmp_path):
        self.write(tmp_path, [("NDAR1", "9000099", "V00", 15, 1, *[0] * 7, "0123")])
        with pytest.raises(UserError, match=r"no row is of V08 \(month 72\)"):
            read(tmp_path, 72)

    def test_missing_column(self, tmp_path):
        self.write(tmp_path, [("NDAR1", "9000099", "V00", 15, 1, *[0] * 7, "0123")])
        path = tmp_path / "oai_kxrsemiquant01.txt"
        path.write_text(path.read_text().replace("xrostm", "xrost"))
        with pytest.raises(UserError, match=r"oai_kxrsemiquant01\.txt.*XROSTM is missing"):
            read(tmp_path)

    def test_both_releases_are_refused(self, make, tmp_path):
        self.write(tmp_path, [("NDAR1", "9000099", "V00", 15, 1, *[0] * 7, "0123")])
        write_table(tmp_path, make.table(0, [("1", 1, 15, *[0] * 7)]))
        with pytest.raises(UserError, match=r"kxr_sq_bu00\.txt and .*oai_kxrsemi.*two releases"):
            read(tmp_path)


MONTHS = (0, 12, 96)


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    """The phantom's tables by release; SAS files are made of the text."""
    root = tmp_path_factory.mktemp("releases")
    size = {"num_subjects": 40, "visits": MONTHS, "rows": 32, "progress": False}
    for release in ("study", "archive"):
        write_study(root / release, release=release, **size)
    sas = root / "sas"
    sas.mkdir()
    for visit in MONTHS:
        name = f"kxr_sq_bu{VISITS[visit]}"
        path = root / "study" / "tables" / f"{name}.txt"
        text = pd.read_csv(path, sep="|", dtype=str, keep_default_na=False)
        write_sas7bdat(sas / f"{name}.sas7bdat", {c: as_sas(c, text[c]) for c in text.columns})
    return {"sas": sas} | {name: root / name / "tables" for name in ("study", "archive")}


def as_sas(column, cells):
    """Ids, versions and barcodes are text, all else numbers and letters."""
    codes = [cell.split(":")[0].strip().removeprefix(".") for cell in cells]
    if column.upper() in ("ID", "VERSION") or column.upper().endswith("BARCDBU"):
        return codes
    return [code if code.isalpha() else float(code or "nan") for code in codes]


class TestReleases:
    def test_sas_files_hold_the_same(self, releases):
        text, notes = read_readings(releases["study"], MONTHS)
        sas, notes_of_sas = read_readings(releases["sas"], MONTHS)
        assert list(text) == list(sas)
        for knee, reading in text.items():
            np.testing.assert_array_equal(reading.grades, sas[knee].grades)
            assert reading.unusable == sas[knee].unusable
        assert notes == notes_of_sas
        assert notes["readings_coded_prosthesis"] > 0
        assert notes["readings_coded_not_expected"] > 0

    def test_the_archive_holds_the_same_but_for_special_codes(self, releases):
        text, notes = read_readings(releases["study"], MONTHS)
        archive, notes_of_archive = read_readings(releases["archive"], MONTHS)
        assert set(text) == set(archive)
        for knee, reading in text.items():
            np.testing.assert_array_equal(reading.grades, archive[knee].grades)
            assert not archive[knee].unusable
        assert notes["other_projects"] == notes_of_archive["other_projects"] > 0
        lost = sum(count for name, count in notes.items() if name.startswith("unread_"))
        lost += sum(reading.unusable == "prosthesis" for reading in text.values())
        assert notes_of_archive["unread_blank"] == lost


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


class TestUserErrors:
    def test_missing_table(self, tmp_path):
        with pytest.raises(UserError, match=r"kxr_sq_bu03\.sas7bdat or kxr_sq_bu03\.txt"):
            read(tmp_path, 24)

    def test_missing_column(self, make, tmp_path):
        text = make.table(0, [("1", 1, 15, *[0] * 7)])
        write_table(tmp_path, text.replace("V00XROSTM", "V00XR"))
        with pytest.raises(UserError, match=r"kxr_sq_bu00\.txt.*V00XROSTM"):
            read(tmp_path, 0)

    def test_table_of_another_visit(self, make, tmp_path):
        write_table(tmp_path, make.table(12, [("1", 1, 15, *[0] * 7)]))
        with pytest.raises(UserError, match=r"kxr_sq_bu00\.txt: its columns are of V01, not V00"):
            read(tmp_path, 0)

    def test_unknown_order(self, make, tmp_path):
        with pytest.raises(UserError, match="'newest': choose projects or file"):
            read(tmp_path, order="newest")

    def test_strange_value(self, make, tmp_path):
        write_table(tmp_path, make.table(0, [("1", 1, 15, "two", *[0] * 6)]))
        with pytest.raises(UserError, match=r"kxr_sq_bu00\.txt: row 1 .*V00XRKL holds neither"):
            read(tmp_path, 0)

    @pytest.mark.parametrize("side", ["3: Both", ""])
    def test_strange_side(self, make, tmp_path, side):
        rows = [("1", 1, 15, *[0] * 7), ("1", side, 15, *[0] * 7)]
        write_table(tmp_path, make.table(0, rows))
        with pytest.raises(UserError, match="SIDE of row 2"):
            read(tmp_path, 0)
