"""A labelled folder of one's own as a prepared set, by `knee-jax prepare folder`."""

import json
import shlex

import cv2
import numpy as np
import pandas as pd
import pytest

from knee_jax.cohort import knees
from knee_jax.data.prepared import open_set
from knee_jax.datasets.prepare import place, prepare, prepare_folder
from knee_jax.errors import UserError
from knee_jax.ingest.fingerprint import checksum, perceptual_hash
from knee_jax.ingest.knee_files import Reading
from knee_jax.ingest.labelled_folder import LabelledFolder
from tests.commands import run_here, run_here_well, run_well
from tests.folders import contents


@pytest.fixture
def folder(tmp_path):
    """Six crops of several sizes, formats and names, and a table; one of them is another's copy."""
    images = tmp_path / "images"
    images.mkdir()
    lines = ["file;subject;side;kl;jsw_medial"]
    for number in range(6):
        name = f"Knie {number}.{('png', 'jpg', 'tif')[number % 3]}"
        image = np.random.default_rng(number).integers(0, 256, (90 + number,) * 2, np.uint8)
        cv2.imwrite(str(images / name), image)
        lines.append(f"{name};{number // 2};{'LR'[number % 2]};{number % 5},0;{number},5")
    (images / "copy.png").write_bytes((images / "Knie 0.png").read_bytes())
    lines += ["copy.png;9;L;0;1", "none.png;9;R;0;1"]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    return LabelledFolder(images, tmp_path / "labels.csv", Reading(64))


def test_a_folder_becomes_a_set_of_its_own_name(folder, tmp_path):
    data = tmp_path / "data"
    path = prepare_folder("mine", folder, data, workers=1)
    assert path == data / "mine/1.0.0" == prepare("mine", data) == place("mine", data)
    before = contents(path)
    assert prepare_folder("mine", folder, data, workers=1) == path
    assert contents(path) == before
    prepared = open_set(path, ("kl", "jsw_medial"))
    assert prepared.image_shape == (64, 64)
    loaded = prepared.load(np.arange(len(prepared.index)))
    assert loaded["labels"]["kl"].tolist() == [1, 2, 3, 4, 0]
    assert loaded["labels"]["jsw_medial"].tolist() == [1.5, 2.5, 3.5, 4.5, 5.5]
    exclusions = pd.read_csv(path / "exclusions.csv", dtype=str, keep_default_na=False)
    assert set(zip(exclusions["source"], exclusions["reason"])) == {
        ("Knie 0.png", "pixels_of_another_knee"),
        ("copy.png", "pixels_of_another_knee"),
        ("none.png", "file_missing"),
    }
    counts = json.loads((path / "ingest_report.json").read_text())
    assert counts["notes"] == {"rows_of_the_table": 8, "files_in_the_folder": 7}


def test_a_table_that_has_changed_is_not_taken_for_the_old_one(folder, tmp_path):
    data = tmp_path / "data"
    prepare_folder("mine", folder, data, workers=1)
    folder.labels.write_text(folder.labels.read_text().replace("0,0", "1,0"))
    with pytest.raises(UserError, match=r"delete it to prepare it again, or choose another --name"):
        prepare_folder("mine", folder, data, workers=1)
    with pytest.raises(UserError, match=r"was prepared from .*images; labels .*, not from"):
        prepare("mine", data, tmp_path)


@pytest.mark.parametrize("name", ["Mine", "../mine", "", "inventories", "a b", "_a", "my-set"])
def test_names_that_are_none(name, folder, tmp_path):
    with pytest.raises(UserError, match="is no name of a set"):
        prepare_folder(name, folder, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_the_name_of_a_data_set_is_taken(folder, tmp_path):
    with pytest.raises(UserError, match="is the name of another data set"):
        prepare_folder("oai_xray", folder, tmp_path / "data")


def test_a_mistake_in_the_table_leaves_nothing_behind(folder, tmp_path):
    folder.labels.write_text("file,subject,kl\na.png,1,9\n")
    with pytest.raises(UserError, match="no row can be used"):
        prepare_folder("mine", folder, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_set_that_nobody_has_prepared_is_named(tmp_path):
    with pytest.raises(
        UserError, match=r"and no folder was prepared as 'mine' in .*prepare folder"
    ):
        prepare("mine", tmp_path)


MISTAKES = {
    "another word": (["films"], "unexpected argument 'films'"),
    "no set": ([], "name a data set, as --dataset=phantom_xray/demo"),
    "no table": (["folder"], "name the table of labels"),
    "no images": (["folder", "--labels=l.csv"], "name the folder of the images"),
    "no name": (["folder", "--labels=l.csv", "--images=i"], "name the set"),
    "flag of a study": (["folder", "--manual_dir=x"], "--manual_dir: is no flag of"),
    "flag of a folder": (["--dataset=oai_xray", "--images=x"], "--images: is no flag of"),
    "columns": (
        ["folder", "--labels=l.csv", "--images=i", "--name=m", "--columns=kl"],
        "--columns=kl: is written FIELD=COLUMN",
    ),
    "no file": (["folder", "--labels=l.csv", "--infer"], "l.csv: no such file"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_line(mistake):
    words, message = MISTAKES[mistake]
    done = run_here("prepare", *words)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_proposal_is_a_command_and_reads_no_image(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text('Bild;"Pat-Nr";"KL-G";"rest, of it"\na.jpg;1;2;x\nb.jpg;2;3;y\n')
    done = run_here("prepare", "folder", f"--labels={table}", "--infer", "--images=my films")
    assert done.returncode == 0, done.stderr
    assert "not used: rest, of it" in done.stdout
    proposed = shlex.split(done.stdout.splitlines()[-1])
    assert proposed == [
        *("knee-jax", "prepare", "folder", "--images=my films", f"--labels={table}", "--name=mine"),
        "--columns=file=Bild,subject=Pat-Nr,kl=KL-G",
    ]


@pytest.mark.slow
def test_a_proposed_command_runs_as_it_stands(tmp_path):
    """The images lie in a folder beside the table, and nothing but the table is named."""
    (tmp_path / "Bilder").mkdir()
    for number in (1, 2):
        picture = np.random.default_rng(number).integers(0, 256, (90, 80), np.uint8)
        cv2.imwrite(str(tmp_path / f"Bilder/{number}.png"), picture)
    lines = ["Patient Nr;Bild;Seite;KL-Grad", "1;1.png;links;2", "2;2.png;rechts;0"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    words = [f"--labels={tmp_path / 't.csv'}", f"--data_dir={tmp_path / 'data'}"]
    proposed = run_here_well("prepare", "folder", "--infer", *words)
    command = shlex.split(proposed.stdout.splitlines()[-1])
    assert command[:3] == ["knee-jax", "prepare", "folder"]
    made = run_here_well(*command[1:], "--workers=1")
    assert "knees                                          2" in made.stdout


def test_a_proposal_says_what_is_to_be_filled_in(tmp_path):
    (tmp_path / "t.csv").write_text("a;b\nx.png;2\n")
    done = run_here("prepare", "folder", f"--labels={tmp_path / 't.csv'}", "--infer")
    *_, said, _, command = done.stdout.splitlines()
    assert "FOLDER by the folder of the images" in said
    assert (
        "COLUMN after subject= by the column of each image's subject, or that of the file" in said
    )
    assert "COLUMN after kl= by the column of a label" in said
    assert "--columns=file=a,subject=COLUMN,kl=COLUMN" in shlex.split(command)
    assert "--images=FOLDER" in shlex.split(command)


@pytest.mark.slow
def test_renamed_and_resized_crops_are_prepared_and_trained_on(real_data, tmp_path):
    """As a stranger hands them in: JPEG, other sizes, an Excel table; every step by its command."""
    files = sorted((real_data / "kneekl224/train").rglob("*.png"))
    chosen = [files[i] for i in np.random.default_rng(0).permutation(len(files))[:30]]
    images, table = tmp_path / "Bilder", tmp_path / "Tabelle.csv"
    images.mkdir()
    lines = ["Bild;Pat-Nr;Seite;KLG;Bemerkung"]
    for number, file in enumerate(chosen):
        size = 300 + 20 * number
        crop = cv2.resize(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE), (size, size))
        cv2.imwrite(str(images / f"Aufnahme {number:03d}.JPG"), crop)
        subject, side, grade = file.stem[:-1], file.stem[-1], file.parent.name
        lines.append(f"Aufnahme {number:03d}.JPG;{subject};{side.lower()};{grade},0;")
    table.write_bytes(("\ufeff" + "\r\n".join(lines)).encode())
    proposed = run_here_well("prepare", "folder", f"--labels={table}", "--infer")
    columns = next(w for w in shlex.split(proposed.stdout.splitlines()[-1]) if "--columns=" in w)
    data, run = tmp_path / "data", tmp_path / "run"
    where = [f"--images={images}", f"--labels={table}", "--name=mine", f"--data_dir={data}"]
    made = run_here_well("prepare", "folder", *where, columns, "--workers=1")
    assert "split knees                                         30" in made.stdout
    # The originals are known again, under whatever name, size and format.
    listed = knees.describe(open_set(data / "mine/1.0.0"))
    originals = [cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in chosen]
    mirrored = [
        np.ascontiguousarray(image[:, ::-1] if file.stem[-1] == "L" else image)
        for image, file in zip(originals, chosen)
    ]
    learnt = pd.DataFrame(
        {
            "cohort": "OAI",
            "subject": [file.stem[:-1] for file in chosen],
            "checksum": list(map(checksum, mirrored)),
            "perceptual_hash": list(map(perceptual_hash, mirrored)),
        }
    )
    assert set(knees.leaks(learnt, listed)) == {"near_duplicate"}
    small = [
        *("--config.data.dataset=mine", "--config.data.split=ratio", "--config.epochs=1"),
        *("--config.input.size=64", "--config.model.width=8", "--config.batch_size=4"),
        *("--config.evaluation.batch_size=4", "--config.evaluation.num_resamples=20"),
    ]
    run_well(
        "knee_jax", "train", "--config=kl:demo", *small, f"--data_dir={data}", f"--workdir={run}"
    )
    predictions = pd.read_csv(run / "predictions/test.csv", dtype={"subject": str})
    truth = {(file.stem[:-1], file.stem[-1]): int(file.parent.name) for file in chosen}
    assert len(predictions) > 0
    for row in predictions.itertuples():
        assert truth[row.subject, row.side] == row.kl
    # Of its own set it is scored on its test knees alone.
    run_here_well("evaluate", run, "--data=mine", f"--data_dir={data}")
    scored = pd.read_csv(run / "evaluations/mine/predictions/test.csv", dtype={"subject": str})
    key = ["subject", "side"]
    assert scored[key].values.tolist() == predictions[key].values.tolist()
