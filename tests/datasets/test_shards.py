"""A preparation that is stopped goes on from its finished shards, to the same bytes."""

import dataclasses
import json
import os
import random
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

from knee_jax import datasets
from knee_jax.datasets import shards
from knee_jax.datasets.builders import KneeBuilder
from knee_jax.datasets.prepare import prepare
from knee_jax.errors import UserError
from knee_jax.ingest import pool
from knee_jax.ingest.crops import KNEEKL224, CropJob, find_kneekl224
from tests.folders import contents

JOBS, SIZE = 60, 8

PREPARE = f"""
import sys
from knee_jax.datasets.builders import KneeBuilder
from knee_jax.datasets.prepare import prepare
KneeBuilder.jobs_per_shard = {SIZE}
prepare("kneekl224", sys.argv[1], sys.argv[2], workers=int(sys.argv[3]))
"""


@pytest.fixture
def raw(write_crops):
    return write_crops(JOBS)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(KneeBuilder, "jobs_per_shard", SIZE)


@pytest.fixture
def reads(monkeypatch):
    """The sources of the jobs that are handed to the pool."""
    found, run = [], pool.run_in_order

    def recording(jobs, workers, seconds=None):
        def recorded():
            for job in jobs:
                found.append(job.file.source)
                yield job

        return run(recorded(), workers, seconds)

    monkeypatch.setattr(pool, "run_in_order", recording)
    return found


def stopped(raw, data_dir, monkeypatch, count):
    """Prepares `count` shards; returns the folder that is left."""
    write, written = shards._write_shard, []

    def failing(*arguments):
        if len(written) == count:
            raise KeyboardInterrupt
        written.append(arguments)
        return write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "_write_shard", failing)
        with pytest.raises(KeyboardInterrupt):
            prepare("kneekl224", data_dir, raw, workers=1)
    return data_dir / "kneekl224" / "1.0.0.partial"


def test_a_record_does_not_depend_on_the_order_of_its_features():
    names = ["image", "grades", "subject", "side", "visit", "cohort", "site", "source"]
    features = []
    for name in names:
        example = tf_example_pb2.Example()
        example.features.feature[name].bytes_list.value.append(name.encode())
        features.append(example.SerializeToString())
    # Messages one after another are one merged message: the order on disk is the order here.
    records = [b"".join(features), b"".join(reversed(features))]
    assert records[0] != records[1]
    first, second = map(shards._sort, records)
    assert first == second
    assert sorted(names, key=lambda name: first.index(name.encode())) == sorted(names)
    found = tf_example_pb2.Example.FromString(first).features.feature
    assert {name: list(found[name].bytes_list.value) for name in found} == {
        name: [name.encode()] for name in names
    }


def test_only_unfinished_shards_are_read_again(raw, tmp_path, monkeypatch, reads):
    whole = contents(prepare("kneekl224", tmp_path / "whole", raw, workers=1))
    stopped(raw, tmp_path / "data", monkeypatch, 3)
    reads.clear()
    assert contents(prepare("kneekl224", tmp_path / "data", raw, workers=1)) == whole
    assert len(reads) == JOBS + 1 - 3 * SIZE
    assert len(reads) == len(set(reads))


def test_a_shard_whose_files_changed_is_read_again(raw, tmp_path, monkeypatch, reads):
    stopped(raw, tmp_path / "data", monkeypatch, 3)
    first = sorted((raw / "train").rglob("*.png"))[1]
    cv2.imwrite(str(first), np.zeros((224, 224), np.uint8))
    reads.clear()
    mended = contents(prepare("kneekl224", tmp_path / "data", raw, workers=1))
    assert len(reads) == JOBS + 1 - 2 * SIZE
    assert mended == contents(prepare("kneekl224", tmp_path / "again", raw, workers=1))


@pytest.mark.parametrize("harm", ["cut", "no_report", "no_records", "nonsense"])
def test_a_harmed_shard_is_read_again(raw, tmp_path, monkeypatch, reads, harm):
    partial = stopped(raw, tmp_path / "data", monkeypatch, 3)
    records, report = partial / "train-00001", partial / "train-00001.json"
    assert records.exists()
    assert report.exists()
    if harm == "cut":
        os.truncate(records, 100_000)
    elif harm == "nonsense":
        report.write_text(report.read_text()[:-100])
    else:
        (report if harm == "no_report" else records).unlink()
    reads.clear()
    found = contents(prepare("kneekl224", tmp_path / "data", raw, workers=1))
    assert len(reads) == JOBS + 1 - 2 * SIZE
    assert found == contents(prepare("kneekl224", tmp_path / "again", raw, workers=1))


def test_files_that_change_while_they_are_read(raw, tmp_path, monkeypatch):
    """The set would be of neither state."""
    crop = next((raw / "val").rglob("*.png"))

    def touching(*arguments):
        yield from shards.write_shards(*arguments)
        os.utime(crop, ns=(1, 1))

    monkeypatch.setattr("knee_jax.datasets.builders.write_shards", touching)
    with pytest.raises(UserError, match=r"files changed while they were read; start again"):
        prepare("kneekl224", tmp_path / "data", raw, workers=1)
    monkeypatch.undo()
    monkeypatch.setattr(KneeBuilder, "jobs_per_shard", SIZE)
    prepare("kneekl224", tmp_path / "data", raw, workers=1)


@dataclasses.dataclass(frozen=True)
class EndlessJob(CropJob):
    def __call__(self):
        time.sleep(600)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_job_that_takes_too_long_costs_its_own_knee(raw, tmp_path, workers):
    files = find_kneekl224(raw)["train"][1:7]
    jobs = [CropJob(raw, file, KNEEKL224) for file in files]
    jobs[2] = EndlessJob(raw, files[2], KNEEKL224)
    (shard,) = shards.make_shards(tmp_path, "train", jobs, len(jobs))
    features = datasets.builder("kneekl224", tmp_path / "data").info.features
    record_format = shards.RecordFormat(features)
    assert list(shards.write_shards([shard], record_format, workers, seconds=1)) == [1] * len(jobs)
    report = shards.read_report(shard)
    (lost,) = report.exclusions
    assert (lost.source, lost.reason) == (files[2].source, "timed_out")
    assert lost.detail == "not read within 1 seconds"
    of_others = [job.file.source for job in jobs if job is not jobs[2]]
    assert [knee["source"] for knee in report.kept] == of_others
    reader = array_record_module.ArrayRecordReader(str(shard.records))
    records = map(tf_example_pb2.Example.FromString, reader.read_all())
    found = [each.features.feature["source"].bytes_list.value[0].decode() for each in records]
    assert found == of_others


def test_accounts_hold_what_the_index_does(raw, tmp_path, monkeypatch):
    partial = stopped(raw, tmp_path / "data", monkeypatch, 8)
    rows = [json.loads(path.read_text()) for path in sorted(partial.glob("train-*.json"))]
    assert sum(len(each["kept"]) for each in rows) == 40
    assert [knee["reason"] for each in rows for knee in each["exclusions"]] == ["not_an_image"]


@pytest.mark.long
def test_killed_at_random_moments(raw, tmp_path):
    whole = contents(prepare("kneekl224", tmp_path / "whole", raw, workers=1))
    rng = random.Random(0)
    for trial in range(6):
        data_dir, kills = tmp_path / str(trial), 0
        for _ in range(12):
            line = [sys.executable, "-c", PREPARE, str(data_dir), str(raw), str(trial % 2 + 1)]
            process = subprocess.Popen(line, stderr=subprocess.DEVNULL)
            # From before there is anything until it is done.
            time.sleep(rng.uniform(1, 8))
            process.kill()
            process.wait()
            if (data_dir / "kneekl224" / "1.0.0").exists():
                break
            kills += 1
        folder = prepare("kneekl224", data_dir, raw, workers=1)
        assert contents(folder) == whole, f"after {kills} kills"
