"""The second cohort as it lies on disk."""

import hashlib
from pathlib import Path

import pandas as pd
import pydicom
import pytest

from knee_jax.phantom.study import write_study
from knee_jax.targets.grades import GRADES

ROWS = 96
VISITS = {0: 0, 15: 1, 84: 5}


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> tuple[Path, pd.DataFrame]:
    root = tmp_path_factory.mktemp("most")
    knees = write_study(
        root,
        num_subjects=16,
        visits=(0, 15, 84),
        seed=5,
        rows=ROWS,
        progress=False,
        study="most",
    )
    return root, knees


@pytest.fixture(scope="module")
def table(study) -> pd.DataFrame:
    path = study[0] / "tables" / "mostv01235xray.txt"
    return pd.read_csv(path, sep="|", dtype=str, keep_default_na=False).set_index("MOSTID")


def digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def test_list_follows_the_pattern_and_names_the_films(study):
    root, knees = study
    lines = (root / "tables" / "MOST_names.csv").read_text().splitlines()
    assert len(set(lines)) == len(lines)
    subjects = set(knees["subject"])
    views = []
    for line in lines:
        parts = line.split("/")
        assert parts[0][:-5] in subjects
        assert int(parts[1][1]) in VISITS.values()
        views.append(parts[-2])
    assert set(views) == {"PA05", "PA10", "PA15", "LATL", "LATR"}
    films = {path.relative_to(root).as_posix() for path in root.rglob("001")}
    assert films == {line for line in lines if "/LAT" not in line}
    read = {line for line in lines if line.split("/")[-2] == "PA10"}
    assert read == set(knees["source"])
    # Landmarks lie beside the films that are read, and beside no others.
    marked = {path.with_name("001").relative_to(root).as_posix() for path in root.rglob("*.pts")}
    assert marked <= read


def test_films_say_who_they_are_of(study):
    root, knees = study
    makers = set()
    for source, pair in knees.groupby("source"):
        ds = pydicom.dcmread(root / source)
        assert ds.PatientID == pair["subject"].iloc[0]
        assert ds.AccessionNumber == pair["barcode"].iloc[0]
        assert ds.StudyDescription == "MOST^KNEE"
        assert ds.pixel_array.shape == (ROWS, ds.Columns)
        assert ds.pixel_array.max() < 2**ds.BitsStored
        makers.add(ds.Manufacturer)
    assert makers == {"Phantom FD", "Phantom PL"}


def test_table_is_wide_and_of_all_visits(study, table):
    _, knees = study
    assert sorted(table.index) == sorted(set(knees["subject"]))
    assert table.index.str.fullmatch(r"M\d{5}").all()
    expected = {
        f"V{visit}X{side}{grade.upper()}" for visit in (0, 1, 2, 3, 5) for side in "LR"
        for grade in GRADES
    }  # fmt: skip
    assert set(table.columns) == expected
    assert (table.filter(regex="^V[23]X") == "").all(axis=None)


def test_cells_hold_the_readings(study, table):
    _, knees = study
    decimals = 0
    for _, row in knees.iterrows():
        for grade in GRADES:
            column = f"V{VISITS[row['visit']]}X{row['side']}{grade.upper()}"
            cell, read = table.loc[row["subject"], column], row[f"read_{grade}"]
            if row["code"] in ("P", "T"):
                assert cell == "8"
            elif row["code"] == "M":
                assert cell == "9"
            elif read < 0:
                assert cell == ""
            else:
                assert int(float(cell)) == read
                assert cell in (str(read), "1.9" if grade == "kl" else f"{read}.5")
                decimals += "." in cell
    assert decimals > 1
    assert not table.filter(regex="^V0X.JS").isin(["0.5", "1.5", "2.5"]).any(axis=None)


def test_enrolment_tells_of_whom_a_film_was_taken(study):
    root, knees = study
    for visit in (0, 1, 2, 3, 5):
        path = root / "tables" / f"mostv{visit}enroll.txt"
        people = pd.read_csv(path, sep="|", dtype=str, keep_default_na=False)
        month = {0: 0, 1: 15, 5: 84}.get(visit)
        taken = set(people.loc[people[f"V{visit}PA"] == "1", "MOSTID"])
        assert taken == set(knees.loc[knees["visit"] == month, "subject"])
        assert ("V0BMI" in people) == ("AGE" in people) == (visit == 0)


def test_outcomes_tell_of_the_prostheses(tmp_path):
    size = {"num_subjects": 40, "visits": (60, 84), "rows": 32, "progress": False}
    knees = write_study(tmp_path, study="most", **size)
    path = tmp_path / "tables" / "mostoutcomes.txt"
    people = pd.read_csv(path, sep="|", dtype=str, keep_default_na=False).set_index("MOSTID")
    first = knees[knees["code"] == "P"].groupby(["subject", "side"])["visit"].min()
    assert len(first) > 0
    for (subject, side), month in first.items():
        assert people.loc[subject, f"V99E{side}KRINDEX"] == {60: "3", 84: "5"}[month]
    reported = people[["V99ELKRINDEX", "V99ERKRINDEX"]] != ""
    assert reported.to_numpy().sum() == len(first)


def test_no_film_is_like_one_of_the_other_cohort(study, tmp_path):
    root, _ = study
    size = {"num_subjects": 3, "visits": (0,), "seed": 5, "rows": ROWS, "progress": False}
    write_study(tmp_path / "oai", **size)
    write_study(tmp_path / "most", study="most", **size)
    one, two = digests(tmp_path / "oai"), digests(tmp_path / "most")
    assert not set(one.values()) & set(two.values())
    # The same subjects whatever else is written.
    assert all(
        digest == digests(root)[name] for name, digest in two.items() if name.endswith("001")
    )


def test_a_study_is_a_function_of_its_seed(tmp_path):
    size = {"num_subjects": 2, "visits": (0, 15), "rows": 64, "progress": False, "study": "most"}
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        write_study(tmp_path / name, seed=seed, **size)
    one, two, other = (digests(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert {n: d for n, d in one.items() if n.endswith("001")}.items().isdisjoint(other.items())
