"""A study laid out as MOST's, written by hand."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pydicom
import pytest

from knee_jax.errors import UserError
from knee_jax.ingest.film import Roi
from knee_jax.ingest.inventory import Rules
from knee_jax.ingest.report import Exclusion, IngestReport, index_row
from knee_jax.ingest.study import plan_study
from knee_jax.targets.grades import GRADES

from .sas import write_sas7bdat

ROI = Roi(140, 70)
WIDTH_MM = 320.0
# Right and left knee of the first subject at visits 0 and 3, and of the second likewise.
CELLS = {
    "M00123": {"V0XR": "2|1|0|1|2|0|1", "V0XL": "3|0|1|2|3|2|0.5", "V3XR": "4|3|3|3|3|1.5|2.5"},
    "MB04567": {"V0XR": "1.9|0|0|1|1|0|0", "V0XL": "0|0|0|0|0|0|0"},
}


def table(cells, separator="|"):
    """The wide table; cells of knees that are not given are blank."""
    knees = [f"V{visit}X{side}" for visit in (0, 1, 2, 3, 5) for side in "LR"]
    lines = [["MOSTID", *(knee + grade.upper() for knee in knees for grade in GRADES)]]
    for subject, of_subject in cells.items():
        grades = "|".join(of_subject.get(knee, "||||||") for knee in knees)
        lines.append([subject, *grades.split("|")])
    return "".join(separator.join(line) + "\n" for line in lines)


def path_of(subject, visit, view="PA10"):
    return f"{subject}_XRAY/V{visit}_20040101/{view}/001"


def write_film(make, root, path, bright_half=False):
    pixels = np.random.default_rng(len(path)).integers(0, 4096, (400, 640), np.uint16)
    if bright_half:
        pixels = np.zeros_like(pixels)
        pixels[:, :320] = 4000
    film = root / path
    make.write(film, make.dataset(pixels))
    make.write_points(film.with_name("001.pts"), make.on_film((0.73 * WIDTH_MM, 100.0), "L"))
    right = make.on_film((0.27 * WIDTH_MM, 100.0), "R")
    make.write_points(film.with_name("001_f.pts"), right * (-1, 1) + (WIDTH_MM, 0))


@pytest.fixture
def study(make, tmp_path):
    """Films of both subjects at visit 0, of the first at visit 3, and some of other views."""
    films = [path_of("M00123", 0), path_of("M00123", 3), path_of("MB04567", 0)]
    for path in films:
        write_film(make, tmp_path, path)
    others = [path_of("M00123", 0, "PA05"), path_of("M00123", 0, "LATR")]
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "mostv01235xray.txt").write_text(table(CELLS))
    (tmp_path / "tables" / "MOST_names.csv").write_text("\n".join([*others, *films]) + "\n")
    return tmp_path


def rewrite(study, change):
    """Changes the table's text; the change must change something."""
    path = study / "tables" / "mostv01235xray.txt"
    text = path.read_text()
    assert change(text) != text
    path.write_text(change(text))


def write_table(study, name, text):
    (study / "tables" / f"{name}.txt").write_text(text)


def add_to_list(study, *lines):
    with (study / "tables" / "MOST_names.csv").open("a") as file:
        file.writelines(line + "\n" for line in lines)


def ingest(root, rounding="floor", **rules):
    """Runs all jobs: knees kept by (subject, side, visit), the excluded ones, and the notes."""
    rules = Rules(rounding, **rules)
    jobs, exclusions, notes = plan_study(root, "test", ROI, layout="most", rules=rules)
    results = [knee for job in jobs for knee in job()]
    kept = [knee for knee in results if not isinstance(knee, Exclusion)]
    exclusions = [*exclusions, *(knee for knee in results if isinstance(knee, Exclusion))]
    by_knee = {(k["subject"], k["side"], k["visit"]): k for k in kept}
    assert len(by_knee) == len(kept)
    return by_knee, exclusions, notes


def reasons(exclusions):
    return {(knee.subject, knee.side, knee.visit): knee.reason for knee in exclusions}


def grades(kept, *knee):
    return kept[knee]["grades"].tolist()


def test_a_clean_study(study):
    kept, exclusions, notes = ingest(study)
    assert list(kept) == [
        (subject, side, month)
        for subject, month in [("M00123", 0), ("M00123", 60), ("MB04567", 0)]
        for side in "RL"
    ]
    assert not exclusions
    assert {name: count for name, count in notes.items() if count} == {
        "knees_in_the_tables": 5,
        "films_of_view_PA05": 1,
        "films_of_view_LATR": 1,
    }
    knee = kept["M00123", "R", 60]
    assert knee["source"] == "M00123_XRAY/V3_*/PA10/001"
    assert (knee["cohort"], knee["site"], knee["spacing_mm"]) == ("test", "", 2)
    np.testing.assert_allclose(knee["keypoints"][55], (35, 35), atol=1e-5)


class TestGrades:
    def test_decimals_are_cut_off(self, study):
        kept, _, _ = ingest(study)
        assert grades(kept, "M00123", "R", 0) == [2, 1, 0, 1, 2, 0, 1]
        assert grades(kept, "M00123", "L", 0) == [3, 0, 1, 2, 3, 2, 0]
        assert grades(kept, "M00123", "R", 60) == [4, 3, 3, 3, 3, 1, 2]
        assert grades(kept, "MB04567", "R", 0) == [1, 0, 0, 1, 1, 0, 0]

    def test_published_code_rounds_half_to_even(self, study):
        kept, _, _ = ingest(study, "half_even")
        assert grades(kept, "M00123", "L", 0) == [3, 0, 1, 2, 3, 2, 0]
        assert grades(kept, "M00123", "R", 60) == [4, 3, 3, 3, 3, 2, 2]
        assert grades(kept, "MB04567", "R", 0) == [2, 0, 0, 1, 1, 0, 0]

    def test_code_8_of_kl_loses_the_knee(self, study):
        rewrite(study, lambda text: text.replace("1.9|0|0|1|1|0|0", "8|8|8|8|8|8|8"))
        kept, exclusions, notes = ingest(study)
        assert reasons(exclusions) == {("MB04567", "R", 0): "prosthesis_or_unreadable"}
        assert ("MB04567", "R", 0) not in kept
        assert notes["grades_out_of_range"] == 0

    def test_codes_and_blanks_are_missing(self, study):
        rewrite(study, lambda text: text.replace("1.9|0|0|1|1|0|0", "9|8|9.0||.|0| "))
        kept, exclusions, notes = ingest(study)
        assert not exclusions
        assert grades(kept, "MB04567", "R", 0) == [-1, -1, -1, -1, -1, 0, -1]
        assert notes["grades_out_of_range"] == 0

    def test_values_off_the_scale_are_missing_and_counted(self, study):
        rewrite(study, lambda text: text.replace("1.9|0|0|1|1|0|0", "5|4|0|1|1|3.5|-1"))
        kept, _, notes = ingest(study)
        assert grades(kept, "MB04567", "R", 0) == [-1, -1, 0, 1, 1, 3, -1]
        assert notes["grades_out_of_range"] == 3

    def test_knee_that_was_not_read_is_kept_without_grades(self, study):
        kept, _, _ = ingest(study)
        assert grades(kept, "M00123", "L", 60) == [-1] * 7

    def test_columns_in_any_case_and_order(self, study):
        def shuffle(text):
            lines = [line.split("|") for line in text.lower().splitlines()]
            return "".join("|".join(["x", *line[::-1]]) + "\n" for line in lines)

        before, _, _ = ingest(study)
        rewrite(study, shuffle)
        (study / "tables" / "mostv01235xray.txt").rename(study / "tables" / "MOSTV01235XRAY.TXT")
        (study / "tables" / "MOST_names.csv").rename(study / "tables" / "most_names.csv")
        kept, _, _ = ingest(study)
        assert {k: v["grades"].tolist() for k, v in kept.items()} == {
            k: v["grades"].tolist() for k, v in before.items()
        }

    def test_commas_instead_of_bars(self, study):
        (study / "tables" / "mostv01235xray.txt").unlink()
        (study / "tables" / "mostv01235xray.csv").write_text(table(CELLS, ","))
        kept, _, _ = ingest(study)
        assert grades(kept, "M00123", "R", 60) == [4, 3, 3, 3, 3, 1, 2]

    def test_sas_file_of_numbers(self, study):
        path = study / "tables" / "mostv01235xray.txt"
        cells = pd.read_csv(path, sep="|")
        path.unlink()
        columns = {name: cells[name].tolist() for name in cells}
        write_sas7bdat(path.with_suffix(".sas7bdat"), columns)
        kept, exclusions, _ = ingest(study)
        assert not exclusions
        assert grades(kept, "M00123", "R", 60) == [4, 3, 3, 3, 3, 1, 2]
        assert grades(kept, "M00123", "L", 60) == [-1] * 7
        assert grades(kept, "MB04567", "R", 0)[0] == 1


def test_sides_of_the_film(make, study):
    """The film's left half holds the patient's right knee; the left one is mirrored."""
    path = path_of("MB04567", 0)
    write_film(make, study, path, bright_half=True)
    kept, _, _ = ingest(study)
    right, left = (kept["MB04567", side, 0] for side in "RL")
    assert right["image"][35, 35] == 255
    assert left["image"][35, 35] == 0
    # The middle of the film is bright on one side: medial of the left knee, at the image's right.
    write_film(make, study, path)
    pixels = np.zeros((400, 640), np.uint16)
    pixels[:, 240:440] = 4000
    make.write(study / path, make.dataset(pixels))
    kept, _, _ = ingest(study)
    for side in "RL":
        image = kept["MB04567", side, 0]["image"]
        assert image[35, 2] == 0
        assert image[35, -2] == 255
        points = kept["MB04567", side, 0]["keypoints"]
        assert points[47, 0] < points[63, 0]


class TestList:
    def test_only_one_view_is_read(self, make, study):
        for view in ("PA05", "PA15", "LATL"):
            write_film(make, study, path_of("MB04567", 0, view))
            add_to_list(study, path_of("MB04567", 0, view))
        kept, exclusions, notes = ingest(study)
        assert len(kept) == 6
        assert not exclusions
        assert {knee["source"].split("/")[2] for knee in kept.values()} == {"PA10"}
        assert notes["films_of_view_PA05"] == 2
        assert notes["films_of_view_PA15"] == notes["films_of_view_LATL"] == 1
        assert "films_of_view_PA10" not in notes

    def test_listed_but_not_on_the_disk(self, study):
        (study / path_of("MB04567", 0)).unlink()
        kept, exclusions, _ = ingest(study)
        assert len(kept) == 4
        # Its readings are not a second knee.
        assert len(exclusions) == 2
        assert reasons(exclusions) == {("MB04567", side, 0): "film_missing" for side in "RL"}

    def test_on_the_disk_but_not_listed(self, make, study):
        write_film(make, study, path_of("M00123", 1))
        write_film(make, study, path_of("M00123", 1, "PA05"))
        (study / "readme.txt").write_text("how these came here")
        kept, exclusions, notes = ingest(study)
        assert len(kept) == 6
        assert reasons(exclusions) == {("M00123", side, 15): "not_listed" for side in "RL"}
        assert notes["unlisted_films_of_other_views"] == 1
        assert notes["other_files"] == 1

    @pytest.mark.parametrize(
        ("line", "detail"),
        [
            ("Doe_Jane_XRAY/V0_20040101/PA10/001", "first part .* no MOSTID"),
            ("M00123_XRAY/V4_20040101/PA10/001", "second part .* visits 0, 1, 2, 3, 5"),
            ("M00123_XRAY/PA10/001", "fewer than four parts"),
            ("M00123_XRAY/Doe_Jane/PA10/001", "second part"),
        ],
    )
    def test_paths_of_no_known_pattern_are_reported(self, study, line, detail):
        add_to_list(study, line)
        kept, exclusions, _ = ingest(study)
        assert len(kept) == 6
        assert [(k.side, k.source, k.reason) for k in exclusions] == [
            (side, "tables/MOST_names.csv", "path_unknown") for side in "RL"
        ]
        lines = (study / "tables" / "MOST_names.csv").read_text().splitlines()
        assert re.search(f"^line {len(lines)}: .*{detail}", exclusions[0].detail)
        assert "Doe" not in exclusions[0].detail

    def test_a_header_of_the_list_is_no_film(self, study):
        path = study / "tables" / "MOST_names.csv"
        path.write_text("path\n" + path.read_text())
        kept, exclusions, _ = ingest(study)
        assert len(kept) == 6
        assert not exclusions

    def test_words_of_a_path_that_may_be_a_name_are_not_told(self, make, study):
        """Kept, not in the list, not on the disk, of two films, without landmarks, not to enter."""
        films = {
            "kept": "M00123_XRAY/V1_Doe^Jane_20041231/PA10/Jane O'Doe 31Dec2004.DCM",
            "again": "M00123_XRAY/V1_Doe^Jane_20041231/PA10/Jane.DCM",
            "bare": "M00123_Jane/V5Roe/PA10/Doe-7.dcm",
            "unlisted": "MB04567_XRAY/V2Doe/PA10/Doe.dcm",
            "absent": "MB04567_XRAY/V5/PA10/Doe.dcm",
        }
        for name in ("kept", "again", "bare", "unlisted"):
            film = study / films[name]
            film.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(study / path_of("M00123", 0), film)
            if name == "kept":
                for suffix in (".pts", "_f.pts"):
                    marks = (study / path_of("M00123", 0)).with_name(f"001{suffix}").read_bytes()
                    film.with_name(film.name + suffix).write_bytes(marks)
        add_to_list(study, *(films[name] for name in ("kept", "again", "bare", "absent")))
        kept, exclusions, _ = ingest(study)
        reported = {knee.reason: knee.source for knee in exclusions}
        assert reported == {
            "repeated_film": "M00123_XRAY/V1_*^*_*/PA10/*.DCM",
            "no_landmarks": "M00123_*/V5*/PA10/*-7.dcm",
            "not_listed": "MB04567_XRAY/V2*/PA10/*.dcm",
            "film_missing": "MB04567_XRAY/V5/PA10/*.dcm",
        }
        reported["kept"] = kept["M00123", "R", 15]["source"]
        assert reported["kept"] == "M00123_XRAY/V1_*^*_*/PA10/* O'* *.DCM"
        words = [*reported.values(), *(knee.detail for knee in exclusions)]
        assert not re.search("doe|roe|jane|2004", " ".join(words), re.IGNORECASE)
        assert study / films["kept"] in study.glob(reported["kept"])

    def test_repeats(self, make, study):
        again = "M00123_XRAY/V0_20040109/PA10/001"
        write_film(make, study, again)
        add_to_list(study, again, again, "", path_of("M00123", 0))
        kept, exclusions, notes = ingest(study)
        assert len(kept) == 6
        assert reasons(exclusions) == {("M00123", side, 0): "repeated_film" for side in "RL"}
        assert {knee.source for knee in exclusions} == {"M00123_XRAY/V0_*/PA10/001"}
        assert notes["repeated_lines_of_the_list"] == 2

    def test_quoted_paths_and_backslashes(self, study):
        path = study / "tables" / "MOST_names.csv"
        before, _, _ = ingest(study)
        lines = path.read_text().splitlines()
        path.write_text("".join('"' + line.replace("/", "\\") + '"\r\n' for line in lines))
        assert list(ingest(study)[0]) == list(before)


class TestNoList:
    def test_all_films_of_the_view_count(self, make, study):
        before, _, _ = ingest(study)
        write_film(make, study, path_of("M00123", 0, "PA05"))
        (study / "tables" / "MOST_names.csv").unlink()
        (study / "readme.txt").write_text("how these came here")
        kept, exclusions, notes = ingest(study)
        assert list(kept) == list(before)
        assert not exclusions
        assert notes["lists_of_films_missing"] == notes["other_files"] == 1
        assert notes["films_of_view_PA05"] == 1

    def test_header_tells_the_view_where_the_path_has_a_number(self, make, study):
        (study / "tables" / "MOST_names.csv").unlink()
        source = study / path_of("MB04567", 0)
        numbered = source.parent.with_name("0123456")
        source.parent.rename(numbered)
        pixels = np.random.default_rng(1).integers(0, 4096, (400, 640), np.uint16)
        for description, count in (("PA 10 Fixed Flexion", 6), ("PA-05", 4), ("Bilateral PA", 4)):
            make.write(numbered / "001", make.dataset(pixels, SeriesDescription=description))
            kept, _, notes = ingest(study)
            assert len(kept) == count
        assert notes["films_of_view_unknown"] == 1

    def test_list_with_a_byte_order_mark(self, study):
        path = study / "tables" / "MOST_names.csv"
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        _, exclusions, notes = ingest(study)
        assert not exclusions
        assert notes["films_of_view_PA05"] == 1

    def test_film_that_cannot_tell_its_view_is_no_film_of_another(self, make, study):
        (study / "tables" / "MOST_names.csv").unlink()
        source = study / path_of("MB04567", 0)
        numbered = source.parent.with_name("0123456")
        source.parent.rename(numbered)
        (numbered / "001").write_bytes(b"no longer a film")
        kept, exclusions, _ = ingest(study)
        found = [(knee.side, knee.reason) for knee in exclusions if knee.subject == "MB04567"]
        assert found == [("R", "not_dicom"), ("L", "not_dicom")]
        assert len(kept) == 4


class TestSubjects:
    def set_id(self, study, subject_id):
        path = study / path_of("M00123", 0)
        film = pydicom.dcmread(path)
        film.PatientID = subject_id
        film.save_as(path)

    def test_a_header_of_another_subject_loses_the_knees(self, study):
        self.set_id(study, "MB04567")
        kept, exclusions, _ = ingest(study)
        assert len(kept) == 4
        assert reasons(exclusions) == {("M00123", side, 0): "subject_contradicts" for side in "RL"}
        assert len(ingest(study, check_subject=False)[0]) == 6

    @pytest.mark.parametrize("subject_id", ["m00123", "MOST-M00123", "anonymous", ""])
    def test_its_own_id_and_what_is_none(self, study, subject_id):
        self.set_id(study, subject_id)
        assert len(ingest(study)[0]) == 6

    def test_views_are_reported_by_known_words_alone(self, study):
        add_to_list(study, path_of("M00123", 0, "JSMITH"))
        _, _, notes = ingest(study)
        assert notes["films_of_view_unknown"] == 1
        assert not any("SMITH" in name for name in notes)


class TestTable:
    def test_reading_without_film(self, study):
        rewrite(
            study, lambda text: text + table({"M777": {"V0XL": "0|0|0|0|0|0|0"}}).split("\n")[1]
        )
        _, exclusions, _ = ingest(study)
        assert reasons(exclusions) == {("M777", "L", 0): "no_film"}

    def test_readings_of_visits_without_films_are_dropped(self, study):
        cells = CELLS | {"MB04567": CELLS["MB04567"] | {"V5XR": "0|0|0|0|0|0|0"}}
        (study / "tables" / "mostv01235xray.txt").write_text(table(cells))
        kept, exclusions, notes = ingest(study)
        assert len(kept) == 6
        assert reasons(exclusions) == {("MB04567", "R", 84): "no_film"}
        assert notes["knees_in_the_tables"] == 6

    def test_unknown_and_repeated_subjects_are_reported(self, study):
        again = table({"m00123": CELLS["MB04567"], "9000123": CELLS["MB04567"]})
        rewrite(study, lambda text: text + again.split("\n", 1)[1])
        kept, exclusions, notes = ingest(study)
        assert grades(kept, "M00123", "R", 0)[0] == 2
        assert reasons(exclusions) == {("", side, -1): "subject_unknown" for side in "RL"}
        assert exclusions[0].source == "tables/mostv01235xray.txt"
        assert exclusions[0].detail.startswith("row 4: ")
        assert notes["duplicate_readings"] == 1

    def test_missing_column_is_named(self, study):
        rewrite(study, lambda text: text.replace("V3XLOSTM", "V3XLOS"))
        with pytest.raises(UserError, match=r"mostv01235xray\.txt.*V3XLOSTM"):
            ingest(study)

    def test_column_of_a_visit_without_films_may_be_missing(self, study):
        rewrite(study, lambda text: text.replace("V5XLOSTM", "V5XLOS"))
        assert len(ingest(study)[0]) == 6

    def test_strange_value(self, study):
        rewrite(study, lambda text: text.replace("|1.9|", "|two|"))
        with pytest.raises(UserError, match=r"row 2 of column V0XRKL holds neither"):
            ingest(study)

    def test_missing_table(self, study):
        (study / "tables" / "mostv01235xray.txt").unlink()
        with pytest.raises(UserError, match=r"mostv01235xray\.sas7bdat"):
            ingest(study)


class TestOutcomes:
    TEXT = "mostid|V99EDINDEX|V99ELKRINDEX|V99ERKRINDEX\n"

    def test_knees_replaced_by_a_visit_are_dropped_from_it_on(self, study):
        write_table(study, "mostoutcomes", self.TEXT + "m00123|.|3|\nMB04567||0|5\n")
        kept, exclusions, _ = ingest(study)
        assert reasons(exclusions) == {("M00123", "L", 60): "replaced"}
        assert exclusions[0].source == "M00123_XRAY/V3_*/PA10/001"
        assert "replacement by visit 3" in exclusions[0].detail
        assert len(kept) == 5

    def test_before_the_first_later_visit(self, study):
        """A replacement reported on the telephone, between two visits."""
        write_table(study, "mostoutcomes", self.TEXT + "M00123|1|1|2\n")
        _, exclusions, _ = ingest(study)
        assert reasons(exclusions) == {("M00123", side, 60): "replaced" for side in "RL"}

    def test_code_8_is_then_known_to_be_a_replacement(self, study):
        rewrite(study, lambda text: text.replace("4|3|3|3|3|1.5|2.5", "8|8|8|8|8|8|8"))
        assert reasons(ingest(study)[1]) == {("M00123", "R", 60): "prosthesis_or_unreadable"}
        write_table(study, "mostoutcomes", self.TEXT + "M00123|||3\n")
        assert reasons(ingest(study)[1]) == {("M00123", "R", 60): "replaced"}

    def test_missing_column(self, study):
        write_table(study, "mostoutcomes", "MOSTID|V99ELKRINDEX\nM00123|1\n")
        with pytest.raises(UserError, match=r"mostoutcomes\.txt.*V99ERKRINDEX"):
            ingest(study)


class TestEnrolment:
    def test_films_that_were_taken_are_compared_with_those_here(self, study):
        write_table(study, "mostv0enroll", "MOSTID|V0PA\nM00123|1\nMB04567|0\nM00009|1\n")
        write_table(study, "mostv3enroll", "MOSTID|V3PA\nM00123|1\nM00009|1\nM00010|1.0\n")
        write_table(study, "mostv5enroll", "MOSTID|V5PA\nM00010|1\n")
        kept, exclusions, notes = ingest(study)
        assert len(kept) == 6
        assert not exclusions
        assert notes["films_unknown_to_enrolment"] == 1
        assert notes["films_taken_but_not_here"] == 3

    def test_missing_column(self, study):
        write_table(study, "mostv0enroll", "MOSTID|PA\nM00123|1\n")
        with pytest.raises(UserError, match=r"mostv0enroll\.txt.*V0PA"):
            ingest(study)


class TestUserErrors:
    def test_no_list_and_no_films(self, study):
        (study / "tables" / "MOST_names.csv").unlink()
        for path in study.glob("*/*/PA10/001"):
            path.unlink()
        with pytest.raises(UserError, match="no film of the view PA10 is on the disk"):
            ingest(study)

    def test_no_film_of_the_view(self, study):
        (study / "tables" / "MOST_names.csv").write_text(path_of("M00123", 0, "PA05"))
        with pytest.raises(UserError, match="no film of the view PA10"):
            ingest(study)


def test_account_adds_up(make, study):
    """Every knee of a film or of a table is kept or excluded, once."""
    add_to_list(study, path_of("M00123", 1), "nonsense")
    write_film(make, study, path_of("M00123", 2))
    (study / path_of("MB04567", 0)).with_name("001_f.pts").unlink()
    rewrite(study, lambda text: text.replace("2|1|0|1|2|0|1", "8|8|8|8|8|8|8"))
    jobs, exclusions, notes = plan_study(study, "test", ROI, layout="most")
    report = IngestReport(exclusions, notes)
    knees = [knee for job in jobs for knee in job()]
    lost = [knee for knee in knees if isinstance(knee, Exclusion)]
    report.add("study", (index_row(knee) for knee in knees if knee not in lost), lost)
    report.write(study)
    counts = json.loads((study / "ingest_report.json").read_text())
    assert counts["kept"] == 4
    assert counts["excluded"] == {
        "film_missing": 2,
        "not_listed": 2,
        "path_unknown": 2,
        "no_landmarks": 1,
        "prosthesis_or_unreadable": 1,
    }
    assert counts["seen"] == counts["kept"] + sum(counts["excluded"].values())
    assert counts["notes"]["films_of_view_PA05"] == 1
