"""A study with defects of every kind: the ingest report has each of them, and nothing else.

Of 500 subjects among the long tests, of 80 among the others.
"""

import dataclasses
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.uid import MPEG2MPML

from knee_jax.datasets.prepare import prepare
from knee_jax.ingest import readings
from knee_jax.ingest.flow import STAGES
from knee_jax.ingest.landmarks import SUFFIXES
from knee_jax.phantom.study import write_study
from knee_jax.targets.grades import GRADES

VISITS = (0, 12, 24)
UNFILMED = 36
BOTH = ("R", "L")


@dataclasses.dataclass(frozen=True)
class Place:
    """A film of the study without a defect, and the study."""

    root: Path
    subject: str
    visit: int
    source: str

    @property
    def film(self) -> Path:
        return self.root / self.source

    def points(self, side: str) -> Path:
        return self.film.with_name(self.film.name + SUFFIXES[side])


def uncompressed(path: Path) -> pydicom.Dataset:
    film = pydicom.dcmread(path)
    if film.file_meta.TransferSyntaxUID.is_compressed:
        film.decompress()
    return film


def edit_film(change: Callable[[pydicom.Dataset], None]) -> Callable[[Place], None]:
    def plant(place):
        film = uncompressed(place.film)
        change(film)
        buffer = io.BytesIO()
        film.save_as(buffer, enforce_file_format=True)
        place.film.write_bytes(buffer.getvalue())

    return plant


def set_tags(**tags):
    def change(film):
        for name, value in tags.items():
            if value is None:
                delattr(film, name)
            else:
                setattr(film, name, value)

    return edit_film(change)


def colour(film):
    film.SamplesPerPixel, film.PhotometricInterpretation, film.PlanarConfiguration = 3, "RGB", 0
    film.BitsAllocated, film.BitsStored, film.HighBit = 8, 8, 7
    samples = np.arange(3 * film.Rows * film.Columns + (3 * film.Rows * film.Columns) % 2)
    film.PixelData = samples.astype(np.uint8).tobytes()


def flat(film):
    film.PixelData = bytes(len(film.PixelData))


def strange_syntax(place):
    film = uncompressed(place.film)
    film.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
    film["PixelData"].is_undefined_length = True
    film.file_meta.TransferSyntaxUID = MPEG2MPML
    film.save_as(place.film, enforce_file_format=True)


def cut(share):
    def plant(place):
        data = place.film.read_bytes()
        place.film.write_bytes(data[: int(share * len(data))])

    return plant


def first_bytes(number):
    return lambda place: place.film.write_bytes(place.film.read_bytes()[:number])


def cut_pixels(film):
    film.PixelData = film.PixelData[: len(film.PixelData) // 4 * 2]


def repeat(place):
    again = place.film.parent.with_name(place.film.parent.name + "9")
    shutil.copytree(place.film.parent, again)


def name_as_person(place):
    subject = place.film.parents[2]
    subject.rename(subject.with_name("Doe_Jane"))


def move_to_another_release(place):
    """As of a visit that is not its month's."""
    release = place.film.parents[3].with_name("10.C.1")
    release.mkdir(exist_ok=True)
    place.film.parents[2].rename(release / place.subject)


def read_without_films(place):
    """Readings of a visit of which the tree has no film at all."""
    path = place.root / "tables" / f"kxr_sq_bu{readings.VISITS[place.visit]}.txt"
    table = pd.read_csv(path, sep="|", dtype=str, keep_default_na=False)
    table = table[table[column(table, "ID")] == place.subject]
    ours, theirs = f"V{readings.VISITS[place.visit]}", f"V{readings.VISITS[UNFILMED]}"
    table.columns = [name.upper().replace(ours, theirs) for name in table]
    table.to_csv(path.with_name(f"kxr_sq_bu{theirs[1:]}.txt"), sep="|", index=False)


def as_folder(place):
    place.film.unlink()
    place.film.mkdir()


def edit_points(side: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Place], None]:
    def plant(place):
        path = place.points(side)
        head, body = path.read_text().split("{")
        points = np.array([line.split() for line in body.strip(" }\n").splitlines()], float)
        lines = [f"{x:.6f} {y:.6f}" for x, y in change(points)]
        path.write_text("\n".join([head + "{", *lines, "}\n"]))

    return plant


def without_a_number(points):
    points[20] = np.nan
    return points


def mirror_all(points):
    """The other half of a film, whose width is about 430 mm in every machine of the phantom."""
    return points * (1, -1) + (0, 2 * points[:, 1].mean())


def edit_rows(visit: int, **changes) -> Callable[[Place], None]:
    """Changes the readings of the film's right knee."""

    def plant(place):
        path, table, of_knee = rows_of(place, visit)
        for name, value in changes.items():
            table.loc[of_knee, column(table, name)] = value
        table.to_csv(path, sep="|", index=False)

    return plant


def rows_of(place, visit):
    path = place.root / "tables" / f"kxr_sq_bu{readings.VISITS[visit]}.txt"
    table = pd.read_csv(path, sep="|", dtype=str, keep_default_na=False)
    right = table[column(table, "SIDE")].str.startswith("1")
    return path, table, (table[column(table, "ID")] == place.subject) & right


def column(table, name):
    return next(each for each in table if each.upper().endswith(name))


def remove_rows(place):
    path, table, of_knee = rows_of(place, place.visit)
    table[~of_knee].to_csv(path, sep="|", index=False)


def double_rows(place):
    path, table, of_knee = rows_of(place, place.visit)
    pd.concat([table, table[of_knee]]).to_csv(path, sep="|", index=False)


def num_rows(place):
    """Of the right knee; a second one where another project has read it again."""
    return int(rows_of(place, place.visit)[2].sum())


ALL = {f"XR{grade.upper()}": None for grade in GRADES}


def code_all(code):
    return lambda place: edit_rows(place.visit, **dict.fromkeys(ALL, code))(place)


DEFECTS = {
    "an empty file": (lambda p: p.film.write_bytes(b""), BOTH, "empty_file"),
    "a page of HTML": (lambda p: p.film.write_text("<html>404</html>" * 40), BOTH, "not_dicom"),
    "a picture": (lambda p: p.film.write_bytes(b"\x89PNG\r\n\x1a\n" * 60), BOTH, "not_dicom"),
    "a file cut in its header": (first_bytes(100), BOTH, "not_dicom"),
    "a file cut in its pixels": (cut(0.6), BOTH, "truncated_file"),
    "fewer pixels than rows and columns": (edit_film(cut_pixels), BOTH, "truncated_pixels"),
    "no pixel size": (set_tags(ImagerPixelSpacing=None), BOTH, "no_spacing"),
    "a pixel size of 0": (set_tags(ImagerPixelSpacing=[0, 0]), BOTH, "bad_spacing"),
    "a colour image": (edit_film(colour), BOTH, "colour_image"),
    "several frames": (set_tags(NumberOfFrames=2), BOTH, "multi_frame"),
    "an unknown polarity": (set_tags(PhotometricInterpretation="FOO"), BOTH, "unknown_polarity"),
    "an image of one grey": (edit_film(flat), BOTH, "flat_image"),
    "an MR image": (set_tags(Modality="MR"), BOTH, "wrong_modality"),
    "a film of another subject": (
        set_tags(PatientID="9999999"),
        BOTH,
        "subject_contradicts",
    ),
    "a film of one knee, untold which": (
        set_tags(SeriesDescription="PA Fixed Flexion Knee"),
        BOTH,
        "no_side",
    ),
    "a folder named as a person": (name_as_person, BOTH, "no_film"),
    "a folder of another visit": (move_to_another_release, BOTH, "visit_contradicts"),
    "a hand": (set_tags(SeriesDescription="PA Right Hand"), BOTH, "no_film"),
    "a syntax without a decoder": (strange_syntax, BOTH, "no_decoder"),
    "a folder instead of a film": (as_folder, BOTH, "no_film"),
    "a film that is not there": (lambda p: p.film.unlink(), BOTH, "no_film"),
    "a film that was taken twice": (repeat, BOTH, "repeated_film"),
    "no landmarks": (lambda p: p.points("R").unlink(), "R", "no_landmarks"),
    "landmarks in words": (
        lambda p: p.points("L").write_text("{ here }"),
        "L",
        "landmarks_unreadable",
    ),
    "a landmark too few": (edit_points("R", lambda p: p[:-1]), "R", "landmarks_count"),
    "a landmark that is no number": (edit_points("L", without_a_number), "L", "landmarks_nan"),
    "landmarks in pixels": (edit_points("R", lambda p: p / 5), "R", "landmarks_implausible"),
    "landmarks beyond the film": (
        edit_points("L", lambda p: np.add(p, (0, 900))),
        "L",
        "landmarks_outside",
    ),
    "landmarks in reverse": (edit_points("R", lambda p: p[::-1]), "R", "upside_down"),
    "landmarks of a knee on its head": (edit_points("L", mirror_all), "L", "upside_down"),
    "lateral for medial": (
        edit_points("R", lambda p: p * (-1, 1) + (2 * p[55, 0], 0)),
        "R",
        "landmarks_reversed",
    ),
    "a replaced joint": (code_all(".P: Prosthetic"), "R", "prosthesis"),
    # What follows loses no knee.
    "a poor film": (code_all(".T"), "", ""),
    "a knee that nobody read": (remove_rows, "", ""),
    "a row twice": (double_rows, "", ""),
    "readings of a visit without films": (read_without_films, "", ""),
    "a grade beyond the scale": (lambda p: edit_rows(p.visit, XRJSL="9")(p), "", ""),
    "a film of an interim visit": (
        lambda p: shutil.copytree(p.film.parents[2], p.root / "18m" / "2.D.1" / p.subject),
        "",
        "",
    ),
}
"""Name → function that plants the defect, sides of the excluded knees, and reason."""


def find(root, source):
    """The film's path; that of the index has the date masked."""
    (path,) = root.glob(source)
    return path.relative_to(root).as_posix()


def prepared(root, data_dir):
    folder = prepare("oai_xray/default", data_dir, root, workers=2)
    columns = {"dtype": {"subject": str}, "keep_default_na": False}
    tables = [pd.read_csv(folder / f"{name}.csv", **columns) for name in ("index", "exclusions")]
    knees = [
        {tuple(row): reason for *row, reason in table[[*KNEE, *extra]].itertuples(index=False)}
        for table, extra in zip(tables, (["kl"], ["reason"]))
    ]
    return *knees, json.loads((folder / "ingest_report.json").read_text()), folder


KNEE = ["subject", "side", "visit"]


@pytest.fixture(
    scope="module",
    params=[pytest.param(80, marks=pytest.mark.slow), pytest.param(500, marks=pytest.mark.long)],
)
def studies(request, tmp_path_factory):
    """A clean study's report, the same study's with one defect of every kind, and the places."""
    base = tmp_path_factory.mktemp("defects")
    root = base / "study"
    write_study(
        root, num_subjects=request.param, visits=VISITS, rows=448, progress=False, workers=2
    )
    clean = prepared(root, base / "clean")
    *_, folder = clean
    index = pd.read_csv(folder / "index.csv", dtype={"subject": str})
    good = (
        index[index["kl"] >= 0]
        .groupby(["subject", "visit", "source"])
        .filter(lambda knees: len(knees) == 2)
    )
    # One film a subject, so that no defect touches another's.
    films = good.groupby("subject").first().reset_index()
    places = {
        name: Place(root, film["subject"], int(film["visit"]), find(root, film["source"]))
        for name, film in zip(DEFECTS, films.to_dict("records"))
    }
    for name, (plant, _, _) in DEFECTS.items():
        plant(places[name])
    return clean, prepared(root, base / "defective"), places


def test_there_are_enough_kinds():
    assert len(DEFECTS) >= 25
    assert len({reason for _, _, reason in DEFECTS.values()} - {""}) >= 20


def test_every_knee_that_a_defect_costs_is_lost_for_its_reason_and_no_other_is(studies):
    (kept_before, lost_before, *_), (kept, lost, *_), places = studies
    expected = dict(lost_before)
    twice = "a film that was taken twice"
    for name, (_, sides, reason) in DEFECTS.items():
        place = places[name]
        expected |= {(place.subject, side, place.visit): reason for side in sides}
    unfilmed = places["readings of a visit without films"].subject
    expected |= {(unfilmed, side, UNFILMED): "no_film" for side in BOTH}
    # The interim film is a copy of another visit's, and neither is believed.
    copied = places["a film of an interim visit"]
    expected |= {
        (copied.subject, side, visit): "pixels_of_another_knee"
        for side in BOTH
        for visit in (copied.visit, 18)
    }
    assert lost == expected
    again = {(places[twice].subject, side, places[twice].visit) for side in BOTH}
    assert set(kept) == set(kept_before) - (set(expected) - again)
    unread = [places[n] for n in ("a poor film", "a knee that nobody read")]
    for knee, kl in kept_before.items():
        if knee in kept and knee not in {(p.subject, "R", p.visit) for p in unread}:
            assert kept[knee] == kl
    assert {kept[p.subject, "R", p.visit] for p in unread} == {-1}


def test_the_flow_adds_up_and_notes_tell_of_what_loses_no_knee(studies):
    (*_, before, _), (kept, _, report, folder), places = studies
    assert report["kept"] == len(kept)
    assert report["seen"] == report["kept"] + sum(report["excluded"].values())
    flow = pd.read_csv(folder / "flow.csv", keep_default_na=False)
    assert flow["left"].iloc[0] == report["seen"]
    assert flow["left"].iloc[-1] == report["kept"]
    assert flow.loc[flow["reason"] == "", "stage"].tolist() == [
        "in the tables or on an image",
        *STAGES,
    ]
    assert flow.loc[flow["reason"] != "", "excluded"].sum() == sum(report["excluded"].values())
    for note, more in {
        "duplicate_readings": num_rows(places["a row twice"]) // 2,
        "grades_out_of_range": num_rows(places["a grade beyond the scale"]),
        "unread_poor_film": 1,
        "readings_coded_prosthesis": 1,
        "other_films_pa_right_hand": 1,
        "films_of_visits_without_readings": 1,
        "knees_in_the_tables": 2 - 1,
        "files_elsewhere": 1,
    }.items():
        assert report["notes"][note] == before["notes"].get(note, 0) + more
