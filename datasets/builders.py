"""What all builders share: the plan, the shards of records, and the account of every knee.

Records are written shard by shard (`shards`) and not by TFDS: they keep the order of the plan, a
preparation that was stopped goes on, and nothing passes through TFDS's shuffler, which from 1 GB on
needs TensorFlow.
"""

import abc
import contextlib
import dataclasses
import functools
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import tensorflow_datasets as tfds
from tqdm import tqdm

from knee_jax.datasets.shards import Job, Shard, ShardAccount, cut, make, make_by_beam, read_account
from knee_jax.errors import UserError
from knee_jax.grades import GRADES
from knee_jax.ingest import contact_sheet
from knee_jax.ingest.account import Account, Dropped, Example
from knee_jax.ingest.headers import Reader

tensor = functools.partial(tfds.features.Tensor, encoding="bytes")
"""A feature that is an array, stored as its bytes."""

UNFINISHED = ".partial"
"""What follows the version in the name of the folder of a set that is not finished."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be read.

    Attributes:
        jobs: per split, in record order.
        dropped: knees that are known to be unusable before any file is read.
        notes: counts for the account that are not knees, such as duplicate rows.
        subjects: columns `knee_jax.ingest.enrolment.COLUMNS`; None where nothing is known of them.
    """

    jobs: Mapping[str, Sequence[Job]]
    dropped: Sequence[Dropped] = ()
    notes: dict[str, int] = dataclasses.field(default_factory=dict)
    subjects: pd.DataFrame | None = None


def made_once(folder: pathlib.Path, write: Callable[[pathlib.Path], object]) -> None:
    """Has a folder of raw files written unless it is there, and there only once it is complete."""
    if not folder.exists():
        unfinished = folder.with_name(f"{folder.name}{UNFINISHED}")
        shutil.rmtree(unfinished, ignore_errors=True)
        write(unfinished)
        unfinished.rename(folder)


class KneeBuilder(tfds.core.dataset_builder.FileReaderBuilder, skip_registration=True):
    """Base of the builders; a subclass names the features of its own and makes the plan.

    Attributes:
        unit: what a job reads, for the progress bar.
        has_progression: whether the records have the feature `progression`, int8.
        jobs_per_shard: how many files become one file of records; the more, the more is read again
            after a stop.
        workers: number of processes; the prepared set does not depend on it.
        file_timeout: seconds that a job, or to read a header, may take.
        beam_runner: name of the runner of Apache Beam that makes the shards, None: `workers`.
        beam_options: its flags.
        manual_dir: the user's folder of raw files, for builders that read one.
        inventories: folder that keeps what the headers of raw files said, for the next time
            (`knee_jax.ingest.headers`); None: none does.
        has_read_manual_dir: whether this one has asked for it.
    """

    unit: str = "film"
    has_progression: bool = False
    jobs_per_shard: int = 1024
    workers: int = 1
    file_timeout: float = Reader.file_timeout
    beam_runner: str | None = None
    beam_options: Sequence[str] = ()
    manual_dir: pathlib.Path | None = None
    inventories: pathlib.Path | None = None
    has_read_manual_dir: bool = False

    def __init__(self, **kwargs):
        super().__init__(file_format="array_record", **kwargs)

    @abc.abstractmethod
    def own_features(self) -> dict[str, Any]:
        """Features of the records beside grades and identity; those that are pixels first."""

    @abc.abstractmethod
    def plan(self, work_dir: pathlib.Path) -> Plan:
        """Says what is to be read.

        Args:
            work_dir: folder for raw files that are made on the way, removed afterwards; it is there
                only if an earlier run has made them (`made_once`).

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
        self.has_read_manual_dir = True
        return self.manual_dir

    def reader(self) -> Reader:
        """How the headers of raw files are read."""
        return Reader(self.inventories, self.workers, self.file_timeout)

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

    def download_and_prepare(self, **options) -> None:
        """Prepares the set, going on from what an earlier run that was stopped has finished."""
        super().download_and_prepare(**options)
        shutil.rmtree(self._workshop, ignore_errors=True)

    @property
    def _workshop(self) -> pathlib.Path:
        """Folder of finished shards and raw files made on the way, beside that of the set."""
        return pathlib.Path(self.data_dir).parent / f"{self.version}{UNFINISHED}"

    # `self.data_dir` is TFDS's incomplete folder while this runs; it is renamed afterwards.
    def _download_and_prepare(self, dl_manager, download_config=None):
        plan = self.plan(self._workshop / "raw")
        self._workshop.mkdir(exist_ok=True)
        shards = {
            split: cut(self._workshop, split, jobs, self.jobs_per_shard)
            for split, jobs in plan.jobs.items()
        }
        self._make([each for of_split in shards.values() for each in of_split])
        accounts = {split: [self._finished(s) for s in some] for split, some in shards.items()}
        account = Account(plan.dropped, plan.notes, plan.subjects)
        for split, of_split in accounts.items():
            for found in of_split:
                account.add(split, found.kept, found.dropped, found.notes)
        self._check_splits(account)
        account.write(pathlib.Path(self.data_dir))
        splits = [self._gather(split, shards[split], accounts[split]) for split in shards]
        self.info.set_splits(tfds.core.splits.SplitDict(splits))
        folder = pathlib.Path(self.data_dir)
        contact_sheet.write(folder / contact_sheet.FILE, self._sample(account))
        shutil.rmtree(self._workshop / "raw", ignore_errors=True)

    def _make(self, shards: list[Shard]) -> None:
        """Makes those shards that no earlier run has finished."""
        missing = [shard for shard in shards if read_account(shard) is None]
        if self.beam_runner:
            options = (self.beam_runner, self.beam_options)
            make_by_beam(missing, self.info.features, self.file_timeout, *options)
            return
        total, left = (sum(len(shard.jobs) for shard in some) for some in (shards, missing))
        making = make(missing, self.info.features, self.workers, self.file_timeout)
        with (
            contextlib.closing(making),
            tqdm(
                desc=f"reading {self.name}",
                total=total,
                initial=total - left,
                unit=self.unit,
                mininterval=1,
            ) as bar,
        ):
            for _ in making:
                bar.update()

    def _finished(self, shard: Shard) -> ShardAccount:
        found = read_account(shard)
        if found is None:
            raise UserError(
                f"{shard.records}: files changed while they were read; start again, which goes on"
            )
        return found

    def _check_splits(self, account: Account) -> None:
        """Refuses a split without a knee."""
        for split, rows in account.kept.items():
            if not rows:
                shutil.rmtree(self._workshop)
                reasons = ", ".join(f"{n} {why}" for why, n in account.reasons().items())
                raise UserError(f"no knee of the split {split!r} can be used ({reasons})")

    def _gather(
        self, split: str, shards: Sequence[Shard], accounts: Sequence[ShardAccount]
    ) -> tfds.core.SplitInfo:
        """Brings the records into the set's folder."""
        template = self._get_filename_template(split_name=split)
        num_bytes = 0
        for index, shard in enumerate(shards):
            path = template.sharded_filepath(shard_index=index, num_shards=len(shards))
            num_bytes += shard.records.stat().st_size
            try:
                # Not moved, so that nothing is lost should the disk be full at the very end.
                os.link(shard.records, path)
            except OSError:
                os.replace(shard.records, path)
        return tfds.core.SplitInfo(
            name=split,
            shard_lengths=[len(account.kept) for account in accounts],
            num_bytes=num_bytes,
            filename_template=template,
        )

    def _sample(self, account: Account) -> Iterator[Example]:
        """Some of the records, as they are read from the disk."""
        rows = [row for split in account.kept.values() for row in split]
        for row in contact_sheet.choose(rows):
            record = self.as_data_source(row["split"])[row["record"]]
            yield {k: v.decode() if isinstance(v, bytes) else v for k, v in record.items()}
