"""Windows of a prepared study's knees: landmarks lie where they do in its own images."""

import numpy as np
import pandas as pd
import pytest
import tensorflow_datasets as tfds

from knee_jax.datasets import study_windows
from knee_jax.datasets.study_windows import PER_KNEE, Builder, KneeWindowsJob, marked
from knee_jax.errors import UserError
from knee_jax.targets.knee_shown import LEFT, RIGHT, TURNED


@pytest.fixture(scope="module")
def study(tiny_data_dir):
    return tiny_data_dir / "phantom_xray/tiny/1.1.0"


@pytest.fixture(scope="module")
def jobs(study, tmp_path_factory):
    builder = Builder(data_dir=tmp_path_factory.mktemp("windows"), config="tiny")
    builder.manual_dir = study
    plan = builder.plan(builder.data_path)
    assert plan.notes["knees_taken"] < plan.notes["knees_with_landmarks_of_files"]
    return [job for job in plan.jobs["study"] if isinstance(job, KneeWindowsJob)]


def test_each_knee_is_taken_at_its_first_visit(jobs, study):
    index = pd.read_csv(study / "index.csv", dtype={"subject": str})
    first = (
        index[index["keypoints_valid"]].sort_values("visit").drop_duplicates(["subject", "side"])
    )
    assert {(j.subject, j.side, j.record) for j in jobs} == set(
        first[["subject", "side", "record"]].itertuples(index=False, name=None)
    )


def test_windows_show_the_knee_where_its_landmarks_say(jobs, study):
    """The grey at the landmarks of a window ranks as at those of the study's own image."""
    records = tfds.builder_from_directory(study).as_data_source("study")
    likeness = []
    for job in jobs[:6]:
        drawn, knee = job(), records[job.record]
        shown = [window["knee_shown"] for window in drawn]
        assert shown.count(TURNED) == 1
        assert set(shown) <= {RIGHT, LEFT, TURNED}
        assert len({window["visit"] for window in drawn}) == PER_KNEE + 1
        for window in drawn:
            assert window["keypoints_valid"] == (window["knee_shown"] == RIGHT)
            assert window["grades"][0] == knee["grades"][0]
            assert 0.2 < window["spacing_mm"] < 2
            if window["keypoints_valid"]:
                width = np.linalg.norm(window["keypoints"][63] - window["keypoints"][47])
                true = np.linalg.norm(knee["keypoints"][63] - knee["keypoints"][47])
                own = knee["spacing_mm"] * true
                assert window["spacing_mm"] * width == pytest.approx(own, rel=0.08)
                likeness.append(_likeness(window, knee))
    assert np.median(likeness) > 0.6


def _likeness(window, knee):
    """Correlation of the grey inside of the bones and between them, at all landmarks' middles."""
    greys = []
    for example in (window, knee):
        points = example["keypoints"]
        places = np.concatenate([(points[:-6] + points[6:]) / 2, points])
        rows, columns = np.clip(places[:, ::-1].astype(int), 0, len(example["image"]) - 1).T
        greys.append(example["image"][rows, columns].astype(float))
    return abs(np.corrcoef(greys)[0, 1])


def test_a_job_draws_the_same_windows_again_and_others_of_another_knee(jobs):
    first, again, other = jobs[0](), jobs[0](), jobs[1]()
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one["image"], two["image"])
    assert any((a["image"] != b["image"]).any() for a, b in zip(first, other, strict=True))


def index(folder, **columns):
    """An index of three knees."""
    known = {"subject": ["07", "07", "08"], "side": ["R", "R", "L"], "visit": [12, 0, 0]}
    pd.DataFrame(known | {"keypoints_valid": [True] * 3} | columns).to_csv(
        folder / "index.csv", index=False
    )


def test_landmarks_of_a_localiser_are_not_learnt_from(tmp_path):
    with pytest.raises(UserError, match="holds no prepared set"):
        marked(tmp_path)
    index(tmp_path)
    assert list(marked(tmp_path)["visit"]) == [0, 12, 0]
    index(tmp_path, landmark_error=[0.0, 0.012, None])
    (row,) = marked(tmp_path).to_dict("records")
    assert (row["subject"], row["visit"]) == ("07", 12)
    index(tmp_path, landmark_error=[0.01, 0.012, 0.02])
    with pytest.raises(UserError, match="no knee has landmarks of files"):
        study_windows.marked(tmp_path)
