"""What all builders share: worker processes, the records and the account of every knee.

`tfds.core.ShardBasedBuilder` rather than `GeneratorBasedBuilder`: records keep the order of the
plan, and nothing passes through TFDS's shuffler, which from 1 GB on needs TensorFlow.
"""

import abc
import contextlib
import dataclasses
import functools
import itertools
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2
from tqdm import tqdm

from knee_jax.errors import UserError
from knee_jax.grades import GRADES
from knee_jax.ingest import pool
from knee_jax.ingest.account import Account, Dropped, Example

tensor = functools.partial(tfds.features.Tensor, encoding="bytes")
"""A feature that is an array, stored as its bytes."""

Job = Callable[[], list[Example | Dropped]]
"""Reads one file into its knees; picklable, so that a worker process can run it."""

_JOBS_PER_SHARD = 1024


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be read.

    Attributes:
        jobs: per split, in record order.
        dropped: knees that are known to be unusable before any file is read.
        notes: counts for the account that are not knees, such as duplicate rows.
    """

    jobs: dict[str, list[Job]]
    dropped: Sequence[Dropped] = ()
    notes: dict[str, int] = dataclasses.field(default_factory=dict)


class _SortingWriter(tfds.core.ExampleWriter):
    """Writes the features of a record in one order, which protobuf leaves to chance."""

    def write(self, path, examples):
        return super().write(path, ((key, self._sort(record)) for key, record in examples))

    @staticmethod
    def _sort(record: bytes) -> bytes:
        example = tf_example_pb2.Example.FromString(record)
        return example.SerializeToString(deterministic=True)


class KneeBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """Base of the builders; a subclass names the features of its own and makes the plan.

    Attributes:
        unit: what a job reads, for the progress bar.
        has_progression: whether the records have the feature `progression`, int8.
        workers: number of processes; the prepared set does not depend on it.
        manual_dir: the user's folder of raw files, for builders that read one.
        inventories: folder that keeps what the headers of raw files said, for the next time
            (`knee_jax.ingest.headers`); None: none does.
    """

    unit: str = "film"
    has_progression: bool = False
    workers: int = 1
    manual_dir: pathlib.Path | None = None
    inventories: pathlib.Path | None = None

    def __init__(self, **kwargs):
        super().__init__(file_format="array_record", **kwargs)

    @abc.abstractmethod
    def own_features(self) -> dict[str, Any]:
        """Features of the records beside grades and identity; those that are pixels first."""

    @abc.abstractmethod
    def plan(self, work_dir: pathlib.Path) -> Plan:
        """Says what is to be read.

        Args:
            work_dir: folder for raw files that are made on the way, removed afterwards; it need not
                be there.

        Raises:
            UserError: the raw study cannot be used as a whole.
        """

    def manual_folder(self) -> pathlib.Path:
        """The folder of raw files that the user has given.

        Raises:
            UserError: none was given, or it does not exist.
        """
        if self.manual_dir is None:
            raise UserError(
                f"{self.name} is made from your own files: name their folder, with --manual_dir "
                "(knee_jax.prepare) or --config.data.manual_dir (knee_jax.main)"
            )
        if not self.manual_dir.is_dir():
            raise UserError(f"{self.manual_dir}: no such folder; correct manual_dir")
        return self.manual_dir

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            **self.own_features(),
            "grades": tensor(shape=(len(GRADES),), dtype=np.int8),
            "subject": tfds.features.Text(),
            "side": tfds.features.Text(),
            "visit": tfds.features.Scalar(np.int32),
            "cohort": tfds.features.Text(),
            "site": tfds.features.Text(),
            "source": tfds.features.Text(),
        }
        if self.has_progression:
            features["progression"] = tfds.features.Scalar(np.int8)
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _example_writer(self) -> tfds.core.ExampleWriter:
        return _SortingWriter(self.info.file_format)

    # `self.data_dir` is TFDS's incomplete folder while this runs; it is renamed afterwards.
    def _download_and_prepare(self, dl_manager, download_config=None):
        folder = pathlib.Path(self.data_dir)
        work_dir = folder / "raw"
        self._plan = self.plan(work_dir)
        self._account = Account(self._plan.dropped, self._plan.notes)
        jobs = list(itertools.chain.from_iterable(self._plan.jobs.values()))
        with (
            contextlib.closing(pool.run_in_order(jobs, self.workers)) as results,
            tqdm(
                desc=f"reading {self.name}", total=len(jobs), unit=self.unit, mininterval=1
            ) as bar,
        ):
            self._results, self._bar = results, bar
            super()._download_and_prepare(dl_manager, download_config)
        shutil.rmtree(work_dir, ignore_errors=True)
        self._check_records(folder)
        self._account.write(folder)

    def _shard_iterators_per_split(self, dl_manager):
        def generators(split: str, num_jobs: int):
            starts = range(0, num_jobs, _JOBS_PER_SHARD)
            lengths = [min(_JOBS_PER_SHARD, num_jobs - start) for start in starts]
            return [functools.partial(self._examples, split, length) for length in lengths]

        return {split: generators(split, len(jobs)) for split, jobs in self._plan.jobs.items()}

    def _examples(self, split: str, num_jobs: int) -> Iterator[tuple[int, Example]]:
        """Yields the knees of the next `num_jobs` jobs; TFDS asks for the shards in their order."""
        for knees in itertools.islice(self._results, num_jobs):
            for knee in knees:
                if isinstance(knee, Dropped):
                    self._account.dropped.append(knee)
                else:
                    yield self._account.keep(split, knee), knee
            self._bar.update()

    def _check_records(self, folder: pathlib.Path) -> None:
        """Counts what lies on the disk: a full disk need not have made itself heard."""
        for split, info in self.info.splits.items():
            if not info.num_examples:
                reasons = ", ".join(f"{n} {why}" for why, n in self._account.reasons().items())
                raise UserError(f"no knee of the split {split!r} can be used ({reasons})")
            for name, length in zip(info.filenames, info.shard_lengths):
                reader = array_record_module.ArrayRecordReader(str(folder / name))
                if reader.num_records() != length:
                    raise OSError(f"{name}: {reader.num_records()} records instead of {length}")
