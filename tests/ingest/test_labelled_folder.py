"""Tables of labels as people write them, and the files that they name."""

import dataclasses
import unicodedata
import zipfile

import cv2
import numpy as np
import pytest

from knee_jax import targets
from knee_jax.errors import UserError
from knee_jax.foreign_tables import read_table
from knee_jax.ingest import label_table
from knee_jax.ingest.knee_files import Reading
from knee_jax.ingest.label_table import find_columns, propose
from knee_jax.ingest.labelled_folder import LabelledFolder, plan
from knee_jax.ingest.report import Exclusion
from knee_jax.phantom import study
from knee_jax.targets.grades import GRADES

HEADER = "file,subject,side,kl"


def table_of(tmp_path, text):
    path = tmp_path / "labels.csv"
    path.write_bytes(text.encode())
    return read_table(path)


def rows_of(tmp_path, text, **columns):
    table = table_of(tmp_path, text)
    return label_table.read_rows(table, find_columns("t.csv", list(table), columns))


def folder_of(tmp_path, lines, names, **more):
    """Writes crops of noise under some names, and a table of some lines."""
    images = tmp_path / "images"
    images.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        image = np.random.default_rng(number).integers(0, 256, (80 + number, 90), np.uint8)
        (images / name).write_bytes(cv2.imencode(".png", image)[1].tobytes())
    (tmp_path / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    return LabelledFolder(images, tmp_path / "labels.csv", Reading(64), **more)


def made(folder):
    """Examples of a folder, and reasons for exclusion by line or file."""
    jobs, exclusions, _, _ = plan(folder)
    found = [each for split in jobs.values() for job in split for each in job()]
    out = [*exclusions, *(each for each in found if isinstance(each, Exclusion))]
    examples = [each for each in found if isinstance(each, dict)]
    return examples, {(each.source, each.reason) for each in out}


def test_a_table_of_a_spreadsheet_is_read(tmp_path):
    text = (
        "\ufeffBild;Pat;Seite;KL;JSW_Medial;progression;visit\r\n"
        "a.png;7,0;left;2,0;3,25;fast;12.0\r\n"
        "b.png;8.0;R;;;None;0\r\n"
        "c.png;9;r;-1;NA;;24\r\n"
    )
    rows, exclusions = rows_of(tmp_path, text, file="Bild", subject="Pat", side="Seite")
    assert not exclusions
    assert [(row.line, row.file, row.side, row.visit) for row in rows] == [
        (2, "a.png", "L", 12),
        (3, "b.png", "R", 0),
        (4, "c.png", "R", 24),
    ]
    assert [row.subject for row in rows] == ["7", "8", "9"]
    assert [row.grades for row in rows] == [(2, *[-1] * 6), (-1,) * 7, (-1,) * 7]
    of_first, of_second, of_third = (dict(row.labels) for row in rows)
    # 'None' is the class where 'fast' stands in the same column.
    assert of_first == {"jsw_medial": 3.25, "progression": 1}
    assert np.isnan(of_second["jsw_medial"])
    assert (of_second["progression"], of_third["progression"]) == (0, -1)
    assert {row.cohort for row in rows} == {"own"}
    assert {row.split for row in rows} == {"knees"}


def test_every_target_has_its_column(tmp_path):
    names = [name for name in targets.all_targets() if targets.get(name).source == name]
    text = f"file,subject,{','.join(names)}\na.png,1,{','.join('1' for _ in names)}\n"
    (row,), _ = rows_of(tmp_path, text)
    assert dict(zip(GRADES, row.grades)) | dict(row.labels) == dict.fromkeys(names, 1)


BAD = {
    "a.png,,L,1": ("bad_row", "line 2: subject is empty"),
    "a.png,1,B,1": ("bad_row", "line 2: side names no side, such as L or R"),
    ",1,L,1": ("bad_row", "line 2: file is empty"),
    "a.png,1,L,5": ("bad_label", "line 2: kl is 5, not a grade from 0 to 4"),
    "a.png,1,L,1.5": ("bad_label", "line 2: kl is 1.5, not a grade from 0 to 4"),
    "a.png,1,L,-2": ("bad_label", "line 2: kl is -2, not a grade from 0 to 4"),
    "a.png,1,L,Mueller": ("bad_label", "line 2: kl is no grade"),
    "a.png,1,L,inf": ("bad_label", "line 2: kl is inf, not a grade from 0 to 4"),
}


@pytest.mark.parametrize("line", BAD)
def test_a_row_that_cannot_be_used_is_excluded_by_name(tmp_path, line):
    rows, (exclusion,) = rows_of(tmp_path, f"{HEADER}\n{line}\nb.png,2,R,0\n")
    assert len(rows) == 1
    assert (exclusion.reason, exclusion.detail) == BAD[line]


@pytest.mark.parametrize(
    ("column", "cell", "detail"),
    [
        ("visit", "V01", "visit is no month"),
        ("visit", "-3", "visit is no month"),
        ("visit", "1.5", "visit is no month"),
        ("split", "fold 1", "split is none of train, val and test"),
        ("jsw_medial", "wide", "jsw_medial is no number"),
        ("jsw_medial", "inf", "jsw_medial is infinite"),
        ("progression", "3", "progression is 3, not a class from 0 to 2"),
    ],
)
def test_other_cells_that_cannot_be_read(tmp_path, column, cell, detail):
    _, (exclusion,) = rows_of(tmp_path, f"{HEADER},{column}\na.png,1,L,1,{cell}\n")
    assert exclusion.detail == f"line 2: {detail}"


MISTAKES = {
    "no such field": ({"age": "side"}, "--columns=age=...: there is no such field; choose from"),
    "no such column": ({"kl": "KLG"}, "--columns=kl=KLG: t.csv has no such column; it has file"),
    "no subject": ({"subject": ""}, "has no column subject: name it, as --columns=subject=COLUMN"),
    "no label": ({"kl": ""}, "has no column of labels (kl, osfl"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_columns_that_do_not_fit_are_refused(tmp_path, name):
    given, message = MISTAKES[name]
    with pytest.raises(UserError) as caught:
        rows_of(tmp_path, f"{HEADER}\na.png,1,L,1\n", **given)
    assert message in str(caught.value)


def test_files_are_found_by_path_name_or_stem(tmp_path):
    composed = "M\u00e4rz.png"
    names = ["x/a.png", "y/a.png", "b.PNG", "deep/c.jpeg", unicodedata.normalize("NFD", composed)]
    lines = [
        "y\\a.png,1,L,0",
        "C:\\films\\B.png,2,L,0",
        "c,3,L,0",
        f"{composed},4,L,0",
        "a.png,5,L,0",
        "none.png,6,L,0",
    ]
    examples, excluded = made(folder_of(tmp_path, [HEADER, *lines], names))
    assert [each["source"] for each in examples] == ["y/a.png", "b.PNG", "deep/c.jpeg", names[-1]]
    # The other a.png has a row, though nobody can tell whose.
    assert excluded == {("a.png", "file_ambiguous"), ("none.png", "file_missing")}


def test_an_image_is_the_knee_and_left_ones_are_mirrored(tmp_path):
    folder = folder_of(tmp_path, [HEADER, "a.png,1,R,0", "b_L.png,2,,3"], ["a.png", "b_L.png"])
    folder = dataclasses.replace(folder, columns={"side": ""}, cohort="clinic")
    (left,), excluded = made(folder)
    assert excluded == {("a.png", "no_side")}
    assert (left["side"], left["cohort"], left["grades"][0]) == ("L", "clinic", 3)
    raw = cv2.imread(str(folder.images / "b_L.png"), cv2.IMREAD_UNCHANGED)
    square = raw[:, 4:85] if raw.shape[0] == 81 else None
    expected = cv2.resize(square, (64, 64), interpolation=cv2.INTER_AREA)[:, ::-1]
    np.testing.assert_array_equal(left["image"], expected)


def test_contradictions_within_the_table_exclude_all_that_they_touch(tmp_path):
    names = [f"{letter}.png" for letter in "abcdefg"]
    lines = [
        *("a.png,1,L,0", "a.png,1,L,0"),
        *("b.png,2,L,0", "b.png,2,L,1"),
        *("c.png,3,L,0", "c.png,4,L,0"),
        *("d.png,5,L,0", "d.png,5,R,0"),
        "e.png,6,L,0",
    ]
    examples, excluded = made(folder_of(tmp_path, [HEADER, *lines], names))
    assert [each["source"] for each in examples] == ["a.png", "e.png"]
    assert excluded == {
        ("a.png", "repeated_row"),
        ("b.png", "two_readings"),
        ("c.png", "two_readings"),
        # A crop shows one knee, and the rows name two.
        ("d.png", "two_readings"),
        ("f.png", "no_row"),
        ("g.png", "no_row"),
    }


def test_a_subject_stays_in_the_split_that_is_held_out_to_the_last(tmp_path):
    lines = ["a.png,1,L,0,Training", "b.png,1,R,0,test", "c.png,2,L,0,valid", "d.png,2,R,0,train"]
    folder = folder_of(tmp_path, [f"{HEADER},split", *lines], [f"{x}.png" for x in "abcd"])
    jobs, exclusions, _, _ = plan(folder)
    assert {split: [job.row.file for job in some] for split, some in jobs.items()} == {
        "test": ["b.png"],
        "val": ["c.png"],
    }
    assert [(each.source, each.reason) for each in exclusions] == [
        ("a.png", "split_contradicts"),
        ("d.png", "split_contradicts"),
    ]


def test_archives_are_read_in_place_and_the_table_is_no_image(tmp_path):
    folder = folder_of(tmp_path, [HEADER, "a.png,1,L,0", "b.png,2,R,4"], ["a.png", "b.png"])
    with zipfile.ZipFile(folder.images / "some.zip", "w") as archive:
        archive.write(folder.images / "b.png", "b.png")
    (folder.images / "b.png").unlink()
    moved = folder.labels.rename(folder.images / "labels.csv")
    examples, excluded = made(dataclasses.replace(folder, labels=moved))
    assert [each["source"] for each in examples] == ["a.png", "some.zip/b.png"]
    assert not excluded


def test_a_damaged_archive_costs_only_what_is_in_it(tmp_path):
    folder = folder_of(tmp_path, [HEADER, "a.png,1,L,0", "b.png,2,R,4"], ["a.png"])
    (folder.images / "some.zip").write_bytes(b"PK\x03\x04 and nothing more")
    examples, excluded = made(folder)
    assert [each["source"] for each in examples] == ["a.png"]
    assert excluded == {("b.png", "file_missing"), ("some.zip", "unreadable")}


def test_a_table_without_any_use_is_refused_with_its_first_fault(tmp_path):
    folder = folder_of(tmp_path, [HEADER, "a.png,1,L,9"], ["a.png"])
    with pytest.raises(UserError, match=r"no row can be used; the first: line 2: kl is 9, not a"):
        plan(folder)
    missing = dataclasses.replace(folder, images=tmp_path / "none")
    with pytest.raises(UserError, match=r"--images=.*none: no such folder"):
        plan(missing)


def test_both_knees_of_a_film_have_a_row_each(tmp_path):
    study.write_study(tmp_path / "study", num_subjects=1, visits=(0,), seed=3, progress=False)
    film = next(
        path
        for path in sorted((tmp_path / "study").rglob("*"))
        if path.with_name(f"{path.name}.pts").exists()
    )
    rows = [f"{film.name},1,L,3", f"{film.name},1,R,1"]
    folder = folder_of(tmp_path, [HEADER, *rows], [])
    examples, excluded = made(dataclasses.replace(folder, images=film.parent))
    assert {each["side"]: each["grades"][0] for each in examples} == {"L": 3, "R": 1}
    assert not excluded
    assert all(each["keypoints_valid"] for each in examples)
    assert all(each["spacing_mm"] == pytest.approx(140 / 64) for each in examples)


def test_columns_are_proposed_by_name_and_content(tmp_path):
    text = (
        "Nr;Bild;Pat-Nr;Seite;KLG;V00XROSFL;Grade;Timepoint;Notiz\n"
        "1;a.jpg;7;L;2;1;x;0;gut\n"
        "2;b.jpg;8;right;3;4;y;12;\n"
        "3;c.jpg;9;R;;2;z;24;\n"
    )
    proposal = propose(table_of(tmp_path, text))
    assert proposal.columns == {
        "file": "Bild",
        "subject": "Pat-Nr",
        "side": "Seite",
        "visit": "Timepoint",
        "kl": "KLG",
    }
    assert proposal.fits["kl"] == (2, 2)
    # A third of its cells are no grade.
    assert "V00XROSFL" in proposal.unused
    told = label_table.describe(proposal)
    assert "not used: Nr, V00XROSFL, Grade, Notiz" in told


def test_a_proposal_tells_what_is_missing(tmp_path):
    told = label_table.describe(propose(table_of(tmp_path, "a,b\n1,2\n")))
    assert "file         no column looks like it; one is needed" in told
    assert "kl           no column looks like a label (kl, osfl" in told


WORDS = {
    "German": ("Patient Nr;Bilddatei;Seite;KL-Grad;Monat", "links", "rechts"),
    "German, short": ("Pat-ID;Datei;Körperseite;Grad;Besuch", "li", "re"),
    "Dutch": ("Proefpersoon nummer;Bestand;Zijde;KL graad;Maand", "links", "rechts"),
    "French": ("N° patient;Fichier;Côté;Stade;Mois", "G", "D"),
    "French, whole": ("Sujet;Image;côté;KL;Visite", "gauche", "droite"),
    "Spanish": ("Paciente;Archivo;Lado;Grado;Mes", "izquierda", "derecha"),
    "Spanish, short": ("ID paciente;Imagen;lado;KL;mes", "izq", "dcha"),
    "Italian": ("Codice paziente;Immagine;Lato;Grado;visita", "sinistro", "destro"),
    "Finnish": ("Potilas nro;Kuva;Puoli;KL aste;Kuukausi", "vasen", "oikea"),
    "Swedish": ("Patientnummer;Fil;Sida;KL grad;month", "vänster", "höger"),
    "English": ("Study ID;Image File;Laterality;Kellgren-Lawrence grade;Visit", "Left", "RIGHT"),
    "hospital": ("MRN;DICOM;Knee side;Kellgren Lawrence score;Time point", "l", "R"),
    "number": ("Patient No.;x-ray;side;KLG;months", "left", "right"),
}


@pytest.mark.parametrize("language", WORDS)
def test_tables_in_many_words_are_read(language, tmp_path):
    header, left, right = WORDS[language]
    text = f"{header}\na.png_1;a.png;{left};2;0\nb_2;b.png;{right};3;12\n"
    table = table_of(tmp_path, text.replace("a.png_1", "a_1"))
    found = propose(table).columns
    assert list(found.values()) == [header.split(";")[n] for n in (1, 0, 2, 4, 3)], found
    rows, exclusions = label_table.read_rows(table, found)
    assert not exclusions
    assert [(row.side, row.visit, row.grades[0]) for row in rows] == [("L", 0, 2), ("R", 12, 3)]


def test_letters_are_a_side_only_under_its_name(tmp_path):
    """`d` and `g` may be anything; a column of left and right is one of sides."""
    assert "side" not in propose(table_of(tmp_path, "file,subject,x,kl\na.png,1,d,2\n")).columns
    found = propose(table_of(tmp_path, "file,subject,x,kl\na.png,1,rechts,2\n")).columns
    assert found["side"] == "x"
    # A study is the cohort, its id the subject's.
    found = propose(table_of(tmp_path, "file,Study,Study ID,kl\na.png,OAI,1,2\n")).columns
    assert (found["cohort"], found["subject"]) == ("Study", "Study ID")
