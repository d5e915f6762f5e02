"""Shards of a prepared set: the unit in which a preparation resumes and Apache Beam works.

A shard is finished when its report lies beside its records. The report holds a fingerprint of
everything that the shard was made from, by which a later run decides whether it may keep the shard.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.util
import itertools
import json
import os
import pathlib
import pickle
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.core.example_serializer import ExampleSerializer
from tensorflow_datasets.proto import tf_example_pb2

from knee_jax.errors import UserError
from knee_jax.ingest import archives, pool
from knee_jax.ingest.report import Example, Exclusion, Note, index_row, mask_dates, without_dates


class Job(Protocol):
    """Picklable function that reads the knees of one file."""

    def __call__(self) -> list[Example | Exclusion | Note]:
        """Read the knees, each kept or excluded."""

    def exclude(self, reason: str, detail: str) -> list[Example | Exclusion | Note]:
        """Return the same knees as excluded, for a job that cannot be done."""

    def paths(self) -> list[pathlib.Path]:
        """Return all files that the job reads; they need not exist."""


@dataclasses.dataclass(frozen=True)
class RecordFormat:
    """Contents of a record and of its row of the index.

    Attributes:
        features: Features of the record.
        label_columns: Names of the features that are columns of the index after the grades.
    """

    features: tfds.features.FeaturesDict
    label_columns: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Shard:
    """Consecutive jobs, and the file of their records.

    Attributes:
        records: Path of the records.
        jobs: Jobs in record order.
    """

    records: pathlib.Path
    jobs: Sequence[Job]

    @property
    def report(self) -> pathlib.Path:
        """Path of the shard's `ShardReport`."""
        return self.records.with_name(f"{self.records.name}.json")


@dataclasses.dataclass(frozen=True)
class ShardReport:
    """Kept and excluded knees of a shard.

    Attributes:
        fingerprint: Fingerprint of the jobs and of the files that they read.
        kept: Rows of the index (`report.index_row`), in record order.
        exclusions: Excluded knees in the order of the jobs.
        notes: Notes in the order of the jobs.
    """

    fingerprint: str
    kept: list[dict[str, Any]]
    exclusions: list[Exclusion]
    notes: list[Note]


def make_shards(folder: pathlib.Path, split: str, jobs: Sequence[Job], size: int) -> list[Shard]:
    """Divide the jobs of a split into shards of `size` jobs; the last one may be smaller."""
    starts = range(0, len(jobs), size)
    return [
        Shard(folder / f"{split}-{number:05d}", jobs[start : start + size])
        for number, start in enumerate(starts)
    ]


def read_report(shard: Shard) -> ShardReport | None:
    """Read the report of a shard; return None unless it is finished and nothing has changed."""
    try:
        found = json.loads(shard.report.read_text(encoding="utf-8"))
        if found["fingerprint"] != _fingerprint(shard.jobs):
            return None
        if _num_records(shard.records) != len(found["kept"]):
            return None
        exclusions = [Exclusion(**knee) for knee in found["exclusions"]]
        notes = [Note(**note) for note in found["notes"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return ShardReport(found["fingerprint"], found["kept"], exclusions, notes)


def write_shards(
    shards: Sequence[Shard],
    record_format: RecordFormat,
    workers: int,
    seconds: float,
) -> Iterator[int]:
    """Write the shards one after the other.

    Args:
        shards: Shards to write.
        record_format: Contents of the records.
        workers: Number of processes; they read a shard's files while the previous one is written.
        seconds: Time limit of a job, seconds.

    Yields:
        The number 1 for each job.
    """
    jobs = itertools.chain.from_iterable(shard.jobs for shard in shards)
    with contextlib.closing(_run(jobs, workers, seconds)) as results:
        for shard in shards:
            yield from _write_shard(
                shard, record_format, itertools.islice(results, len(shard.jobs))
            )


def write_shards_by_beam(
    shards: Sequence[Shard],
    record_format: RecordFormat,
    seconds: float,
    runner: str,
    options: Sequence[str] = (),
) -> None:
    """Write the shards with Apache Beam, each in one process on one of its machines.

    Args:
        shards: Shards to write; all machines must see their folders and the raw files at the same
            paths.
        record_format: Contents of the records.
        seconds: Time limit of a job, seconds.
        runner: Name of the runner, such as 'DirectRunner'.
        options: Flags of the runner.

    Raises:
        UserError: Apache Beam is not installed.
    """
    if importlib.util.find_spec("apache_beam") is None:
        raise UserError("Apache Beam is not installed: pip install -e '.[beam]'")
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    flags = PipelineOptions(list(options))
    with beam.Pipeline(runner=runner, options=flags) as pipeline:
        _ = (
            pipeline
            | beam.Create(shards)
            | beam.Reshuffle()
            | beam.Map(functools.partial(_write_one, record_format, seconds))
        )


def _write_one(record_format: RecordFormat, seconds: float, shard: Shard) -> None:
    for _ in write_shards([shard], record_format, 1, seconds):
        pass


def _run(
    jobs: Iterable[Job], workers: int, seconds: float
) -> Iterator[list[Example | Exclusion | Note]]:
    ahead, jobs = itertools.tee(jobs)
    with contextlib.closing(pool.run_in_order(ahead, workers, seconds)) as results:
        for job, knees in zip(jobs, results):
            yield (
                job.exclude(knees.reason, knees.detail)
                if isinstance(knees, pool.Failure)
                else knees
            )


def _write_shard(
    shard: Shard,
    record_format: RecordFormat,
    results: Iterable[list[Example | Exclusion | Note]],
) -> Iterator[int]:
    """Write the records and then, to mark them as complete, the report; yield 1 per job."""
    # Taken before anything is read, so that a file that changes meanwhile is noticed.
    report = ShardReport(_fingerprint(shard.jobs), [], [], [])
    features = record_format.features
    serializer = ExampleSerializer(features.get_serialized_info())
    writer = array_record_module.ArrayRecordWriter(str(shard.records), "group_size:1")
    try:
        for knees in results:
            for knee in knees:
                if isinstance(knee, Exclusion):
                    report.exclusions.append(without_dates(knee))
                elif isinstance(knee, Note):
                    report.notes.append(dataclasses.replace(knee, source=mask_dates(knee.source)))
                else:
                    example = knee | {"source": mask_dates(knee["source"])}
                    report.kept.append(index_row(example, record_format.label_columns))
                    record = serializer.serialize_example(features.encode_example(example))
                    writer.write(_sort(record))
            yield 1
    finally:
        writer.close()
    # A full disk does not always raise.
    found = _num_records(shard.records)
    if found != len(report.kept):
        raise OSError(f"{shard.records}: {found} records instead of {len(report.kept)}")
    unfinished = shard.report.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(dataclasses.asdict(report)), encoding="utf-8")
    os.replace(unfinished, shard.report)


def _sort(record: bytes) -> bytes:
    """Return the record with its features in a fixed order, which protobuf does not guarantee."""
    example = tf_example_pb2.Example.FromString(record)
    return example.SerializeToString(deterministic=True)


def _num_records(records: pathlib.Path) -> int:
    return array_record_module.ArrayRecordReader(str(records)).num_records()


def _fingerprint(jobs: Iterable[Job]) -> str:
    """Return a fingerprint that differs when the jobs, or the files that they read, differ."""
    digest = hashlib.sha256()
    for job in jobs:
        digest.update(pickle.dumps(job))
        for path in job.paths():
            try:
                status = archives.on_disk(path).stat()
                digest.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
            except OSError:
                digest.update(f"{path}\n".encode())
    return digest.hexdigest()
