import shutil

import numpy as np
import pandas as pd
import pydicom
import pytest

from knee_jax.errors import UserError
from knee_jax.ingest.mri import plan_study
from knee_jax.ingest.progression import REASONS
from knee_jax.ingest.report import Exclusion
from knee_jax.ingest.volume import Preparation
from knee_jax.phantom import clutter
from knee_jax.phantom.mri import write_mri_study

PREPARATION = Preparation(shape=(32, 32, 16), border=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    knees = write_mri_study(root, num_subjects=8, seed=4, shape=PREPARATION.shape, progress=False)
    return root, knees


@pytest.fixture
def study(whole, tmp_path):
    root, knees = whole
    shutil.copytree(root, tmp_path / "study")
    return tmp_path / "study", knees


def plan(root, **arguments):
    return plan_study(root, "phantom", PREPARATION, **arguments)


def of_jobs(jobs):
    return [(job.file.subject, job.file.side) for job in jobs]


def test_every_knee_is_either_read_or_dropped_with_a_reason(study):
    root, knees = study
    jobs, exclusions, notes = plan(root)
    everyone = sorted(zip(knees["subject"], knees["side"]))
    assert sorted([*of_jobs(jobs), *((k.subject, k.side) for k in exclusions)]) == everyone
    assert of_jobs(jobs) == sorted(of_jobs(jobs))
    assert {k.reason for k in exclusions} <= {*REASONS, "unread"}
    assert all(k.source for k in exclusions)
    assert notes["other_series"] == 0

    site = dict(zip(knees["subject"], knees["site"]))
    read_kl = {(row.subject, row.side): row.read_kl for row in knees.itertuples()}
    examples = [example for job in jobs for example in job()]
    assert not any(isinstance(example, Exclusion) for example in examples)
    for example in examples:
        assert example["volume"].shape == PREPARATION.result_shape
        assert example["site"] == site[example["subject"]]
        assert example["grades"][0] == read_kl[example["subject"], example["side"]]
    assert {0, 1} <= {int(example["progression"]) for example in examples}


def test_subjects_of_unknown_body_mass_index_are_left_out_where_asked(study):
    """As in Panfilov et al. 2022: the same knees without theirs, each with its reason."""
    root, _ = study
    jobs, exclusions, _ = plan(root)
    path = root / "tables" / "AllClinical00.txt"
    table = pd.read_csv(path, sep="|", dtype=str, keep_default_na=False)
    column = next(name for name in table if name.upper() == "P01BMI")
    table[column] = "28.5"
    subject = of_jobs(jobs)[0][0]
    table.loc[table["ID"] == subject, column] = ""
    table.to_csv(path, sep="|", index=False)
    lost = [knee for knee in of_jobs(jobs) if knee[0] == subject]
    left, dropped_now, _ = plan(root, with_bmi=True)
    assert of_jobs(left) == [knee for knee in of_jobs(jobs) if knee[0] != subject]
    more = [k for k in dropped_now if k not in exclusions]
    assert [(k.subject, k.side, k.reason) for k in more] == [(*knee, "no_bmi") for knee in lost]
    assert of_jobs(plan(root)[0]) == of_jobs(jobs)


def test_of_repeated_series_the_last_counts(study):
    root, _ = study
    (first, *_), exclusions, _ = plan(root)
    source = first.file.source
    again = root / source[:-1]
    shutil.copytree(root / source, again.with_name(again.name + "9"))
    (now, *_), dropped_now, _ = plan(root)
    assert now.file.source == again.relative_to(root).as_posix() + "9"
    (new,) = set(dropped_now) - set(exclusions)
    assert (new.source, new.reason) == (source, "repeated_series")


def test_the_last_is_that_of_the_latest_time_before_that_of_the_last_path(study):
    root, _ = study
    (first, *_), _, _ = plan(root)
    source = first.file.source
    for name, date, last in (("0", "20991231", True), ("99", "20000101", False)):
        again = (root / source).with_name(name)
        shutil.copytree(root / source, again)
        for file in again.iterdir():
            header = pydicom.dcmread(file)
            header.SeriesDate = date
            header.save_as(file)
        (now, *_), exclusions, _ = plan(root)
        assert (now.file.source == again.relative_to(root).as_posix()) is last
        assert [k.reason for k in exclusions].count("repeated_series") == 1
        shutil.rmtree(again)


def test_what_is_no_image_beside_the_slices_costs_no_knee(study):
    root, _ = study
    (first, *_), _, _ = plan(root)
    ((whole,), folder) = first(), root / first.file.source
    (folder / "Thumbs.db").write_bytes(b"pictures of what lies here")
    (folder / "Doe_Jane.txt").write_text("a name")
    jobs, _, notes = plan(root)
    ((knee,),) = [job() for job in jobs if job.file == first.file]
    np.testing.assert_array_equal(knee["volume"], whole["volume"])
    assert notes["other_files"] == 2


def test_a_header_of_another_subject_loses_the_knee(study):
    root, _ = study
    jobs, exclusions, _ = plan(root)
    file = jobs[0].file
    for path in (root / file.source).iterdir():
        header = pydicom.dcmread(path)
        header.PatientID = "9999999"
        header.save_as(path)
    _, now, _ = plan(root)
    reported = [(k.subject, k.side, k.source, k.reason) for k in now if k not in exclusions]
    assert reported == [(file.subject, file.side, file.source, "subject_contradicts")]
    assert of_jobs(plan(root, check_subject=False)[0]) == of_jobs(jobs)


def test_a_table_of_contents_does_not_vouch_for_the_subject(study):
    root, _ = study
    jobs, exclusions, _ = plan(root)
    file = jobs[0].file
    last = max((root / file.source).iterdir())
    header = pydicom.dcmread(last)
    header.PatientID = "9999999"
    header.save_as(last)
    clutter.write_contents(root, sorted(root.rglob("001")))
    (job, *_), now, _ = plan(root)
    assert (job.file, now) == (file, exclusions)
    (knee,) = job()
    assert (knee.side, knee.reason) == (file.side, "subject_contradicts")
    (job, *_), _, _ = plan(root, check_subject=False)
    assert not isinstance(job()[0], Exclusion)


def test_what_the_disk_lacks_is_lost_once(study):
    root, _ = study
    jobs, exclusions, _ = plan(root)
    file = jobs[0].file
    clutter.write_contents(root, sorted(root.rglob("001")))
    shutil.rmtree(root / file.source)
    _, now, _ = plan(root)
    reported = [(k.subject, k.side, k.source, k.reason) for k in now if k not in exclusions]
    assert reported == [(file.subject, file.side, file.source, "not_on_disk")]


def test_films_and_other_series_are_left_alone(study, make):
    root, _ = study
    before = plan(root)
    (first, *_) = before[0]
    beside = (root / first.file.source).parent
    make.write(beside / "0901" / "001", make.dataset(np.eye(8, dtype=np.uint16)))
    shutil.copytree(root / first.file.source, beside / "0902")
    for file in (beside / "0902").iterdir():
        file.write_bytes(file.read_bytes().replace(b"SAG_3D_DESS_", b"COR_MPR_____"))
    jobs, exclusions, notes = plan(root)
    assert of_jobs(jobs) == of_jobs(before[0])
    assert exclusions == before[1]
    assert notes["other_series"] == 1
    assert notes["films"] == 1


def test_a_series_that_cannot_be_read_is_reported(study):
    root, _ = study
    jobs, exclusions, _ = plan(root)
    file = jobs[0].file
    (root / file.source / "001").write_bytes(b"")
    # The other slices tell what it is.
    (job, *_), now, _ = plan(root)
    assert job.file == file
    assert now == exclusions
    (knee,) = job()
    assert (knee.subject, knee.side, knee.source, knee.reason) == (
        file.subject,
        file.side,
        file.source,
        "empty_file",
    )
    for slice_file in (root / file.source).iterdir():
        slice_file.write_bytes(b"")
    fewer, now, _ = plan(root)
    assert len(fewer) == len(jobs) - 1
    reported = {(k.subject, k.side, k.source, k.reason) for k in set(now) - set(exclusions)}
    assert reported == {(file.subject, file.side, file.source, "empty_file")}


def test_if_all_headers_name_others_the_remedy_is_reported(study):
    root, knees = study
    for source in knees["source"]:
        for path in (root / source).iterdir():
            header = pydicom.dcmread(path)
            header.PatientID = "1234567"
            header.save_as(path)
    with pytest.raises(UserError, match=r"16 subject_contradicts.*oai_mri/sagittal_replaced_ids"):
        plan(root)


def test_readings_without_a_series(study):
    root, _ = study
    jobs, _, _ = plan(root)
    file = jobs[0].file
    shutil.rmtree(root / file.source)
    _, exclusions, _ = plan(root)
    assert ("no_series", file.side) in {
        (k.reason, k.side) for k in exclusions if k.subject == file.subject
    }


def test_outcomes_tell_of_replacements(study):
    root, _ = study
    jobs, _, _ = plan(root)
    stable = next(job.file for job in jobs if job.file.progression == 0)
    column = {"L": "V99ELKVSRP", "R": "V99ERKVSRP"}
    cells = {column[side]: "7: 60-month" if side == stable.side else "." for side in "LR"}
    text = f"ID|{'|'.join(cells)}\n{stable.subject}|{'|'.join(cells.values())}\n"
    (root / "tables" / "outcomes99.txt").write_text(text)
    for outcomes, expected in ((False, 0), (True, 1)):
        jobs, _, _ = plan(root, outcomes=outcomes)
        files = {(job.file.subject, job.file.side): job.file for job in jobs}
        assert files[stable.subject, stable.side].progression == expected


def test_nothing_to_read(tmp_path, study):
    with pytest.raises(UserError, match="nowhere: cannot be listed"):
        plan(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no series SAG_3D_DESS_LEFT or SAG_3D_DESS_RIGHT"):
        plan(tmp_path / "empty")
    root, _ = study
    (root / "tables" / "kxr_sq_bu10.txt").unlink()
    with pytest.raises(UserError, match="kxr_sq_bu10"):
        plan(root)
