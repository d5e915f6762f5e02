"""Base of all builders: the plan, the shards of records, and the ingest report.

Records are written shard by shard (`shards`) and not by TFDS: they keep the order of the plan, a
preparation that was stopped resumes, and nothing passes through TFDS's shuffler, which needs
TensorFlow from 1 GB on.
"""

import abc
import contextlib
import dataclasses
import functools
import os
import pathlib
import re
import shutil
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import tensorflow_datasets as tfds
from tqdm import tqdm

from knee_jax.datasets.shards import (
    Job,
    RecordFormat,
    Shard,
    ShardReport,
    make_shards,
    read_report,
    write_shards,
    write_shards_by_beam,
)
from knee_jax.errors import UserError
from knee_jax.ingest import archives, contact_sheet, repeats
from knee_jax.ingest.headers import HeaderLoader
from knee_jax.ingest.report import LANDMARK_ERROR, Example, Exclusion, IngestReport
from knee_jax.targets.grades import GRADES

tensor = functools.partial(tfds.features.Tensor, encoding="bytes")
"""Constructor of the feature of an array, which is stored as its bytes."""

LOCATED, COMPARED = "located", "compared"
"""Configs of a set whose landmarks the localiser finds where there are no files of them; of the
second it also looks where there are, and the two are compared.
"""

RESERVED_SPLITS = ("all",)
"""Names to which TFDS gives another meaning: `all` stands for all splits together."""

UNFINISHED = ".partial"
"""Suffix of the folder of an unfinished set."""


@dataclasses.dataclass(frozen=True)
class IngestPlan:
    """Files to read, and what is known before any of them is read.

    Attributes:
        jobs: Jobs by split, in record order.
        exclusions: Knees that are known to be unusable.
        notes: Counts of things other than knees for the ingest report, such as duplicate rows.
        subjects: Table with the columns `knee_jax.ingest.enrolment.COLUMNS`; None: unknown.
    """

    jobs: Mapping[str, Sequence[Job]]
    exclusions: Sequence[Exclusion] = ()
    notes: dict[str, int] = dataclasses.field(default_factory=dict)
    subjects: pd.DataFrame | None = None

    def __post_init__(self):
        for split in self.jobs:
            if split in RESERVED_SPLITS or not re.fullmatch(r"\w+", split):
                raise UserError(
                    f"a split cannot be called {split!r}: choose a name of letters, digits and "
                    f"underscores other than {', '.join(RESERVED_SPLITS)}"
                )


def write_once(folder: pathlib.Path, write: Callable[[pathlib.Path], object]) -> None:
    """Write a folder of raw files unless it exists; it appears only once it is complete."""
    if not folder.exists():
        unfinished = folder.with_name(f"{folder.name}{UNFINISHED}")
        shutil.rmtree(unfinished, ignore_errors=True)
        write(unfinished)
        unfinished.rename(folder)


class LocalInfo(tfds.core.DatasetInfo):
    """Description of a set that is made here alone."""

    def initialize_from_bucket(self) -> None:
        """Look nowhere: TFDS would make a temporary folder for what it might find elsewhere."""


class KneeBuilder(tfds.core.dataset_builder.FileReaderBuilder, skip_registration=True):
    """Base of the builders; a subclass defines its own features and makes the plan.

    Attributes:
        unit: Unit of the progress bar: what a job reads.
        label_columns: Dtypes of further labels in addition to the grades, by name; each is a scalar
            feature of the records and a column of the index after the grades.
        jobs_per_shard: Number of jobs whose records form one shard. After a stop, unfinished shards
            are read again.
        workers: Number of processes; the prepared set does not depend on it.
        file_timeout: Time limit of a job, or of reading a header, seconds.
        beam_runner: Name of the Apache Beam runner that writes the shards; None: `workers` do it.
        beam_options: Flags of the Apache Beam runner.
        manual_dir: User's folder of raw files, for builders that read one.
        inventories: Folder of the cache of raw files' headers (`knee_jax.ingest.headers`); None:
            headers are not cached.
        has_read_manual_dir: Whether the builder has used `manual_dir`.
        spacing_mm: Pixel size of films whose headers tell none, mm; None: they are excluded.
        localise: Function that gives a job the landmarks of its knees
            (`knee_jax.inference.study_landmarks`), for configs that have them from a localiser.
        compared: Function that writes, into the set's folder, how the localiser's landmarks compare
            with those of files, for the config `compared`.
    """

    unit: str = "film"
    label_columns: Mapping[str, Any] = types.MappingProxyType({})
    jobs_per_shard: int = 1024
    workers: int = 1
    file_timeout: float = HeaderLoader.file_timeout
    beam_runner: str | None = None
    beam_options: Sequence[str] = ()
    manual_dir: pathlib.Path | None = None
    inventories: pathlib.Path | None = None
    has_read_manual_dir: bool = False
    spacing_mm: float | None = None
    localise: Callable[[Any], Any] | None = None
    compared: Callable[[pathlib.Path], None] | None = None

    @property
    def is_located(self) -> bool:
        """Return whether the localiser finds the landmarks of the knees."""
        return self.builder_config is not None and self.builder_config.name in (LOCATED, COMPARED)

    @property
    def is_compared(self) -> bool:
        """Return whether the localiser's landmarks are compared with those of files."""
        return self.builder_config is not None and self.builder_config.name == COMPARED

    @property
    def columns(self) -> dict[str, Any]:
        """Dtypes of `label_columns`, and of the landmarks' error where a localiser finds them."""
        located = {LANDMARK_ERROR: np.float32} if self.is_located else {}
        return {**self.label_columns, **located}

    def __init__(self, **kwargs):
        super().__init__(file_format="array_record", **kwargs)

    @abc.abstractmethod
    def own_features(self) -> dict[str, Any]:
        """Return the features of the records besides grades, labels and identity, pixels first."""

    @abc.abstractmethod
    def plan(self, work_dir: pathlib.Path) -> IngestPlan:
        """Plan which files are read.

        Args:
            work_dir: Folder for raw files that the plan itself writes, removed afterwards; it
                exists only if an earlier run has written them (`write_once`).

        Raises:
            UserError: The raw study cannot be used at all.
        """

    def manual_folder(self) -> pathlib.Path:
        """Return the user's folder of raw files, or the one that an archive stands for.

        Raises:
            UserError: No folder was given, or it does not exist.
        """
        if self.manual_dir is None:
            raise UserError(
                f"{self.name} is made from your own files: name their folder, with --manual_dir "
                "(knee-jax prepare) or --config.data.manual_dir (knee-jax train)"
            )
        folder = self.manual_dir
        if folder.is_file() and archives.stem(folder.name):
            folder = folder.with_name(archives.stem(folder.name))
        elif not folder.is_dir():
            raise UserError(f"{folder}: no such folder; correct manual_dir")
        self.has_read_manual_dir = True
        return folder

    def header_loader(self) -> HeaderLoader:
        """Return the loader of the raw files' headers."""
        return HeaderLoader(self.inventories, self.workers, self.file_timeout)

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
        features |= {n: tfds.features.Scalar(dtype) for n, dtype in self.columns.items()}
        return LocalInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def download_and_prepare(self, **options) -> None:
        """Prepare the set, resuming from the shards that a stopped run has finished."""
        super().download_and_prepare(**options)
        shutil.rmtree(self._unfinished_dir, ignore_errors=True)

    @property
    def _unfinished_dir(self) -> pathlib.Path:
        """Folder of finished shards and temporary raw files, beside the set's own."""
        return pathlib.Path(self.data_dir).parent / f"{self.version}{UNFINISHED}"

    # `self.data_dir` is TFDS's incomplete folder while this runs; it is renamed afterwards.
    def _download_and_prepare(self, dl_manager, download_config=None):
        plan = self.plan(self._unfinished_dir / "raw")
        if self.is_located:
            plan = self._with_landmarks(plan)
        self._unfinished_dir.mkdir(exist_ok=True)
        shards = {
            split: make_shards(self._unfinished_dir, split, jobs, self.jobs_per_shard)
            for split, jobs in plan.jobs.items()
        }
        self._write_missing([each for of_split in shards.values() for each in of_split])
        reports = {split: [self._read_finished(s) for s in some] for split, some in shards.items()}
        report = IngestReport(plan.exclusions, plan.notes, plan.subjects, self.columns)
        for split, of_split in reports.items():
            for of_shard in of_split:
                report.add(split, of_shard.kept, of_shard.exclusions, of_shard.notes)
        rows = [row for split in report.kept.values() for row in split]
        report.exclude(repeats.find(rows, (*GRADES, *self.columns)))
        self._check_splits(report)
        report.write(pathlib.Path(self.data_dir))
        splits = [self._gather(split, shards[split], reports[split]) for split in shards]
        self.info.set_splits(tfds.core.splits.SplitDict(splits))
        folder = pathlib.Path(self.data_dir)
        sheet = folder / contact_sheet.FILE
        contact_sheet.write(sheet, self._sample(report), list(self.columns))
        if self.is_compared:
            assert self.compared is not None
            self.compared(folder)
        shutil.rmtree(self._unfinished_dir / "raw", ignore_errors=True)

    def _with_landmarks(self, plan: IngestPlan) -> IngestPlan:
        """Return the plan with the landmarks that the localiser finds."""
        if self.localise is None or (self.is_compared and self.compared is None):
            name = f"{self.name}/{self.builder_config.name}"
            raise UserError(
                f"the landmarks of {name} are found by the localiser beforehand: prepare it by "
                f"`knee-jax prepare --dataset={name}`"
            )
        total = sum(map(len, plan.jobs.values()))
        with tqdm(desc="locating knees", total=total, unit=self.unit, mininterval=1) as bar:
            jobs: dict[str, list[Job]] = {}
            for split, of_split in plan.jobs.items():
                jobs[split] = []
                for job in of_split:
                    jobs[split].append(self.located(job, self.localise))
                    bar.update()
        return dataclasses.replace(plan, jobs=jobs)

    def located(self, job: Job, localise: Callable[[Any], Any]) -> Job:
        """Return a job with the landmarks of its knees."""
        located: Job = localise(job)
        return located

    def _write_missing(self, shards: list[Shard]) -> None:
        """Write the shards that no earlier run has finished."""
        missing = [shard for shard in shards if read_report(shard) is None]
        record_format = RecordFormat(self.info.features, tuple(self.columns))
        if self.beam_runner:
            options = (self.beam_runner, self.beam_options)
            write_shards_by_beam(missing, record_format, self.file_timeout, *options)
            return
        total, left = (sum(len(shard.jobs) for shard in some) for some in (shards, missing))
        making = write_shards(missing, record_format, self.workers, self.file_timeout)
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

    def _read_finished(self, shard: Shard) -> ShardReport:
        report = read_report(shard)
        if report is None:
            raise UserError(
                f"{shard.records}: files changed while they were read; start again, which goes on"
            )
        return report

    def _check_splits(self, report: IngestReport) -> None:
        """Raise UserError if a split has no knee."""
        for split, rows in report.kept.items():
            if not rows:
                shutil.rmtree(self._unfinished_dir)
                reasons = ", ".join(f"{n} {why}" for why, n in report.reasons().items())
                raise UserError(f"no knee of the split {split!r} can be used ({reasons})")

    def _gather(
        self, split: str, shards: Sequence[Shard], reports: Sequence[ShardReport]
    ) -> tfds.core.SplitInfo:
        """Move the records of a split into the set's folder."""
        template = self._get_filename_template(split_name=split)
        num_bytes = 0
        for index, shard in enumerate(shards):
            path = template.sharded_filepath(shard_index=index, num_shards=len(shards))
            num_bytes += shard.records.stat().st_size
            try:
                # Not moved, so that nothing is lost if the disk is full at the very end.
                os.link(shard.records, path)
            except OSError:
                os.replace(shard.records, path)
        return tfds.core.SplitInfo(
            name=split,
            shard_lengths=[len(report.kept) for report in reports],
            num_bytes=num_bytes,
            filename_template=template,
        )

    def _sample(self, report: IngestReport) -> Iterator[Example]:
        """Yield some of the records as read from disk."""
        rows = [row for split in report.kept.values() for row in split]
        for row in contact_sheet.choose(rows):
            record = self.as_data_source(row["split"])[row["record"]]
            yield {k: v.decode() if isinstance(v, bytes) else v for k, v in record.items()}
