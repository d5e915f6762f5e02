"""Grade the knees in any files: films, crops of single knees, and, by a model of them, MR series.

    knee-jax predict FILE|FOLDER|ARCHIVE... --out=DIR [--model=NAME|RUN|FILE]

DIR receives predictions.csv (one row per knee, or per refused file with the reason), one JSON file
and one picture per knee, and index.html, which can be mailed. A stopped command goes on where it
stopped. Identity in headers is not read.

The knees of a film are cut by its landmark files (`X.pts`, `X_f.pts`), beside it or below
--landmarks; without them the localiser finds them, or --roi=middle takes the middle of each half. A
crop of one knee needs nothing. A model of MR volumes grades series: folders of DICOM slices, and
NIfTI files. --model may name several models, separated by commas, which are averaged; `knee-jax
list weights` lists those that come with the project. --dicom_sr also writes a structured report of
each DICOM film, and a picture of each knee, as DICOM objects that an archive (PACS) takes: filed
under the film's own patient and study, whose names they therefore hold. For research only, not a
medical device.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from knee_jax.errors import UserError

if TYPE_CHECKING:
    from knee_jax.inference.grade import Read, Row
    from knee_jax.inference.predictor import Predictor
    from knee_jax.ingest.sources import Source

    Graded = Iterator[tuple[Read, list[Row]]]
    Work = tuple[list[Source], dict[str, Any], Callable[[list[Source], int], Graded]]

TAKES_WORDS = True


def define_flags() -> None:
    """Define the flags."""
    flags.DEFINE_string("out", None, "Folder to write to.", required=True)
    flags.DEFINE_list("model", ["kl-kneekl224"], "Models, runs' folders or exported files.")
    flags.DEFINE_enum("side", None, ["L", "R"], "Side of every knee; default: from the file.")
    flags.DEFINE_float(
        "spacing", None, "Pixel size of films that carry none, mm.", lower_bound=0.02, upper_bound=1
    )
    flags.DEFINE_string("landmarks", None, "Folder of landmark files; default: beside the films.")
    flags.DEFINE_enum(
        "roi",
        "localiser",
        ["localiser", "landmarks", "middle"],
        "Where the knees of a film without landmark files are: where the localiser finds them; "
        "nowhere, so that the film is refused; or in the middle of each half.",
    )
    flags.DEFINE_bool("dicom_sr", False, "Also write DICOM objects, into DIR/dicom.")
    flags.DEFINE_string("shard", "1/1", "Part I/N of a job array; the parts share --out.")
    flags.DEFINE_integer(
        "workers", min(4, os.cpu_count() or 1), "Processes that read files.", lower_bound=1
    )


def main(words: list[str]) -> None:
    """Grade, write the results, and print where they are."""
    from tqdm import tqdm

    from knee_jax.inference import grade, models, results_folder
    from knee_jax.report.graded import write_page

    options = flags.FLAGS
    if not words:
        raise UserError("no file is named: knee-jax predict FILE|FOLDER... --out=DIR")
    part = part_of(options.shard)
    if options.landmarks and not Path(options.landmarks).expanduser().is_dir():
        raise UserError(f"--landmarks={options.landmarks}: no such folder")
    places = [Path(word).expanduser() for word in words]
    out = Path(options.out).expanduser()
    predictor = models.average([models.load(name) for name in options.model])
    if predictor.reads == "volume":
        sources, settings, grading = _series(predictor, places, out)
    else:
        sources, settings, grading = _films(predictor, places, out)
    if not sources:
        raise UserError(f"{', '.join(words)}: no files are in there")
    results = results_folder.Results(out, settings, part)
    index, number = part
    remaining = results.remaining(sources[index - 1 :: number])
    graded = grading(remaining, min(options.workers, max(len(remaining), 1)))
    with tqdm(total=len(remaining), desc="grading", unit="file", disable=not remaining) as bar:
        for _ in results.add(graded):
            bar.update()
    table = results.write_table(sources)
    if table is None:
        print(f"part {index} of {number} is finished; the others are not")
        return
    pictures = results_folder.pictures_of(table, out)
    if others := len(results.done.keys() - {source.name for source in sources}):
        print(
            f"{others} files that were graded into {out} before are not in the table now: "
            "name them too, or choose another --out"
        )
    page = write_page(out, table, predictor.targets, pictures, predictor.name, grade.WARNING)
    refused = int((table["status"] == "refused").sum())
    print(f"{len(table) - refused} knees graded, {refused} refused, of {len(sources)} files")
    print(f"{grade.WARNING}\n\n{page}")
    if refused == len(table):
        raise UserError(f"no knee was graded; the reasons are in {out / results_folder.TABLE}")


def _films(predictor: "Predictor", places: list[Path], out: Path) -> "Work":
    """Return the films and crops to grade, what their grades depend on, and how they are made."""
    from knee_jax.inference import grade, results_folder
    from knee_jax.ingest.sources import find, unique
    from knee_jax.pacs import results as dicom_results

    options = flags.FLAGS
    reading = grade.reading_for(
        predictor,
        side=options.side or "",
        spacing_mm=options.spacing,
        landmarks=Path(options.landmarks).expanduser() if options.landmarks else None,
        middle=options.roi == "middle",
        localise=options.roi == "localiser",
    )
    sources = unique([each for each in find(places) if not each.path.is_relative_to(out)])
    settings = results_folder.settings_of(predictor, reading)
    if options.dicom_sr:
        dicom_results.require()
        settings["dicom_sr"] = True

    def graded(remaining: list["Source"], workers: int) -> "Graded":
        reads = grade.read_all(remaining, reading, workers)
        reads = grade.placed(reads, reading) if reading.localise else reads
        found = grade.rows_of(predictor, reads, out)
        if options.dicom_sr:
            found = dicom_results.written(found, predictor.targets, out)
        return found

    return sources, settings, graded


def _series(predictor: "Predictor", places: list[Path], out: Path) -> "Work":
    """Return the MR series to grade, what their grades depend on, and how they are made."""
    from knee_jax.inference import grade_series
    from knee_jax.ingest import knee_series
    from knee_jax.ingest.sources import unique

    options = flags.FLAGS
    if options.dicom_sr:
        raise UserError("--dicom_sr reports films; leave it out for MR series")
    preparation = grade_series.preparation_for(predictor)
    side = options.side or ""
    found = knee_series.find(places)
    sources = unique([each for each in found if not each.path.is_relative_to(out)])

    def graded(remaining: list["Source"], workers: int) -> "Graded":
        return grade_series.rows_of(predictor, remaining, preparation, side, workers, out)

    return sources, grade_series.settings_of(predictor, side), graded


def part_of(text: str) -> tuple[int, int]:
    """Parse `I/N`.

    Raises:
        UserError: It is no part of a whole.
    """
    index, _, number = text.partition("/")
    if not (index.isdecimal() and number.isdecimal() and 1 <= int(index) <= int(number)):
        raise UserError(f"--shard={text}: is written I/N, with I from 1 to N")
    return int(index), int(number)
