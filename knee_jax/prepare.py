"""Command: raw study → prepared set, with an account of every knee.

python -m knee_jax.prepare --dataset=NAME [--manual_dir=DIR] [--data_dir=DIR] [--workers=N]
    [--expect=paper]
"""

import contextlib
import fcntl
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
from absl import flags, logging

import knee_jax.datasets as datasets
from knee_jax import cli
from knee_jax.datasets.builders import KneeBuilder
from knee_jax.errors import UserError
from knee_jax.grades import GRADES, MISSING, NUM_CLASSES
from knee_jax.ingest import contact_sheet, flow
from knee_jax.papers import knees as paper_knees


def prepare(
    name: str,
    data_dir: str | pathlib.Path,
    manual_dir: str | pathlib.Path | None = None,
    workers: int | None = None,
    *,
    file_timeout: float = KneeBuilder.file_timeout,
    beam_runner: str | None = None,
    beam_options: Sequence[str] = (),
) -> pathlib.Path:
    """Prepares a data set unless that is done; of several processes at once, one does the work.

    What is stopped, by whatever, goes on the next time from the shards that it has finished.

    Args:
        name: data set, with its config after a slash if it has any ('phantom_xray/demo').
        data_dir: folder of all prepared sets.
        manual_dir: folder of raw files, for the data sets that are made from yours.
        workers: number of processes; None: one a core. The set does not depend on it.
        file_timeout: seconds after which a file is given up, its knees dropped as `timed_out`.
        beam_runner: runner of Apache Beam that does the work instead of `workers`.
        beam_options: its flags.

    Returns:
        The set's folder, for `tfds.builder_from_directory`; it also holds `index.csv`,
        `quarantine.csv`, `account.json` and `contact_sheet.png`.

    Raises:
        UserError: unknown data set, raw files that cannot be used as a whole, or a full disk.
    """
    if pathlib.Path(data_dir).expanduser().is_file():
        raise UserError(f"{data_dir} is a file: name a folder for the prepared sets")
    path = datasets.builder(name, data_dir).data_path
    folder = pathlib.Path(path)
    # Beside the set and not in it: the set's bytes do not depend on where anything lay.
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
            builder.file_timeout = file_timeout
            builder.beam_runner, builder.beam_options = beam_runner, beam_options
            _download_and_prepare(builder)
            if raw and builder.has_read_manual_dir:
                origin.write_text(f"{raw}\n", encoding="utf-8")
    return folder


def _refuse_other_source(
    folder: pathlib.Path, origin: pathlib.Path, raw: pathlib.Path | None
) -> None:
    """Raises UserError if the set was made from another folder than the one that is named now."""
    made_from = origin.read_text(encoding="utf-8").strip() if origin.exists() else None
    if raw and made_from and str(raw) != made_from:
        raise UserError(
            f"{folder} was prepared from {made_from}, not from {raw}: delete it to prepare it "
            "again, name another data_dir, or leave manual_dir out to use it as it is"
        )


def _refuse_torn(folder: pathlib.Path) -> None:
    """Raises UserError if somebody has removed a part of the account."""
    for name in ("index.csv", "quarantine.csv", "account.json"):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: {name} is gone; delete the folder to prepare it again")


def _download_and_prepare(builder: tfds.core.DatasetBuilder) -> None:
    tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    # TFDS prints and logs of downloads that there are not.
    level, spoken = logging.get_verbosity(), logging.get_absl_logger().level
    logging.set_verbosity(logging.WARNING)
    try:
        # It also makes a folder for them, wherever it is told to.
        with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as nowhere:
            builder.download_and_prepare(download_dir=nowhere, download_config=config)
    except Exception as error:
        if cli.is_full_disk(error):
            place = builder.data_path.parent
            raise UserError(
                f"{place}: the disk is full; make room and start again to go on from here, or "
                "delete this folder and change data_dir"
            ) from error
        raise
    finally:
        logging.set_verbosity(level)
        # Which also changes what absl's own logger says.
        logging.get_absl_logger().setLevel(spoken)


def _num_cores() -> int:
    # What this process may use; macOS does not tell.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _lock(path: pathlib.Path) -> Iterator[None]:
    """Holds a lock that ends with the process, however that ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that prepares {path.parent}", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove_leftovers(folder: pathlib.Path) -> None:
    """Removes what a killed preparation of this set has left behind, but what it has finished."""
    for leftover in folder.parent.glob(f"incomplete.*_{folder.name}"):
        shutil.rmtree(leftover)


def account_table(folder: pathlib.Path) -> str:
    """Lays out the account of a prepared set as text: who was lost where, parts, grades, notes."""
    account = json.loads((folder / "account.json").read_text())
    rows = [(f"part {split}", count) for split, count in account["splits"].items()]
    rows += [(name.replace("_", " "), count) for name, count in account["notes"].items()]
    lines = [f"{name:<44}{count:>10,}" for name, count in rows]
    knees = flow.text(flow.flow(account["kept"], account["dropped"]))
    return "\n".join([knees, "", grades_table(_index(folder)), "", *lines])


def grades_table(index: pd.DataFrame) -> str:
    """Knees by grade as text, as Table 1 of Tiulpin & Saarakkala 2020."""
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
    """The paper's numbers of the set beside its own as text; empty where no paper counts it."""
    table = paper_knees.compare(dataset, _index(folder))
    if table.empty:
        return ""
    lines = [f"{'':<28}{'paper':>8}{'ours':>8}"]
    for row in table.to_dict("records"):
        quantity = row["quantity"].replace("_", " ")
        lines.append(f"{quantity:<28}{row['paper']:>8,}{row['ours']:>8,}  {row['source']}")
    return "\n".join(lines)


def _index(folder: pathlib.Path) -> pd.DataFrame:
    return pd.read_csv(folder / "index.csv", dtype={"subject": str}, keep_default_na=False)


def main(_: list[str]) -> None:
    """Prepares the data set that the flags name and prints its account."""
    options = flags.FLAGS
    if options.beam_options and not options.beam_runner:
        raise UserError("--beam_options are of a runner: name it, as --beam_runner=DirectRunner")
    root = pathlib.Path(options.data_dir).expanduser()
    path = pathlib.Path(datasets.builder(options.dataset, options.data_dir).data_path)
    dataset = path.parent.relative_to(root).as_posix()
    if options.expect == "paper":
        paper_knees.check_counted(dataset)
    folder = prepare(
        options.dataset,
        options.data_dir,
        options.manual_dir,
        options.workers,
        file_timeout=options.file_timeout,
        beam_runner=options.beam_runner,
        beam_options=options.beam_options,
    )
    print(account_table(folder))
    if beside := paper_table(dataset, folder):
        print(f"\n{beside}\n")
    print(f"dropped knees: {folder / 'quarantine.csv'}")
    print(f"look at some:  {folder / contact_sheet.FILE}")
    print(f"prepared set:  {folder}")
    if options.expect == "paper":
        paper_knees.check(dataset, _index(folder))


def run() -> None:
    """The command; only here, since other commands that prepare have flags of their own."""
    flags.DEFINE_string("dataset", None, "Data set, as `phantom_xray/demo`.", required=True)
    flags.DEFINE_string("manual_dir", None, "Folder of your raw files.")
    flags.DEFINE_string("data_dir", "data", "Folder of all prepared sets.")
    flags.DEFINE_integer("workers", None, "Processes; default: one a core.", lower_bound=1)
    expect = "Fail unless the set has as many knees, by grade too, as the paper that used it."
    flags.DEFINE_enum("expect", None, ["paper"], expect)
    flags.DEFINE_float(
        "file_timeout",
        KneeBuilder.file_timeout,
        "Seconds after which a file is given up.",
        lower_bound=0.1,
    )
    flags.DEFINE_string(
        "beam_runner", None, "Runner of Apache Beam that works instead of --workers: DirectRunner."
    )
    flags.DEFINE_list(
        "beam_options",
        [],
        "Its flags: --beam_options=--direct_num_workers=2,--direct_running_mode=...",
    )
    cli.run(main)


if __name__ == "__main__":
    run()
