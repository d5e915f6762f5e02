"""Joint space width, from the phantom's tables to the example and its row of the index."""

import numpy as np
import pandas as pd
import pytest

from knee_jax.errors import UserError
from knee_jax.ingest.film import Roi
from knee_jax.ingest.inventory import Rules
from knee_jax.ingest.joint_space import COLUMN, read_widths
from knee_jax.ingest.study import plan_study
from knee_jax.landmarks import CONDYLES
from knee_jax.phantom import placements
from knee_jax.phantom.study import write_study


def write(folder, rows, code="00"):
    lines = [f"ID|side|V{code}MCMJSW", *("|".join(map(str, row)) for row in rows)]
    (folder / f"kxr_qjsw_duryea{code}.txt").write_text("\n".join(lines) + "\n")


class TestTable:
    def test_widths_by_knee_and_visit(self, tmp_path):
        write(tmp_path, [("9000001", "1: Right", 4.25), ("9000001", 2, 0)])
        write(tmp_path, [("9000001", "1: Right", 3.5)], "08")
        assert read_widths(tmp_path) == (
            {("9000001", "R", 0): 4.25, ("9000001", "L", 0): 0, ("9000001", "R", 72): 3.5},
            {"joint_space_widths_unusable": 0, "joint_space_widths_repeated": 0},
        )

    def test_wrong_values_are_none_and_are_counted(self, tmp_path):
        """A blank and a code of OAI's are no wrong values."""
        cells = [-1, "wide", "inf", "", ".", ".T: Technical problems", 2.5]
        write(tmp_path, [(f"900000{i}", 1, cell) for i, cell in enumerate(cells)])
        widths, notes = read_widths(tmp_path)
        assert widths == {("9000006", "R", 0): 2.5}
        assert notes["joint_space_widths_unusable"] == 3

    def test_of_several_rows_of_a_knee_the_first_with_a_width_counts(self, tmp_path):
        write(tmp_path, [("9000001", 1, ""), ("9000001", 1, 4.5), ("9000001", 1, 2)])
        widths, notes = read_widths(tmp_path)
        assert widths == {("9000001", "R", 0): 4.5}
        assert notes["joint_space_widths_repeated"] == 1

    def test_no_table(self, tmp_path):
        assert read_widths(tmp_path)[0] == {}

    def test_mistakes_are_named(self, tmp_path):
        write(tmp_path, [("9000001", 3, 4.5)])
        with pytest.raises(UserError, match="SIDE of row 1 is neither"):
            read_widths(tmp_path)
        (tmp_path / "kxr_qjsw_duryea00.txt").write_text("ID|SIDE\n9000001|1\n")
        with pytest.raises(UserError, match="the column V00MCMJSW is missing"):
            read_widths(tmp_path)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    knees = write_study(root, num_subjects=12, visits=(0, 12), seed=3, rows=448, progress=False)
    return root, knees


def prepare(root, layout="oai", **rules):
    jobs, _, notes = plan_study(root, "test", Roi(), layout, **rules)
    knees = [knee for job in jobs for knee in job() if isinstance(knee, dict)]
    return {(knee["subject"], knee["side"], knee["visit"]): knee for knee in knees}, notes


def surface(points, window):
    """The line through some landmarks, [n, 2] in steps of less than a tenth of a millimetre."""
    points = points[list(window)]
    at = np.linspace(0, len(points) - 1, 60 * len(points))
    return np.stack([np.interp(at, np.arange(len(points)), axis) for axis in points.T], axis=-1)


def test_known_widths_come_back_at_their_knee_and_visit(phantom):
    root, truth = phantom
    kept, notes = prepare(root)
    assert notes["joint_space_widths_unusable"] == 0
    known = 0
    for row in truth.itertuples():
        knee = kept.get((row.subject, row.side, row.visit))
        if knee is None:
            assert row.code == "P"
        elif row.code in ("", "A"):
            assert knee[COLUMN].dtype == np.float32
            assert knee[COLUMN] == pytest.approx(row.jsw_medial, abs=6e-4)
            known += 1
        else:
            assert np.isnan(knee[COLUMN])
    assert known > 30


def test_widths_are_those_between_the_landmarks_of_the_prepared_knee(phantom):
    """But for the landmarks' error of 0.25 mm, and the bulge of the bones between them."""
    kept, _ = prepare(phantom[0])
    differences, widths = [], []
    for knee in kept.values():
        points = knee["keypoints"] * knee["spacing_mm"]
        plateau, condyles = surface(points, range(59, 63)), surface(points, CONDYLES)
        found = np.linalg.norm(plateau[:, None] - condyles, axis=-1).min()
        if np.isfinite(knee[COLUMN]):
            differences.append(found - knee[COLUMN])
            widths.append(knee[COLUMN])
    assert np.std(widths) > 0.9
    assert np.std(differences) < 0.4
    assert abs(np.median(differences)) < 0.1


def test_a_visit_without_its_table(phantom, tmp_path):
    root, _ = phantom
    for path in root.iterdir():
        if path.name != "tables":
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "tables").mkdir()
    for path in (root / "tables").iterdir():
        if path.name != "kxr_qjsw_duryea01.txt":
            (tmp_path / "tables" / path.name).symlink_to(path)
    kept, _ = prepare(tmp_path)
    known = {visit: [] for visit in (0, 12)}
    for (*_, visit), knee in kept.items():
        known[visit].append(np.isfinite(knee[COLUMN]))
    assert any(known[0])
    assert not any(known[12])


def test_most_has_no_widths(tmp_path):
    write_study(tmp_path, num_subjects=1, rows=448, visits=(0,), study="most", progress=False)
    kept, _ = prepare(tmp_path, "most")
    assert kept
    assert not any(COLUMN in knee for knee in kept.values())


def test_ready_crops_have_the_widths_of_their_knees(tmp_path):
    knees = write_study(tmp_path, num_subjects=2, visits=(0,), rows=448, progress=False)
    placements.write_crops(tmp_path, knees)
    kept, _ = prepare(tmp_path, rules=Rules(landmarks="crops"))
    films, _ = prepare(tmp_path)
    assert kept.keys() == films.keys()
    for name, knee in kept.items():
        np.testing.assert_array_equal(knee[COLUMN], films[name][COLUMN])


def test_the_archive_s_release_has_none(tmp_path):
    write_study(tmp_path, num_subjects=1, visits=(0,), rows=448, release="archive", progress=False)
    kept, _ = prepare(tmp_path)
    assert all(np.isnan(knee[COLUMN]) for knee in kept.values())


def test_the_tables_have_a_row_for_every_knee_that_was_read(phantom):
    root, truth = phantom
    for visit, code in ((0, "00"), (12, "01")):
        table = pd.read_csv(root / "tables" / f"kxr_qjsw_duryea{code}.txt", sep="|", dtype=str)
        table.columns = table.columns.str.upper()
        assert table.columns.tolist() == ["ID", "SIDE", f"V{code}BARCDJD", f"V{code}MCMJSW"]
        of_visit = truth[(truth["visit"] == visit) & (truth["code"] != "U")]
        assert table["ID"].tolist() == of_visit["subject"].tolist()
        assert table["SIDE"].str[3].tolist() == of_visit["side"].tolist()
        measured = of_visit["code"].isin(["", "A"]).tolist()
        assert table[f"V{code}MCMJSW"].notna().tolist() == measured
