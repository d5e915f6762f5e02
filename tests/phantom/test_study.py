import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest

from knee_jax.errors import UserError
from knee_jax.landmarks import CONDYLES, PLATEAU
from knee_jax.phantom import most, oai
from knee_jax.phantom.study import write_study
from knee_jax.targets.grades import GRADES

ROWS = 192


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> tuple[Path, pd.DataFrame]:
    root = tmp_path_factory.mktemp("study")
    knees = write_study(
        root, num_subjects=14, visits=(0, 12, 72), seed=5, rows=ROWS, progress=False
    )
    return root, knees


def read_points(path: Path) -> np.ndarray:
    head, body = path.read_text().split("{\n")
    assert head == "version: 1\nn_points:  74\n"
    lines = body.splitlines()
    assert lines[-1] == "}"
    return np.array([line.split(" ") for line in lines[:-1]], float)


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def read_table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="|", dtype=str, keep_default_na=False)


def test_tree_is_laid_out_like_oai(study):
    root, knees = study
    films = sorted(path.relative_to(root).as_posix() for path in root.rglob("001"))
    assert films == sorted(set(knees["source"]))
    for film in films:
        month, release, subject, date, barcode, name = film.split("/")
        assert month in ("00m", "12m", "72m")
        assert release.split(".")[0] == {"00m": "0", "12m": "1", "72m": "8"}[month]
        assert len(subject) == 7
        assert subject.startswith("9")
        assert len(date) == len(barcode) == 8
        assert barcode.startswith("0")
        assert name == "001"


def test_films_say_who_they_are_of(study):
    root, knees = study
    for source, pair in knees.groupby("source"):
        ds = pydicom.dcmread(root / source)
        assert ds.PatientID == pair["subject"].iloc[0]
        assert ds.AccessionNumber == pair["barcode"].iloc[0] == source.split("/")[4]
        assert ds.Rows == ROWS
        assert ds.pixel_array.shape == (ds.Rows, ds.Columns)
        assert ds.pixel_array.max() < 2**ds.BitsStored
        assert 279.9 < ds.Rows * ds.ImagerPixelSpacing[0] < 352.1


def test_landmarks_are_in_mm_on_the_film_of_the_left_knee_and_the_mirror_of_the_right(study):
    root, knees = study
    for _, row in knees[knees["code"] != "P"].iterrows():
        film = root / row["source"]
        ds = pydicom.dcmread(film, stop_before_pixels=True)
        width = ds.Columns * ds.ImagerPixelSpacing[1]
        points = read_points(film.with_name("001.pts" if row["side"] == "L" else "001_f.pts"))
        assert points.shape == (74, 2)
        # Either way the knee is seen as a left one: on the right half, lateral to the right.
        assert (points[list(PLATEAU), 0] > width / 2).all()
        assert (points[:, 0] < width).all()
        assert (np.diff(points[list(PLATEAU), 0]) < 0).all()
        assert (np.diff(points[list(CONDYLES), 0]) < 0).all()
        corners = points[[47, 63]]
        assert 55 < np.linalg.norm(corners[0] - corners[1]) < 125


def test_joint_space_of_the_landmarks_follows_the_grades(study):
    root, knees = study
    spaces, lost = [], []
    for _, row in knees[knees["code"] != "P"].iterrows():
        name = "001.pts" if row["side"] == "L" else "001_f.pts"
        points = read_points((root / row["source"]).with_name(name))
        along = points[63] - points[47]
        across = np.array([along[1], -along[0]]) / np.linalg.norm(along)
        spaces.append(np.abs((points[22] - points[60]) @ across))
        lost.append(row["lost_jsm"])
    assert np.corrcoef(spaces, lost)[0, 1] < -0.6


def test_a_prosthesis_has_no_landmarks(tmp_path):
    knees = write_study(tmp_path, num_subjects=40, visits=(96,), seed=1, rows=64, progress=False)
    metal = knees[knees["code"] == "P"]
    assert len(metal) > 0
    for _, row in metal.iterrows():
        name = "001.pts" if row["side"] == "L" else "001_f.pts"
        assert not (tmp_path / row["source"]).with_name(name).exists()


def test_tables_hold_the_readings(study):
    root, knees = study
    names = {0: "kxr_sq_bu00.txt", 12: "kxr_sq_bu01.txt", 72: "kxr_sq_bu08.txt"}
    found = {path.name for path in (root / "tables").iterdir()}
    widths = {name.replace("sq_bu", "qjsw_duryea") for name in names.values()}
    assert found == {
        *names.values(),
        *widths,
        "enrollees.txt",
        "AllClinical00.txt",
        "outcomes99.txt",
    }
    for visit, name in names.items():
        table = read_table(root / "tables" / name)
        assert (table.columns == table.columns.str.lower()).all() == (visit == 12)
        table.columns = table.columns.str.upper()
        code = name[-6:-4]
        prefix = f"V{code}"
        assert list(table.columns[:5]) == ["ID", "SIDE", "READPRJ", "VERSION", f"{prefix}BARCDBU"]
        for column in ("XRSCFL", "XRSCTM", "XRATTL", "XRATTM"):
            assert f"{prefix}{column}" in table
        assert set(table["SIDE"]) <= {"1: Right", "2: Left"}
        assert set(table["READPRJ"]) <= ({"37", "42"} if visit == 72 else {"15", "37", "42"})
        assert table[f"{prefix}BARCDBU"].str.startswith("0").all()
        assert not table.duplicated(["ID", "SIDE", "READPRJ"]).any()

        first = table.drop_duplicates(["ID", "SIDE"]).set_index(["ID", "SIDE"])
        here = knees[(knees["visit"] == visit) & (knees["code"] != "U")]
        assert len(first) == len(here)
        for _, row in here.iterrows():
            side = {"R": "1: Right", "L": "2: Left"}[row["side"]]
            cells = first.loc[(row["subject"], side)]
            assert cells[f"{prefix}BARCDBU"] == row["barcode"]
            for grade in GRADES:
                cell = cells[f"{prefix}XR{grade.upper()}"]
                read = row[f"read_{grade}"]
                if read >= 0:
                    assert cell == str(read)
                else:
                    expected = {"P": ".P: ", "T": ".T: ", "A": ".A: ", "M": ""}[row["code"]]
                    assert cell.startswith(expected)
                    assert bool(cell) == (row["code"] != "M")


def test_enrollees_have_a_site(study):
    root, knees = study
    table = read_table(root / "tables" / "enrollees.txt")
    assert sorted(table["ID"]) == sorted(set(knees["subject"]))
    assert set(table["V00SITE"]) <= set("ABCDE")
    assert set(table["P02SEX"]) <= {"1: Male", "2: Female"}
    sites = knees.drop_duplicates("subject").set_index("subject")["site"]
    assert (table.set_index("ID")["V00SITE"] == sites).all()


def test_outcomes_tell_of_the_prostheses(study):
    root, knees = study
    table = read_table(root / "tables" / "outcomes99.txt").set_index("id")
    first = knees[knees["code"] == "P"].groupby(["subject", "side"])["visit"].min()
    for subject, row in table.iterrows():
        for side in "LR":
            month = first.get((subject, side))
            cell = row[f"V99E{side}KVSRP"]
            assert cell.startswith(".") if month is None else cell.endswith(f": {month}-month")


def test_archive_s_tables_describe_their_columns(tmp_path):
    write_study(tmp_path, num_subjects=3, rows=32, release="archive", progress=False)
    paths = sorted((tmp_path / "tables").iterdir())
    assert [path.stem for path in paths] == [
        "oai_enrollee01",
        "oai_kxrsemiquant01",
        "oai_oarisk01",
        "oai_outcome01",
    ]
    for path in paths:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
        assert (table.columns == table.columns.str.lower()).all()
        assert table.iloc[0].str.contains(" ").all()
        assert table["subjectkey"][1:].str.startswith("NDAR").all()
        assert table["src_subject_id"][1:].str.fullmatch(r"9\d{6}").all()
    readings = pd.read_csv(paths[1], sep="\t", dtype=str, skiprows=[1])
    assert set(readings["visit"]) == {"V00", "V01", "V03"}
    assert not readings.duplicated(["subjectkey", "visit", "side", "readprj"]).any()


def test_unknown_release(tmp_path):
    with pytest.raises(UserError, match=r"most has no release 'archive'.*choose from study"):
        write_study(tmp_path, num_subjects=1, study="most", release="archive", progress=False)


def test_a_study_is_a_function_of_its_seed_not_of_workers(tmp_path):
    size = {"num_subjects": 4, "visits": (0, 12), "rows": 128, "progress": False}
    write_study(tmp_path / "one", seed=3, workers=1, **size)
    write_study(tmp_path / "two", seed=3, workers=2, **size)
    write_study(tmp_path / "other", seed=4, workers=1, **size)
    one, two, other = (digests(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    # Nobody's joint has been replaced, with any seed.
    del one["tables/outcomes99.txt"]
    assert not set(one.values()) & set(other.values())


@pytest.mark.parametrize("study", [oai, most])
def test_subject_ids_are_unique(study):
    assert len({study.subject_id(number) for number in range(20_000)}) == 20_000


def test_oai_study_is_what_it_was(tmp_path):
    """Sets that people have prepared stay true: other cohorts must not move this one's numbers."""
    knees = write_study(tmp_path, num_subjects=2, visits=(0, 24), seed=7, rows=64, progress=False)
    grades = knees[[f"read_{grade}" for grade in GRADES]].to_numpy()
    assert grades.tolist() == [
        [2, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 0],
        [2, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0, 1],
    ]
    tables = (tmp_path / "tables" / "kxr_sq_bu00.txt").read_bytes()
    assert hashlib.sha256(tables).hexdigest()[:16] == "dcc12d342569bfc5"


def test_unknown_study(tmp_path):
    with pytest.raises(UserError, match=r"'moist'.*oai, most"):
        write_study(tmp_path, num_subjects=1, study="moist", progress=False)


def test_unknown_visits_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="months"):
        write_study(tmp_path / "none", num_subjects=1, visits=(7,), progress=False)
    assert not (tmp_path / "none").exists()


def test_command_writes_a_tree(tmp_path):
    command = [sys.executable, "-m", "knee_jax.phantom", "--rows=64", "--subjects=2", "--visit=0"]
    subprocess.run([*command, f"--out={tmp_path}"], check=True, capture_output=True)
    assert len(list(tmp_path.rglob("001"))) == 2
    failed = subprocess.run(
        [*command, f"--out={tmp_path}", "--visit=5"], capture_output=True, text=True, check=False
    )
    assert failed.returncode == 1
    assert "is not empty: name a folder of its own" in failed.stderr
    failed = subprocess.run(
        [*command, f"--out={tmp_path}/other", "--visit=5"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    assert "months [5]" in failed.stderr


def test_each_osteophyte_grows_at_its_own_corner(tmp_path):
    """In the landmark files, a corner stands out by the length of its own spur and no other's."""
    knees = write_study(tmp_path, num_subjects=80, visits=(0,), rows=64, progress=False)
    corners = {"osfl": (12, 13), "osfm": (24, 23), "ostl": (47, 48), "ostm": (63, 62)}
    reach = {name: [] for name in corners}
    spurs = []
    for _, knee in knees[knees["code"] != "P"].iterrows():
        name = {"L": "001.pts", "R": "001_f.pts"}[knee["side"]]
        points = np.loadtxt(
            tmp_path / Path(knee["source"]).with_name(name), skiprows=3, max_rows=74
        )
        for corner, (tip, beside) in corners.items():
            reach[corner].append(np.hypot(*(points[tip] - points[beside])))
        spurs.append([knee[f"spur_{corner}"] for corner in corners])
    for i, values in enumerate(reach.values()):
        others = np.column_stack([spurs, np.ones(len(spurs))])
        weights = np.linalg.lstsq(others, values, rcond=None)[0][:4]
        assert weights[i] > 0.2
        assert weights[i] > 3 * np.abs(np.delete(weights, i)).max()
