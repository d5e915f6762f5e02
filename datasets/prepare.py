"""Preparation of a set from raw files, done once, and tables of what became of every knee."""

import contextlib
import io
import json
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd
import tensorflow_datasets as tfds
from absl import logging

from knee_jax import datasets
from knee_jax.datasets import folder as own_sets
from knee_jax.datasets.builders import KneeBuilder
from knee_jax.errors import UserError, is_full_disk
from knee_jax.files import locked
from knee_jax.ingest import flow, pool
from knee_jax.ingest.labelled_folder import LabelledFolder
from knee_jax.papers import knees as paper_knees
from knee_jax.targets.grades import GRADES, MISSING, NUM_CLASSES


def prepare(
    name: str,
    data_dir: str | pathlib.Path,
    manual_dir: str | pathlib.Path | None = None,
    workers: int | None = None,
    *,
    file_timeout: float | None = None,
    spacing_mm: float | None = None,
    localise: Callable[[Any], Any] | None = None,
    compared: Callable[[pathlib.Path], None] | None = None,
    beam_runner: str | None = None,
    beam_options: Sequence[str] = (),
) -> pathlib.Path:
    """Prepare a data set unless that is done; of several processes at once, one does the work.

    A preparation that was stopped resumes from the shards that it has finished.

    Args:
        name: Data set, with its config after a slash if it has any ('phantom_xray/demo'); or the
            name of a set that `prepare_folder` has made.
        data_dir: Folder of all prepared sets.
        manual_dir: Folder of raw files, for data sets that are made from the user's own files.
        workers: Number of processes; None: one per core. The set does not depend on it.
        file_timeout: Seconds after which a file is given up and its knees are excluded as
            `timed_out`; None: default of the builder.
        spacing_mm: Pixel size of films whose headers tell none, mm; None: they are excluded.
        localise: Function that gives a job the landmarks of its knees, for configs `located`
            and `compared`.
        compared: Function that writes into a folder how the localiser's landmarks compare with
            those of files, for the config `compared`.
        beam_runner: Runner of Apache Beam that does the work instead of `workers`.
        beam_options: Flags of the runner.

    Returns:
        Folder of the set, for `tfds.builder_from_directory`; it also holds `index.csv`,
        `exclusions.csv`, `ingest_report.json` and `contact_sheet.png`.

    Raises:
        UserError: The data set is unknown, the raw files cannot be used as a whole, or the disk is
            full.
    """
    pool.exit_if_imported_by_worker()
    raw = pathlib.Path(manual_dir).expanduser().resolve() if manual_dir else None
    folder = place(name, data_dir)
    if _is_there(folder, str(raw) if raw else None):
        return folder

    def make() -> None:
        builder = datasets.builder(name, data_dir)
        builder.manual_dir = raw
        builder.spacing_mm = spacing_mm
        builder.localise, builder.compared = localise, compared
        builder.inventories = pathlib.Path(data_dir).expanduser() / "inventories"
        builder.beam_runner, builder.beam_options = beam_runner, beam_options
        _download_and_prepare(builder, workers, file_timeout)
        if raw and builder.has_read_manual_dir:
            _origin(folder).write_text(f"{raw}\n", encoding="utf-8")

    _make_once(folder, raw, make)
    return folder


def prepare_folder(
    name: str,
    source: LabelledFolder,
    data_dir: str | pathlib.Path,
    workers: int | None = None,
    *,
    file_timeout: float | None = None,
) -> pathlib.Path:
    """Prepare a set of anybody's labelled images, as `prepare` does a data set.

    Args:
        name: Name of the set, by which `prepare` finds it from then on.
        source: Images and labels.
        data_dir: Folder of all prepared sets.
        workers: Number of processes; None: one per core.
        file_timeout: Seconds after which a file is given up.

    Returns:
        Folder of the set.

    Raises:
        UserError: The name cannot be that of a set, the labels or images cannot be used as a whole,
            or the set was made from others.
    """
    pool.exit_if_imported_by_worker()
    own_sets.check_name(name)
    place(name, data_dir, new=True)
    folder = own_sets.path_of(name, data_dir)
    # Before anything is made, so that a mistake in the table leaves nothing behind.
    builder = own_sets.FolderBuilder(name, source, data_dir=folder.parents[1])
    made_from = own_sets.origin(source)
    if _is_there(folder, made_from, "or choose another --name"):
        return folder

    def make() -> None:
        _download_and_prepare(builder, workers, file_timeout)
        _origin(folder).write_text(f"{made_from}\n", encoding="utf-8")

    _make_once(folder, source.images.resolve(), make)
    return folder


def place(name: str, data_dir: str | pathlib.Path, *, new: bool = False) -> pathlib.Path:
    """Return the folder of a set, prepared or not yet.

    Args:
        name: Data set, with its config after a slash if it has any, or set of a labelled folder.
        data_dir: Folder of all prepared sets.
        new: Whether it may be the set of a folder that is not prepared yet.

    Raises:
        UserError: There is no such data set, nor a prepared set of that name.
    """
    if pathlib.Path(data_dir).expanduser().is_file():
        raise UserError(f"{data_dir} is a file: name a folder for the prepared sets")
    own = own_sets.path_of(name, data_dir)
    if name not in datasets.names() and "/" not in name and (new or own.is_dir()):
        return own
    try:
        return pathlib.Path(datasets.builder(name, data_dir).data_path)
    except UserError as error:
        if name.partition("/")[0] in datasets.names():
            raise
        raise UserError(
            f"{error}; and no folder was prepared as {name!r} in {data_dir} "
            "(`knee-jax prepare folder`)"
        ) from None


def _origin(folder: pathlib.Path) -> pathlib.Path:
    """Return the file that says what a set was made from.

    It lies beside the set, whose bytes do not depend on where anything was.
    """
    return folder.parent / f"{folder.name}.made_from"


_REMEDY = "name another data_dir, or leave manual_dir out to use it as it is"


def _is_there(folder: pathlib.Path, source: str | None, remedy: str = _REMEDY) -> bool:
    """Return whether a set is prepared.

    Raises:
        UserError: It is, but torn, or from another source.
    """
    if folder.exists():
        _refuse_other_source(folder, source, remedy)
        _refuse_torn(folder)
        return True
    return False


def _make_once(folder: pathlib.Path, raw: pathlib.Path | None, make: Callable[[], None]) -> None:
    """Make a set unless another process does.

    Args:
        folder: Folder of the set.
        raw: Folder of raw files.
        make: Function that makes it.
    """
    if raw and raw in folder.resolve().parents:
        raise UserError(
            f"{folder.parent} lies in the folder of raw files, {raw}: name another data_dir, since "
            "prepared sets would be taken for raw files"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder.parent / ".lock"):
        # Another process may have made it meanwhile.
        if not folder.exists():
            _remove_leftovers(folder)
            make()


def _refuse_other_source(folder: pathlib.Path, source: str | None, remedy: str) -> None:
    """Raise UserError if the set was made from another source than the one named now."""
    origin = _origin(folder)
    made_from = origin.read_text(encoding="utf-8").strip() if origin.exists() else None
    if source and made_from and source != made_from:
        raise UserError(
            f"{folder} was prepared from {made_from}, not from {source}: delete it to prepare it "
            f"again, {remedy}"
        )


def _refuse_torn(folder: pathlib.Path) -> None:
    """Raise UserError if a part of the ingest report has been removed."""
    for name in ("index.csv", "exclusions.csv", "ingest_report.json"):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: {name} is gone; delete the folder to prepare it again")


def _download_and_prepare(
    builder: KneeBuilder, workers: int | None, file_timeout: float | None
) -> None:
    builder.workers = workers or _num_cores()
    if file_timeout is not None:
        builder.file_timeout = file_timeout
    tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    # TFDS prints and logs downloads that do not happen.
    level, spoken = logging.get_verbosity(), logging.get_absl_logger().level
    logging.set_verbosity(logging.WARNING)
    try:
        # It also makes a folder for them.
        with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as nowhere:
            builder.download_and_prepare(download_dir=nowhere, download_config=config)
    except Exception as error:
        if is_full_disk(error):
            place = builder.data_path.parent
            raise UserError(
                f"{place}: the disk is full; make room and start again to go on from here, or "
                "delete this folder and change data_dir"
            ) from error
        raise
    finally:
        logging.set_verbosity(level)
        # This also changes what absl's own logger reports.
        logging.get_absl_logger().setLevel(spoken)


def _num_cores() -> int:
    # The cores that this process may use; macOS does not report them.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _lock(path: pathlib.Path) -> Iterator[None]:
    """Hold a lock that ends with the process, however that ends."""
    with locked(path) as free:
        if free:
            yield
            return
    print(f"waiting for another process that prepares {path.parent}", file=sys.stderr)
    with locked(path, wait=True):
        yield


def _remove_leftovers(folder: pathlib.Path) -> None:
    """Remove what a killed preparation of this set has left, except finished shards."""
    for leftover in folder.parent.glob(f"incomplete.*_{folder.name}"):
        shutil.rmtree(leftover)


def report_table(folder: pathlib.Path) -> str:
    """Format the ingest report of a prepared set as text: exclusions, splits, grades, notes."""
    report = json.loads((folder / "ingest_report.json").read_text())
    rows = [(f"split {split}", count) for split, count in report["splits"].items()]
    rows += [(name.replace("_", " "), count) for name, count in report["notes"].items()]
    lines = [f"{name:<44}{count:>10,}" for name, count in rows]
    knees = flow.text(flow.flow(report["kept"], report["excluded"]))
    return "\n".join([knees, "", grades_table(read_index(folder)), "", *lines])


def grades_table(index: pd.DataFrame) -> str:
    """Format the knees by grade as text, like Table 1 of Tiulpin & Saarakkala 2020."""
    grades = index[list(GRADES)].apply(lambda column: column.value_counts())
    rows = {"missing": grades.reindex([MISSING])} | {
        str(grade): grades.reindex([grade]) for grade in range(max(NUM_CLASSES[g] for g in GRADES))
    }
    lines = ["grade     " + "".join(f"{grade:>8}" for grade in GRADES)]
    for name, row in rows.items():
        counts = row.fillna(0).iloc[0].astype(int)
        lines.append(f"{name:<10}" + "".join(f"{counts[grade]:>8,}" for grade in GRADES))
    return "\n".join(lines)


def paper_table(dataset: str, folder: pathlib.Path) -> str:
    """Format the paper's numbers of the set beside its own; empty if no paper counts it."""
    table = paper_knees.compare(dataset, read_index(folder))
    if table.empty:
        return ""
    lines = [f"{'':<28}{'paper':>8}{'ours':>8}"]
    for row in table.to_dict("records"):
        quantity = row["quantity"].replace("_", " ")
        lines.append(f"{quantity:<28}{row['paper']:>8,}{row['ours']:>8,}  {row['source']}")
    return "\n".join(lines)


def read_index(folder: pathlib.Path) -> pd.DataFrame:
    """Read the `index.csv` of a prepared set, missing values as empty text."""
    return pd.read_csv(folder / "index.csv", dtype={"subject": str}, keep_default_na=False)
