"""Preparation of a set from raw files, done once, and tables of what became of every knee."""

import contextlib
import io
import json
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence

import pandas as pd
import tensorflow_datasets as tfds
from absl import logging

from knee_jax import datasets
from knee_jax.errors import UserError, is_full_disk
from knee_jax.files import locked
from knee_jax.ingest import flow, pool
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
    beam_runner: str | None = None,
    beam_options: Sequence[str] = (),
) -> pathlib.Path:
    """Prepare a data set unless that is done; of several processes at once, one does the work.

    A preparation that was stopped resumes from the shards that it has finished.

    Args:
        name: Data set, with its config after a slash if it has any ('phantom_xray/demo').
        data_dir: Folder of all prepared sets.
        manual_dir: Folder of raw files, for data sets that are made from the user's own files.
        workers: Number of processes; None: one per core. The set does not depend on it.
        file_timeout: Seconds after which a file is given up and its knees are excluded as
            `timed_out`; None: default of the builder.
        spacing_mm: Pixel size of films whose headers tell none, mm; None: they are excluded.
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
    if pathlib.Path(data_dir).expanduser().is_file():
        raise UserError(f"{data_dir} is a file: name a folder for the prepared sets")
    path = datasets.builder(name, data_dir).data_path
    folder = pathlib.Path(path)
    # Beside the set and not in it: the bytes of the set do not depend on where anything was.
    origin = folder.parent / f"{folder.name}.made_from"
    raw = pathlib.Path(manual_dir).expanduser().resolve() if manual_dir else None
    if folder.exists():
        _refuse_other_source(folder, origin, raw)
        _refuse_torn(folder)
        return folder
    if raw and raw in folder.resolve().parents:
        raise UserError(
            f"{data_dir} lies in the folder of raw files, {raw}: name another data_dir, since "
            "prepared sets would be taken for raw files"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder.parent / ".lock"):
        # Another process may have made it meanwhile.
        if not folder.exists():
            _remove_leftovers(folder)
            builder = datasets.builder(name, data_dir)
            builder.manual_dir = raw
            builder.inventories = pathlib.Path(data_dir).expanduser() / "inventories"
            builder.workers = workers or _num_cores()
            if file_timeout is not None:
                builder.file_timeout = file_timeout
            builder.spacing_mm = spacing_mm
            builder.beam_runner, builder.beam_options = beam_runner, beam_options
            _download_and_prepare(builder)
            if raw and builder.has_read_manual_dir:
                origin.write_text(f"{raw}\n", encoding="utf-8")
    return folder


def _refuse_other_source(
    folder: pathlib.Path, origin: pathlib.Path, raw: pathlib.Path | None
) -> None:
    """Raise UserError if the set was made from another folder than the one named now."""
    made_from = origin.read_text(encoding="utf-8").strip() if origin.exists() else None
    if raw and made_from and str(raw) != made_from:
        raise UserError(
            f"{folder} was prepared from {made_from}, not from {raw}: delete it to prepare it "
            "again, name another data_dir, or leave manual_dir out to use it as it is"
        )


def _refuse_torn(folder: pathlib.Path) -> None:
    """Raise UserError if a part of the ingest report has been removed."""
    for name in ("index.csv", "exclusions.csv", "ingest_report.json"):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: {name} is gone; delete the folder to prepare it again")


def _download_and_prepare(builder: tfds.core.DatasetBuilder) -> None:
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
