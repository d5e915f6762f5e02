"""Let people read the knees in a folder blind, and compare them with each other and a model.

    knee-jax read films/ --study=study.db [--grades=kl] [--repeats=0.1]
    knee-jax read --study=study.db --out=DIR [--predictions=graded/predictions.csv]

The first makes a study of the knees in the files, unless it is there, and serves a page, at
http://127.0.0.1:8001, where readers give grades by keys: in an order of their own, some knees
twice, saved at each key. The second writes what was read (readers.csv, as `knee-jax readers` takes
it, and readings.csv), how readers agree with themselves, each other and the model's predictions of
the same files, and the knees that they differ on. --take=readings.csv adds the readings of another
copy of the study. For research only, not a medical device.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from knee_jax.cli import path
from knee_jax.cli import serve as serving
from knee_jax.errors import UserError

if TYPE_CHECKING:
    from knee_jax.reading.study import Knee, Study

TAKES_WORDS = True


def define_flags() -> None:
    """Define the flags."""
    flags.DEFINE_string("study", None, "File of the study.", required=True)
    flags.DEFINE_list("grades", ["kl"], "Grades that are read of each knee.")
    flags.DEFINE_float(
        "repeats", 0.1, "Share of knees that come twice.", lower_bound=0, upper_bound=1
    )
    flags.DEFINE_integer("seed", 0, "Random seed of the readers' orders.", lower_bound=0)
    flags.DEFINE_string("take", None, "Table of readings to add (readings.csv).")
    flags.DEFINE_string("out", None, "Folder to write what was read to; no page is served.")
    flags.DEFINE_string("predictions", None, "Predictions of the same files, to compare with.")
    serving.define_address(8001)


def main(words: list[str]) -> None:
    """Make or open the study; take readings, write what was read, or serve the page."""
    from knee_jax.reading.study import Study, create

    options = flags.FLAGS
    file = path(options.study)
    if words and not file.exists():
        knees = _knees([Path(word).expanduser() for word in words], options.workers)
        study = create(file, knees, options.grades, options.repeats, options.seed)
        print(f"{study.number():,} knees in {file}")
    elif not file.exists():
        raise UserError(f"--study={file}: no such study; name films to make it of")
    else:
        study = Study(file)
        if words:
            print(f"{file} is there: its {study.number():,} knees are read, not those of the files")
        for name, is_of_study in (
            ("grades", [grade.name for grade in study.grades]),
            ("repeats", study.repeats),
            ("seed", study.seed),
        ):
            if options[name].present and options[name].value != is_of_study:
                told = ",".join(is_of_study) if isinstance(is_of_study, list) else is_of_study
                raise UserError(f"--{name}: {file} was made with {told}; leave the flag out")
    if options.take:
        _take(study, path(options.take))
    if options.out:
        _write(study, path(options.out), options.predictions)
    elif not options.take:
        _serve(study, options.host, options.port, serving.token_of(options.token_file))


def _knees(places: list[Path], workers: int) -> "Iterator[Knee]":
    """Yield the knees of files, with progress, and say what is refused."""
    from tqdm import tqdm

    from knee_jax.ingest.knee_files import Refusal
    from knee_jax.ingest.sources import find, unique
    from knee_jax.reading import knees

    sources = unique(find(places))
    if not sources:
        raise UserError(f"{', '.join(map(str, places))}: no files are in there")
    refused = []
    with tqdm(total=len(sources), desc="reading", unit="file") as bar:
        for each in knees.read(sources, min(workers, len(sources)), bar.update):
            if isinstance(each, Refusal):
                refused.append(each)
            else:
                yield each
    for each in refused:
        what = "note" if each.reason == knees.NOTED else "refused"
        print(f"{what}: {' '.join((each.source, each.side)).strip()}: {each.detail}")


def _take(study: "Study", table: Path) -> None:
    from knee_jax.foreign_tables import read_table

    if not table.is_file():
        raise UserError(f"--take={table}: no such table")
    added, left_out = study.take(read_table(table))
    print(f"{added:,} readings added; {left_out:,} left out, of readers who read here")


def _write(study: "Study", out: Path, predictions: str | None) -> None:
    from knee_jax.foreign_tables import read_table
    from knee_jax.reading.agreement import predictions_of
    from knee_jax.report.reading import write_agreement

    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out}: is a file; name a folder")
    predicted = {}
    if predictions:
        file = path(predictions)
        if not file.is_file():
            raise UserError(f"--predictions={file}: no such table")
        table = read_table(file)
        for grade in study.grades:
            found = predictions_of(table, study.knees(), grade)
            if found is not None:
                predicted[grade.name] = found
        if not predicted:
            names = ", ".join(f"{grade.name}_pred" for grade in study.grades)
            raise UserError(f"--predictions={file}: has no column {names}")
    print(write_agreement(out, study, predicted))


def _serve(study: "Study", host: str, port: int, token: str) -> None:
    """Serve the page until the process is told to stop."""
    serving.require()
    from knee_jax.reading import app
    from knee_jax.serve import server

    server.check_address(host, token)
    hosts = server.LOCAL if host in server.LOCAL else ()
    server.run(app.create(study, token=token, hosts=hosts), host, port)
