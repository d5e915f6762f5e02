import numpy as np
import pandas as pd
import pytest

from knee_jax.errors import UnusableKnee, UserError
from knee_jax.ingest.dicom import Film
from knee_jax.ingest.film import Roi, cut_roi
from knee_jax.ingest.landmark_tables import read_locations
from knee_jax.ingest.landmarks import check_orientation, check_place

TIBIA, FEMUR = range(47, 64, 2), range(12, 25, 2)
SPACING = (0.15, 0.2)


def text(points):
    return ",".join(str(value) for value in np.ravel(points))


def keypoints(root, *rows, unit="mm", film="subject,visit"):
    return table(root, "keypoints", f"{film},side,tibia_{unit},femur_{unit}", *rows)


def boxes(root, *rows, unit="mm"):
    names = ("centre_x", "centre_y", "width", "height")
    header = ",".join(["source", "side", *(f"{name}_{unit}" for name in names)])
    return table(root, "boxes", header, *rows)


def table(root, kind, header, *rows):
    (root / "tables").mkdir(exist_ok=True)
    path = root / "tables" / f"{kind}.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def row(points, film="9000001,0", side="R"):
    return f'{film},{side},"{text(points[TIBIA])}","{text(points[FEMUR])}"'


class TestKeypoints:
    def test_sixteen_of_the_74(self, make, tmp_path):
        points = make.on_film((90.0, 100.0), tilt_degrees=7)
        keypoints(tmp_path, row(points))
        found = read_locations(tmp_path, "keypoints")["9000001", 0]["R"].on_film(SPACING)
        known = [*FEMUR, *TIBIA]
        np.testing.assert_array_equal(found[known], points[known])
        assert np.isnan(np.delete(found, known, axis=0)).all()

    def test_all_74(self, make, tmp_path):
        points = make.on_film((90.0, 100.0))
        keypoints(tmp_path, f'9000001,0,R,"{text(points[37:])}","{text(points[:37])}"')
        found = read_locations(tmp_path, "keypoints")["9000001", 0]["R"].on_film(SPACING)
        np.testing.assert_array_equal(found, points)

    def test_pixels_are_the_films_own(self, make, tmp_path):
        points = make.on_film((90.0, 100.0))
        keypoints(tmp_path, row(points / SPACING, film="00m/a/001"), unit="px", film="source")
        found = read_locations(tmp_path, "keypoints")["00m/a/001"]["R"].on_film(SPACING)
        np.testing.assert_allclose(found[TIBIA], points[TIBIA], atol=1e-9)

    @pytest.mark.parametrize(
        ("reason", "cells"),
        [
            ("landmarks_count", '"1,2,3,4","5,6"'),
            ("landmarks_unreadable", '"",""'),
            ("landmarks_unreadable", f'"{"1,2," * 8}1,x","{"1,2," * 6}1,2"'),
            ("landmarks_nan", f'"{"1,2," * 8}1,nan","{"1,2," * 6}1,2"'),
            ("landmarks_nan", f'"{"1,2," * 8}1,2","{"1,2," * 6}inf,2"'),
        ],
    )
    def test_a_bad_row_costs_its_knee_only(self, make, tmp_path, reason, cells):
        good = row(make.on_film((90.0, 100.0)))
        keypoints(tmp_path, good, f"9000001,0,L,{cells}")
        found = read_locations(tmp_path, "keypoints")["9000001", 0]
        assert found["R"].points.shape == (74, 2)
        assert found["L"].reason == reason
        assert found["L"].detail.startswith("keypoints.csv, line 3: ")


class TestKneel:
    """The table that the KNEEL code publishes, and the frame that its points are in."""

    HEADER = "subject_id,side,kl,tibia,femur,bbox,center"

    @pytest.mark.parametrize("side", ["R", "L"])
    def test_frame(self, make, tmp_path, side):
        """As the authors do: to 0.3 mm, padded by 100 px, a crop of 466 px, left knees mirrored."""
        points = make.on_film((90.0 if side == "R" else 230.0, 100.0), side)
        padded = points / 0.3 + 100
        centre = padded[55].astype(int)
        corner = centre - 233
        in_crop = padded - corner
        if side == "L":
            in_crop[:, 0] = 466 - in_crop[:, 0]
        box = text([*corner, *(centre + 233)])
        cells = f'"{text(in_crop[TIBIA])}","{text(in_crop[FEMUR])}","{box}","{text(centre)}"'
        table(tmp_path, "keypoints", self.HEADER, f"9000001,{side},2,{cells}")
        found = read_locations(tmp_path, "keypoints")["9000001", 0][side].on_film(SPACING)
        np.testing.assert_allclose(found[TIBIA], points[TIBIA], atol=1e-9)
        np.testing.assert_allclose(found[FEMUR], points[FEMUR], atol=1e-9)

    def test_a_bbox_cut_short(self, make, tmp_path):
        points = make.on_film((90.0, 100.0))
        cells = f'"{text(points[TIBIA])}","{text(points[FEMUR])}","1,2,3","4,5"'
        table(tmp_path, "keypoints", self.HEADER, f"9000001,R,2,{cells}")
        assert read_locations(tmp_path, "keypoints")["9000001", 0]["R"].reason == "landmarks_count"

    @pytest.mark.real
    def test_real_knees(self, real_data, tmp_path):
        """748 knees: on films of 430 mm, none upside down, reversed or of the other half."""
        source = real_data / "kneel_landmarks_0.3mm.csv"
        (tmp_path / "tables").mkdir()
        (tmp_path / "tables" / "keypoints.csv").write_bytes(source.read_bytes())
        found = read_locations(tmp_path, "keypoints")
        knees = [(side, each) for film in found.values() for side, each in film.items()]
        assert len(knees) == 748
        rows = pd.read_csv(source)
        centres = np.array([each.split(",") for each in rows["center"]], float)
        expected = dict(zip(zip(rows["subject_id"].astype(str), rows["side"]), centres))
        for film, of_film in found.items():
            for side, location in of_film.items():
                points = location.on_film(SPACING)
                # The table's points are whole pixels of 0.3 mm.
                middle = (expected[film[0], side] - 100) * 0.3
                np.testing.assert_allclose(points[55], middle, atol=0.31)
        pairs = [film for film in found.values() if len(film) == 2]
        assert len(pairs) == 28
        for film in pairs:
            right, left = (film[side].on_film(SPACING) for side in "RL")
            middle = (right[55, 0] + left[55, 0]) / 2
            assert not check_orientation({"R": right, "L": left}, 2 * middle)
            for points in (right, left):
                check_place(points, (430, 430))


class TestBoxes:
    def test_centre(self, tmp_path):
        boxes(tmp_path, "00m/a/001,R,600,500,800,600", unit="px")
        points = read_locations(tmp_path, "boxes")["00m/a/001"]["R"].on_film(SPACING)
        np.testing.assert_allclose(points[55], (90, 100))
        assert np.isfinite(points).all(axis=1).sum() == 1

    @pytest.mark.parametrize("size", ["40,120", "120,301", "-120,120", "800,800", "0,0"])
    def test_implausible_size(self, tmp_path, size):
        boxes(tmp_path, f"00m/a/001,R,90,100,{size}")
        location = read_locations(tmp_path, "boxes")["00m/a/001"]["R"]
        with pytest.raises(UnusableKnee, match="in mm") as caught:
            location.on_film(SPACING)
        assert caught.value.reason == "box_implausible"

    @pytest.mark.parametrize("side", ["R", "L"])
    def test_same_roi_as_of_landmarks_not_levelled(self, make, tmp_path, side):
        """Exactly: a box has the one point that an unlevelled region depends on."""
        film = Film(np.random.default_rng(0).integers(0, 4096, (900, 1600), np.uint16), (0.2, 0.2))
        points = make.on_film((90.0 if side == "R" else 230.0, 100.0), side, 9.0)
        boxes(tmp_path, f"001,{side},{points[55, 0]},{points[55, 1]},120,120")
        box = read_locations(tmp_path, "boxes")["001"][side].on_film(film.spacing_mm)
        image, location = cut_roi(film, (0, 4095), box, side, Roi())
        expected, _ = cut_roi(film, (0, 4095), points, side, Roi(level_plateau=False))
        np.testing.assert_array_equal(image, expected)
        np.testing.assert_allclose(location[55], 175)


class TestTable:
    def test_how_films_may_be_written(self, tmp_path):
        """Windows paths, blanks, a byte order mark, lower-case sides, further columns."""
        path = boxes(tmp_path, r".\00m\a\001 , r ,90,100,120,120", "./00m/b/001,L,230,100,120,120")
        text = path.read_text().replace("source,", " source , score,").replace("001", "001,0.9")
        path.write_text("\ufeff" + text, encoding="utf-8")
        found = read_locations(tmp_path, "boxes")
        assert {film: list(of_film) for film, of_film in found.items()} == {
            "00m/a/001": ["R"],
            "00m/b/001": ["L"],
        }

    def test_missing(self, tmp_path):
        with pytest.raises(UserError, match=r"boxes\.csv: there is no such table"):
            read_locations(tmp_path, "boxes")

    @pytest.mark.parametrize(
        ("header", "missing"),
        [
            ("subject,visit,side,tibia_mm", "femur_mm"),
            ("subject,visit,side,tibia_px,femur_mm", "femur_px"),
            ("subject,visit,tibia_mm,femur_mm", "side"),
            ("subject,side,tibia_mm,femur_mm", "visit"),
            ("side,tibia_mm,femur_mm", "subject"),
        ],
    )
    def test_columns(self, tmp_path, header, missing):
        table(tmp_path, "keypoints", header)
        with pytest.raises(UserError, match=f"the column {missing} is missing"):
            read_locations(tmp_path, "keypoints")

    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            ('9000001,0,X,"1,2","3,4"', "line 3: side 'X' is neither L nor R"),
            ('9000001,V00,L,"1,2","3,4"', "line 3: visit 'V00' is not a number of months"),
            (',0,L,"1,2","3,4"', "line 3: it names no film"),
            ("9000001,0,L,1,2,3,4", "line 3 has 7 fields, the header 5"),
            ("9000001,0,L", "line 3 has 3 fields, the header 5"),
        ],
    )
    def test_rows(self, make, tmp_path, bad, message):
        keypoints(tmp_path, row(make.right_knee()), bad)
        with pytest.raises(UserError, match=message):
            read_locations(tmp_path, "keypoints")

    def test_a_knee_twice(self, make, tmp_path):
        points = make.right_knee()
        rows = [row(points), row(points, side="L"), row(points, "9000002,0"), row(points)]
        keypoints(tmp_path, *rows)
        with pytest.raises(UserError, match="lines 2 and 5 are of the same knee"):
            read_locations(tmp_path, "keypoints")

    def test_no_text(self, tmp_path):
        path = boxes(tmp_path)
        path.write_bytes(path.read_bytes() + bytes(range(256)))
        with pytest.raises(UserError, match="is not UTF-8: save it as UTF-8"):
            read_locations(tmp_path, "boxes")
