"""Jobs → shards of a prepared set, the unit in which a preparation resumes and Beam works.

A shard is finished when its account lies beside its records. The account bears a fingerprint of all
that the shard was made from, so that a later run knows whether it may keep it.
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
from knee_jax.ingest import pool
from knee_jax.ingest.account import Dropped, Example, Note, index_row, mask_dates, undated


class Job(Protocol):
    """Reads one file into its knees; picklable, so that a worker process can run it."""

    def __call__(self) -> list[Example | Dropped | Note]:
        """The knees, each kept or dropped."""

    def lost(self, reason: str, detail: str) -> list[Example | Dropped | Note]:
        """The same knees where the job cannot be done."""

    def paths(self) -> list[pathlib.Path]:
        """All that the job reads; they need not be there."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """Some jobs in a row, and where their results go.

    Attributes:
        records: file of the records.
        jobs: in record order.
    """

    records: pathlib.Path
    jobs: Sequence[Job]

    @property
    def account(self) -> pathlib.Path:
        """File of `ShardAccount`."""
        return self.records.with_name(f"{self.records.name}.json")


@dataclasses.dataclass(frozen=True)
class ShardAccount:
    """What became of the knees of a shard.

    Attributes:
        fingerprint: of what it was made from.
        kept: rows of the index (`account.index_row`), in record order.
        dropped: in the order of the jobs.
        notes: names of what loses no knee, likewise.
    """

    fingerprint: str
    kept: list[dict[str, Any]]
    dropped: list[Dropped]
    notes: list[str]


def cut(folder: pathlib.Path, split: str, jobs: Sequence[Job], size: int) -> list[Shard]:
    """Cuts the jobs of a split into shards of `size` jobs, the last one smaller."""
    starts = range(0, len(jobs), size)
    return [
        Shard(folder / f"{split}-{number:05d}", jobs[start : start + size])
        for number, start in enumerate(starts)
    ]


def read_account(shard: Shard) -> ShardAccount | None:
    """The account of a shard that is finished and of which nothing has changed since."""
    try:
        found = json.loads(shard.account.read_text(encoding="utf-8"))
        if found["fingerprint"] != _fingerprint(shard.jobs):
            return None
        if _num_records(shard.records) != len(found["kept"]):
            return None
    except (OSError, ValueError, KeyError):
        return None
    dropped = [Dropped(**knee) for knee in found["dropped"]]
    return ShardAccount(found["fingerprint"], found["kept"], dropped, found["notes"])


def make(
    shards: Sequence[Shard],
    features: tfds.features.FeaturesDict,
    workers: int,
    seconds: float,
) -> Iterator[int]:
    """Makes the shards one after the other.

    Args:
        shards: to be made.
        features: of the records.
        workers: number of processes; they read a shard's files while the one before is written.
        seconds: that a file may take.

    Yields:
        1 for each job.
    """
    jobs = itertools.chain.from_iterable(shard.jobs for shard in shards)
    with contextlib.closing(_read(jobs, workers, seconds)) as results:
        for shard in shards:
            yield from _write(shard, features, itertools.islice(results, len(shard.jobs)))


def make_by_beam(
    shards: Sequence[Shard],
    features: tfds.features.FeaturesDict,
    seconds: float,
    runner: str,
    options: Sequence[str] = (),
) -> None:
    """Makes the shards by Apache Beam, each by one process on one of its machines.

    Args:
        shards: to be made; all machines see their folders and the raw files at the same paths.
        features: of the records.
        seconds: that a file may take.
        runner: its name, such as 'DirectRunner'.
        options: its flags.

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
            | beam.Map(functools.partial(_make_one, features, seconds))
        )


def _make_one(features: tfds.features.FeaturesDict, seconds: float, shard: Shard) -> None:
    for _ in make([shard], features, 1, seconds):
        pass


def _read(
    jobs: Iterable[Job], workers: int, seconds: float
) -> Iterator[list[Example | Dropped | Note]]:
    ahead, jobs = itertools.tee(jobs)
    with contextlib.closing(pool.run_in_order(ahead, workers, seconds)) as results:
        for job, knees in zip(jobs, results):
            yield job.lost(knees.reason, knees.detail) if isinstance(knees, pool.Lost) else knees


def _write(
    shard: Shard,
    features: tfds.features.FeaturesDict,
    results: Iterable[list[Example | Dropped | Note]],
) -> Iterator[int]:
    """Writes the records and then, as the sign that they are complete, the account; 1 for a job."""
    # Before anything is read: what changes meanwhile is found to differ.
    account = ShardAccount(_fingerprint(shard.jobs), [], [], [])
    serializer = ExampleSerializer(features.get_serialized_info())
    writer = array_record_module.ArrayRecordWriter(str(shard.records), "group_size:1")
    try:
        for knees in results:
            for knee in knees:
                if isinstance(knee, Dropped):
                    account.dropped.append(undated(knee))
                elif isinstance(knee, Note):
                    account.notes.append(knee.name)
                else:
                    example = knee | {"source": mask_dates(knee["source"])}
                    account.kept.append(index_row(example))
                    record = serializer.serialize_example(features.encode_example(example))
                    writer.write(_sort(record))
            yield 1
    finally:
        writer.close()
    # A full disk need not have made itself heard.
    found = _num_records(shard.records)
    if found != len(account.kept):
        raise OSError(f"{shard.records}: {found} records instead of {len(account.kept)}")
    unfinished = shard.account.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(dataclasses.asdict(account)), encoding="utf-8")
    os.replace(unfinished, shard.account)


def _sort(record: bytes) -> bytes:
    """The record with its features in one order, which protobuf leaves to chance."""
    example = tf_example_pb2.Example.FromString(record)
    return example.SerializeToString(deterministic=True)


def _num_records(records: pathlib.Path) -> int:
    return array_record_module.ArrayRecordReader(str(records)).num_records()


def _fingerprint(jobs: Iterable[Job]) -> str:
    """Tells whether jobs, or the files that they read, differ from those of an earlier run."""
    digest = hashlib.sha256()
    for job in jobs:
        digest.update(pickle.dumps(job))
        for path in job.paths():
            try:
                status = path.stat()
                digest.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
            except OSError:
                digest.update(f"{path}\n".encode())
    return digest.hexdigest()
