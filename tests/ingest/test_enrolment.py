import numpy as np
import pandas as pd
import pytest

from knee_jax.errors import UserError
from knee_jax.ingest.enrolment import COLUMNS, LOADERS, read_most, read_oai, read_sites
from knee_jax.ingest.study import LAYOUTS
from knee_jax.phantom.study import write_study

from .sas import write_sas7bdat

ENROLLEES = (
    "id|V00SITE|P02SEX|P02RACE|X\n"
    "9000099|C: Baltimore|1: Male|1: White or Caucasian|\n"
    "9000296|A|2: Female|2: Black or African American|\n"
    "9000622| |.|.M: Missing|\n"
)
CLINICAL = (
    "ID|V00AGE|P01BMI\n"
    "9000296|69|29.8\n"
    "9000099|59|23.8\n"
    "9000622|.|.: Missing Form/Incomplete Workbook\n"
    "9999999|50|30\n"
)
MOST = "MOSTID|SEX|AGE|V0BMI|V0PA\nM00123|1: Male|61|31.2|1\nmb04567|2||.|1\nM00001|0|70|25|0\n"


def write(folder, **tables):
    for name, text in tables.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


def rows(table):
    assert tuple(table.columns) == COLUMNS
    return [tuple(None if v != v else v for v in row) for row in table.itertuples(index=False)]


class TestOai:
    def test_enrollees_and_clinical(self, tmp_path):
        write(tmp_path, Enrollees=ENROLLEES, AllClinical00=CLINICAL)
        assert rows(read_oai(tmp_path)) == [
            ("9000099", "C", "M", "White or Caucasian", 59, 23.8),
            ("9000296", "A", "F", "Black or African American", 69, 29.8),
            ("9000622", "", "", "", None, None),
        ]
        assert read_sites(tmp_path) == {"9000099": "C", "9000296": "A", "9000622": ""}

    def test_without_the_clinical_table(self, tmp_path):
        table = read_oai(write(tmp_path, enrollees=ENROLLEES))
        assert table["sex"].tolist() == ["M", "F", ""]
        assert table[["age", "bmi"]].isna().all(axis=None)

    def test_sas_files(self, tmp_path):
        ids = ["9000099", "9000296", "9000622"]
        sex, race = [1.0, 2.0, "M"], [1.0, 2.0, float("nan")]
        people = {"ID": ids, "V00SITE": ["C", "A", ""], "P02SEX": sex, "P02RACE": race}
        write_sas7bdat(tmp_path / "enrollees.sas7bdat", people)
        clinical = {"ID": ids, "V00AGE": [59.0, 69.0, "A"], "P01BMI": [23.8, 29.8, float("nan")]}
        write_sas7bdat(tmp_path / "allclinical00.sas7bdat", clinical)
        other = tmp_path / "text"
        other.mkdir()
        write(other, enrollees=ENROLLEES, allclinical00=CLINICAL)
        pd.testing.assert_frame_equal(read_oai(tmp_path), read_oai(other))

    def test_archive(self, tmp_path):
        write(
            tmp_path,
            oai_enrollee01=(
                "subjectkey\tsrc_subject_id\tinterview_age\tageyears\tsex\trace\tsite\n"
                "The unique key\tThe id\tmonths\tyears\tsex at birth\ta race\ta site\n"
                "NDAR1\t9000099\t711\t59\tM\tWhite\tC\n"
                "NDAR2\t9000296\t\t\tNR\t\tA\n"
                "NDAR3\t9000622\t600\t50\tF\tAsian\tE\n"
            ),
            oai_oarisk01=(
                "subjectkey\tsrc_subject_id\tvisit\tbmi\n"
                "The unique key\tThe id\tthe visit\tthe index\n"
                "NDAR1\t9000099\tV01\t40\n"
                "NDAR1\t9000099\tV00\t23.8\n"
                "NDAR3\t9000622\tV00\t-9\n"
            ),
        )
        assert rows(read_oai(tmp_path)) == [
            ("9000099", "C", "M", "White", 59, 23.8),
            ("9000296", "A", "", "", None, None),
            ("9000622", "E", "F", "Asian", 50, None),
        ]
        assert read_sites(tmp_path) == {"9000099": "C", "9000296": "A", "9000622": "E"}

    def test_releases_of_the_phantom_agree(self, tmp_path):
        size = {"num_subjects": 30, "visits": (0,), "rows": 32, "progress": False}
        tables = {}
        for release in ("study", "archive"):
            knees = write_study(tmp_path / release, release=release, **size)
            tables[release] = read_oai(tmp_path / release / "tables")
        pd.testing.assert_frame_equal(*tables.values())
        table = tables["study"]
        of_film = knees.drop_duplicates("subject")
        assert dict(zip(table["subject"], table["site"])) == dict(
            zip(of_film["subject"], of_film["site"])
        )
        assert table["age"].between(45, 79).all()
        assert set(table["sex"]) == {"M", "F"}
        assert table["bmi"].nunique() > 20


class TestMost:
    def test_enrolment(self, tmp_path):
        assert rows(read_most(write(tmp_path, mostv0enroll=MOST))) == [
            ("M00123", "", "M", "", 61, 31.2),
            ("MB04567", "", "F", "", None, None),
            ("M00001", "", "F", "", 70, 25),
        ]

    def test_no_table(self, tmp_path):
        assert rows(read_most(tmp_path)) == []
        assert LOADERS.keys() == LAYOUTS.keys()

    def test_phantom(self, tmp_path):
        size = {"num_subjects": 40, "visits": (0,), "rows": 32, "progress": False}
        knees = write_study(tmp_path, study="most", **size)
        table = read_most(tmp_path / "tables")
        assert set(table["subject"]) == set(knees["subject"])
        assert set(table["sex"]) == {"M", "F"}
        assert table["age"].notna().all()


class TestUserErrors:
    def test_no_enrollees(self, tmp_path):
        with pytest.raises(UserError, match=r"enrollees\.txt or oai_enrollee01\.txt is missing"):
            read_oai(tmp_path)

    def test_two_releases_of_one_table(self, tmp_path):
        write(tmp_path, enrollees=ENROLLEES, allclinical00=CLINICAL, oai_oarisk01="")
        with pytest.raises(UserError, match="two releases"):
            read_oai(tmp_path)

    @pytest.mark.parametrize("column", ["V00SITE", "P02SEX", "P02RACE", "V00AGE", "P01BMI"])
    def test_missing_column(self, tmp_path, column):
        texts = [text.replace(column, "OTHER") for text in (ENROLLEES, CLINICAL)]
        write(tmp_path, enrollees=texts[0], allclinical00=texts[1])
        with pytest.raises(UserError, match=f"the column {column} is missing"):
            read_oai(tmp_path)

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("1: Male", "3: Both", r"row 1 of column P02SEX holds another code than 1, 2;"),
            (
                "1: White",
                "7: White",
                r"row 1 of column P02RACE holds another code than 0, 1, 2, 3;",
            ),
            ("9000296|A|2", "9000099|A|2", "subject 9000099 has two rows that differ"),
        ],
    )
    def test_values(self, tmp_path, old, new, message):
        write(tmp_path, enrollees=ENROLLEES.replace(old, new))
        with pytest.raises(UserError, match=message):
            read_oai(tmp_path)

    def test_the_same_row_twice_is_no_mistake(self, tmp_path):
        write(tmp_path, enrollees=ENROLLEES + ENROLLEES.split("\n", 2)[1])
        assert read_oai(tmp_path)["subject"].is_unique

    def test_age_that_is_none(self, tmp_path):
        write(tmp_path, mostv0enroll=MOST.replace("|61|", "|sixty|"))
        with pytest.raises(
            UserError, match=r"mostv0enroll\.txt: row 1 of column AGE holds neither"
        ):
            read_most(tmp_path)


def test_unknown_values_are_not_zero(tmp_path):
    table = read_oai(write(tmp_path, enrollees=ENROLLEES, allclinical00=CLINICAL))
    assert np.isnan(table["age"].iloc[-1])
    assert np.isnan(table["bmi"].iloc[-1])
