"""MR series become rows: the voxels of a prepared set, in order, and what is none refused."""

import zipfile

import numpy as np
import pandas as pd
import pytest

from knee_jax.errors import UserError
from knee_jax.inference import grade, grade_series
from knee_jax.inference.predictor import Predictor
from knee_jax.inference.results_folder import TABLE, Results, pictures_of
from knee_jax.ingest import knee_series
from knee_jax.ingest.series import read_volume
from knee_jax.ingest.volume import PHANTOMS, preparation_of, prepare
from knee_jax.phantom.dicom import SeriesHeader, write_series
from knee_jax.report.graded import write_page
from knee_jax.targets import get_all

TINY = PHANTOMS["phantom_mri/tiny"]


def series(folder, side="R", level=400, shape=(40, 52, 52), seed=0):
    """A series of noise about a level that rises from lateral to medial."""
    rng = np.random.default_rng(seed)
    rise = np.linspace(0, 800, shape[0])[:, None, None]
    volume = (rng.integers(0, 200, shape) + level + rise).astype(np.uint16)
    name = folder.name
    write_series(folder, volume, SeriesHeader(name, name, "20050131", "SIEMENS", side, (3, 3, 3)))
    return folder


def model(data="phantom_mri/tiny"):
    """A model whose progression is by the mean of the medial half."""

    def forward(batch):
        volume = np.asarray(batch["volume"], np.float64)
        mean = volume[..., volume.shape[-1] // 2 :].mean((1, 2, 3)) / 255
        return {"progression": np.stack([1 - mean, mean / 2, mean / 2], 1).astype(np.float32)}

    return Predictor(
        name="means",
        targets=get_all(("progression",)),
        needs_landmarks=False,
        reads="volume",
        side=0,
        forward=forward,
        heat=None,
        facts={"data": data},
    )


def graded(sources, out=None, side=""):
    rows = grade_series.rows_of(model(), sources, TINY, side, 1, out)
    return [row for _, found in rows for row in found]


def test_the_voxels_are_those_of_a_prepared_set(tmp_path):
    for side in "RL":
        folder = series(tmp_path / side, side)
        (row,) = graded(knee_series.find([folder]))
        expected = model().predict(prepare(read_volume(folder), TINY)[None])["progression"][0]
        assert (row["status"], row["side"], row["located_by"]) == ("graded", side, "series")
        for number, value in enumerate(expected):
            assert row[f"progression_p{number}"] == pytest.approx(value, abs=1e-6)


def test_a_tree_of_anything_is_found_in_order_and_nothing_is_lost(tmp_path):
    root = tmp_path / "root"
    series(root / "a" / "right", "R")
    series(root / "a" / "left", "L", seed=1)
    series(root / "small", shape=(20, 26, 26))
    (root / "notes").mkdir()
    (root / "notes" / "read me.txt").write_text("nothing")
    with zipfile.ZipFile(root / "packed.zip", "w") as archive:
        for path in sorted(series(tmp_path / "inside", "L", seed=2).iterdir()):
            archive.write(path, path.name)
    sources = knee_series.find([root])
    rows = {row["file"]: row for row in graded(sources)}
    assert list(rows) == ["a/left", "a/right", "notes", "packed.zip", "small"]
    assert [row["status"] for row in rows.values()] == [
        "graded",
        "graded",
        "refused",
        "graded",
        "refused",
    ]
    assert rows["small"]["reason"] == "wrong_shape"
    assert "26x26x20 voxels instead of 52x52x40" in rows["small"]["detail"]
    assert [row["side"] for row in rows.values() if row["status"] == "graded"] == ["L", "R", "L"]


def test_a_single_slice_names_its_folder(tmp_path):
    folder = series(tmp_path / "one")
    (source,) = knee_series.find([folder / "001"])
    assert (source.path, source.name) == (folder, "one")


def test_results_go_on_and_the_page_shows_slices(tmp_path):
    root = tmp_path / "root"
    for name in ("a", "b"):
        series(root / name)
    sources, predictor = knee_series.find([root]), model()
    settings = grade_series.settings_of(predictor, "")
    results = Results(tmp_path / "out", settings)
    for _ in results.add(grade_series.rows_of(predictor, sources[:1], TINY, "", 1, results.out)):
        pass
    again = Results(tmp_path / "out", settings)
    assert [source.name for source in again.remaining(sources)] == ["b"]
    list(again.add(grade_series.rows_of(predictor, sources[1:], TINY, "", 1, again.out)))
    table = again.write_table(sources)
    assert table["file"].tolist() == ["a", "b"]
    shown = pictures_of(table, again.out)
    assert len(shown) == 2
    page = write_page(again.out, table, predictor.targets, shown, "means", grade.WARNING)
    assert page.read_text().count("data:image") == 2
    written = pd.read_csv(again.out / TABLE)
    assert written["progression_pred"].tolist() == table["progression_pred"].tolist()


def test_a_side_that_nothing_tells_is_asked_for(tmp_path):
    import pydicom

    folder = series(tmp_path / "one")
    for path in folder.iterdir():
        film = pydicom.dcmread(path)
        film.SeriesDescription = "SAG_3D_DESS"
        film.save_as(path)
    sources = knee_series.find([folder])
    (row,) = graded(sources)
    assert row["reason"] == "no_side"
    assert "--side=L or --side=R" in row["detail"]
    assert graded(sources, side="L")[0]["side"] == "L"


@pytest.mark.parametrize(
    ("data", "view"),
    [
        ("oai_mri/sagittal", "sagittal"),
        ("oai_mri/coronal", "coronal"),
        ("oai_mri/sagittal_replaced_ids", "sagittal"),
        ("phantom_mri/full", "sagittal"),
    ],
)
def test_series_are_read_as_the_set_was(data, view):
    assert preparation_of(data).view == view


def test_a_model_of_other_volumes_is_told():
    with pytest.raises(UserError, match="whose preparation is not known"):
        grade_series.preparation_for(model("mine"))
    assert grade_series.preparation_for(model()) == TINY


def test_series_of_one_name_in_two_folders_are_both_listed(tmp_path):
    for place in ("a/knee.nii.gz", "b/knee.nii.gz", "a/sag/1.dcm", "b/sag/1.dcm"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    found = knee_series.find([tmp_path / "b", tmp_path / "a"])
    named = {source.name: source.path.relative_to(tmp_path).as_posix() for source in found}
    series = ("a/knee.nii.gz", "b/knee.nii.gz", "a/sag", "b/sag")
    assert named == {name: name for name in series}
