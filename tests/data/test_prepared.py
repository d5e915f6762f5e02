import dataclasses

import numpy as np
import pandas as pd
import pytest
import tensorflow_datasets as tfds

from knee_jax import targets
from knee_jax.data import prepared, sampling, statistics
from knee_jax.metrics.predictions import make_table
from knee_jax.metrics.subgroups import divide
from knee_jax.targets.grades import GRADES


@pytest.fixture(scope="module")
def volumes(tiny_mri_data_dir):
    folder = tiny_mri_data_dir / "phantom_mri" / "tiny" / "1.0.0"
    return prepared.open_set(folder, (*GRADES, "progression"))


def grades_of(labels):
    """Return the seven grades of knees, [n, 7]."""
    return np.stack([labels[grade] for grade in GRADES], axis=1)


def test_grades_of_the_index_are_those_of_the_records(knees):
    builder = tfds.builder_from_directory(knees.path)
    for split in knees.index["split"].unique():
        records = builder.as_data_source(split)
        rows = np.flatnonzero(knees.index["split"] == split)
        np.testing.assert_array_equal(knees.index["record"].iloc[rows], np.arange(len(records)))
        loaded = knees.load(rows[::7])["labels"]
        assert list(loaded) == list(GRADES)
        assert all(labels.dtype == np.int8 for labels in loaded.values())
        for ours, row in zip(grades_of(loaded), rows[::7], strict=True):
            record = records[int(knees.index["record"].iloc[row])]
            np.testing.assert_array_equal(ours, record["grades"])


def test_the_index_describes_the_subjects(knees):
    people = pd.read_csv(knees.path / "subjects.csv").set_index("subject")
    assert list(knees.index["record"]) == sorted(knees.index["record"])
    for row in knees.index.iloc[::5].itertuples():
        person = people.loc[int(row.subject)]
        assert (row.sex, row.age) == (person["sex"], person["age"])
        np.testing.assert_equal(row.bmi, person["bmi"])
    table = make_table(knees.index, {})
    assert {"sex", "age", "bmi"} <= set(divide(table))


def test_a_set_without_subjects_has_an_index_all_the_same(knees, tmp_path):
    (tmp_path / "index.csv").write_bytes((knees.path / "index.csv").read_bytes())
    index = prepared.open_set(tmp_path).index
    pd.testing.assert_frame_equal(index, knees.index[index.columns.tolist()])
    (tmp_path / "subjects.csv").write_text("subject,site,sex,race,age,bmi\n,,,,,\n")
    index = prepared.open_set(tmp_path).index
    assert len(index) == len(knees.index)
    assert index["age"].isna().all()


def test_hidden_grades_are_missing_wherever_a_knee_is_read(knees):
    rows = np.array([3, 5, 40])
    hidden = knees.hide_labels(rows)
    before, after = knees.load(np.arange(3, 7)), hidden.load(np.arange(3, 7))
    grades, grades_before = grades_of(after["labels"]), grades_of(before["labels"])
    np.testing.assert_array_equal(grades[[0, 2]], np.full((2, 7), -1))
    np.testing.assert_array_equal(grades[[1, 3]], grades_before[[1, 3]])
    assert (grades_before >= 0).any(axis=1)[[2, 3]].all()
    assert grades.dtype == np.int8
    for name in ("image", "keypoints", "keypoints_valid"):
        np.testing.assert_array_equal(after[name], before[name])
    batch = hidden.load_batch(np.array([5, 6, sampling.PADDING]))
    hidden_now = (grades_of(batch["labels"]) == -1).all(axis=1)
    np.testing.assert_array_equal(hidden_now[:2], [True, False])


def test_hiding_leaves_the_set_and_the_other_columns_as_they_were(knees):
    index = knees.index.copy()
    hidden = knees.hide_labels(np.array([0, 7]))
    assert knees.index.equals(index)
    assert hidden.path == knees.path
    assert (hidden.index.dtypes == index.dtypes).all()
    labels = {target.source for target in targets.all_targets().values()}
    others = [name for name in index.columns if name not in labels]
    assert hidden.index[others].equals(index[others])
    # Labels of targets that the set does not load are hidden too.
    assert index.loc[7, "jsw_medial"] > 0
    assert np.isnan(hidden.index.loc[7, "jsw_medial"])
    assert hidden.hide_labels(np.empty(0, np.int64)).index.equals(hidden.index)


def test_hidden_knees_count_in_no_class(knees):
    rows = np.arange(10, 60)
    hidden = rows[::2]
    counts = statistics.measure(knees.hide_labels(hidden), rows).counts
    assert counts.keys() == set(GRADES)
    for grade in GRADES:
        seen = knees.index[grade].to_numpy()[rows[1::2]]
        expected = np.bincount(seen[seen >= 0], minlength=len(counts[grade]))
        np.testing.assert_array_equal(counts[grade], expected)


def test_partially_labelled_knees_differ_from_fully_read_and_unread_ones(knees):
    index = knees.index.copy()
    index.loc[:9, list(GRADES)] = np.int8(1)
    index.loc[[2, 4], "jsl"] = np.int8(-1)
    index.loc[4, "kl"] = np.int8(-1)
    index.loc[7, list(GRADES)] = np.int8(-1)
    changed = prepared.PreparedSet(knees.path, index, GRADES)
    rows = np.array([7, 4, 3, 2])
    np.testing.assert_array_equal(changed.partially_labelled(rows), [False, True, False, True])
    # Only the targets that a config names count.
    two = dataclasses.replace(changed, targets=("kl", "jsm"))
    np.testing.assert_array_equal(two.partially_labelled(rows), [False, True, False, False])


def test_volumes_are_those_of_the_records_and_labels_of_the_index(volumes):
    records = tfds.builder_from_directory(volumes.path).as_data_source("study")
    rows = np.arange(0, len(volumes.index), 5)
    loaded = volumes.load(rows)
    assert set(loaded) == {"volume", "labels"}
    labels = loaded["labels"]
    assert list(labels) == [*GRADES, "progression"]
    assert loaded["volume"].shape == (len(rows), 24, 24, 20)
    found = {
        "volume": loaded["volume"],
        "grades": grades_of(labels),
        "progression": labels["progression"],
    }
    for name, values in found.items():
        assert values.dtype == (np.uint8 if name == "volume" else np.int8)
        expected = [records[int(volumes.index["record"][row])][name] for row in rows]
        np.testing.assert_array_equal(values, expected)


def test_pixels_and_their_size(knees, volumes):
    assert (knees.pixels, knees.image_shape) == ("image", (350, 350))
    assert (volumes.pixels, volumes.image_shape) == ("volume", (24, 24, 20))
    assert knees.bytes_per_knee == 350 * 350 + 1024
    assert volumes.bytes_per_knee == 24 * 24 * 20 + 1024


def test_a_set_without_progression_has_it_missing(knees):
    assert "progression" not in knees.index
    both = dataclasses.replace(knees, targets=("progression", "kl"))
    labels = both.load(np.arange(3))["labels"]
    assert labels["progression"].dtype == np.int8
    np.testing.assert_array_equal(labels["progression"], [-1, -1, -1])
    assert (labels["kl"] >= 0).any()


def test_progression_is_hidden_with_the_grades(volumes):
    assert (volumes.index["progression"] >= 0).all()
    hidden = volumes.hide_labels(np.array([1, 4]))
    np.testing.assert_array_equal(np.flatnonzero(hidden.index["progression"] < 0), [1, 4])
    assert (hidden.index.dtypes == volumes.index.dtypes).all()
    labels = hidden.load(np.array([4, 5]))["labels"]
    np.testing.assert_array_equal(labels["progression"] < 0, [True, False])
