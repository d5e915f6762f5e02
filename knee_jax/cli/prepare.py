"""Make a prepared set from a study's raw files, and report every knee that was left out.

    knee-jax prepare --dataset=oai_xray --manual_dir=OAI
    knee-jax prepare --dataset=phantom_xray/demo
    knee-jax prepare --dataset=kneekl224 --manual_dir=DIR --landmarks=model
    knee-jax prepare --dataset=oai_xray --manual_dir=OAI --landmarks=both

or from any images and a table of their labels:

    knee-jax prepare folder --labels=labels.csv --infer
    knee-jax prepare folder --images=DIR --labels=labels.csv --name=mine --columns=kl=KLG,subject=ID

The table has the columns `file` and `subject`, of labels at least one (`kl`, other grades,
`progression`, `jsw_medial`), and may have `side`, `visit` (months), `split` (train, val, test),
`cohort` and `site`; `--columns` names those that are called otherwise, and `--infer` proposes them.
Any config then trains on the set, by --config.data.dataset=mine.

--landmarks=model makes the config `located` of a study's set: the project's localiser finds the
landmarks of crops, and of knees on films that have no landmark file. --landmarks=both makes the
config `compared`: the localiser also looks at films with landmark files, which count, and the set's
folder receives landmark_comparison.csv, landmark_quality.csv and landmark_quality.png.

The same command again goes on from where it was stopped.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

from absl import flags

from knee_jax.cli import path
from knee_jax.errors import UserError

TAKES_WORDS = True

OF_FOLDER = (
    *("images", "labels", "name", "columns", "infer", "encoding", "cohort", "size"),
    "roi",
)
OF_STUDY = ("dataset", "manual_dir", "expect", "beam_runner", "beam_options")
"""Flags of the two kinds of sets; the others are of both."""


def define_flags() -> None:
    """Define the flags."""
    flags.DEFINE_string("dataset", None, "Data set, as in `phantom_xray/demo`.")
    flags.DEFINE_string("manual_dir", None, "Folder of your raw files.")
    flags.DEFINE_string("data_dir", "data", "Folder of all prepared sets.")
    flags.DEFINE_integer(
        "workers", None, "Number of processes; default: one per core.", lower_bound=1
    )
    flags.DEFINE_enum(
        "expect",
        None,
        ["paper"],
        "Fail unless the set has as many knees, by grade too, as the paper that used it.",
    )
    flags.DEFINE_float(
        "file_timeout",
        None,
        "Seconds after which a file is given up; default: two minutes.",
        lower_bound=0.1,
    )
    flags.DEFINE_float(
        "spacing",
        None,
        "Pixel size of films whose headers tell none, mm; default: they are excluded.",
        lower_bound=0.02,
        upper_bound=1.0,
    )
    flags.DEFINE_string(
        "beam_runner", None, "Runner of Apache Beam that works instead of --workers: DirectRunner."
    )
    flags.DEFINE_list(
        "beam_options",
        [],
        "Flags of the runner: --beam_options=--direct_num_workers=2,--direct_running_mode=...",
    )
    flags.DEFINE_string("images", None, "Folder or archive of images, of `prepare folder`.")
    flags.DEFINE_string(
        "labels", None, "Table of their labels: CSV, separated by `,`, `;` or tabs."
    )
    flags.DEFINE_string("name", None, "Name of the set.")
    flags.DEFINE_list(
        "columns", [], "Columns by field: kl=KLG,subject=ID; `split=` leaves a field out."
    )
    flags.DEFINE_bool("infer", False, "Propose --columns from the table, and read no image.")
    flags.DEFINE_string("encoding", None, "Encoding of the table; default: UTF-8, or by its mark.")
    flags.DEFINE_string(
        "cohort", "own", "Cohort of the subjects: within one, an id stands for one person."
    )
    flags.DEFINE_integer(
        "size", 224, "Side of the images in the set, pixels.", lower_bound=32, upper_bound=2048
    )
    flags.DEFINE_string(
        "landmarks",
        None,
        "Of a study: `model`, whose landmarks are found by the localiser where there are no files; "
        "`both`, which also compares the two where there are. Of `prepare folder`: "
        "folder of landmark files; default: beside the films.",
    )
    flags.DEFINE_enum("roi", "landmarks", ["landmarks", "middle"], "Where the knees of a film are.")


def main(words: list[str]) -> None:
    """Prepare the data set and print its report."""
    if words not in ([], ["folder"]):
        raise UserError(
            f"unexpected argument {words[0]!r}: `knee-jax prepare folder` makes a set of your own "
            "images, --dataset=NAME one of a study"
        )
    command = "prepare folder" if words else "prepare"
    others = OF_STUDY if words else OF_FOLDER
    if wrong := [name for name in others if flags.FLAGS[name].present]:
        raise UserError(f"--{wrong[0]}: is no flag of `knee-jax {command}`; see its --help")
    if words:
        _prepare_folder()
    else:
        _prepare_study()


def _prepare_study() -> None:
    from knee_jax.datasets.prepare import paper_table, place, prepare, read_index
    from knee_jax.papers import knees as paper_knees

    options = flags.FLAGS
    if not options.dataset:
        raise UserError(
            "name a data set, as --dataset=phantom_xray/demo (`knee-jax list datasets`), or make "
            "one of your own images by `knee-jax prepare folder`"
        )
    if options.beam_options and not options.beam_runner:
        raise UserError("--beam_options are of a runner: name it, as --beam_runner=DirectRunner")
    root = path(options.data_dir)
    name = _with_landmarks(options.dataset, options.landmarks)
    there = place(name, root)
    dataset = there.parent.relative_to(root).as_posix()
    _tell_if_there(there)
    if options.expect == "paper":
        paper_knees.check_counted(dataset)
    localise, compared = _finder(name)
    folder = prepare(
        name,
        options.data_dir,
        options.manual_dir,
        options.workers,
        file_timeout=options.file_timeout,
        spacing_mm=options.spacing,
        localise=localise,
        compared=compared,
        beam_runner=options.beam_runner,
        beam_options=options.beam_options,
    )
    _show(folder, paper_table(dataset, folder))
    if options.expect == "paper":
        paper_knees.check(dataset, read_index(folder))


def _with_landmarks(dataset: str, landmarks: str | None) -> str:
    """Return the name of the set that has the landmarks asked for."""
    from knee_jax.datasets.builders import COMPARED, LOCATED

    if landmarks is None:
        return dataset
    configs = {"model": LOCATED, "both": COMPARED}
    if landmarks not in configs or "/" in dataset:
        raise UserError(
            f"--landmarks={landmarks}: of a study's set, named without a config, it is `model` or "
            "`both`; a folder of landmark files lies in the study's tree, as `landmarks`"
        )
    return f"{dataset}/{configs[landmarks]}"


def _finder(name: str) -> tuple[Callable[[Any], Any], Callable[[pathlib.Path], None] | None]:
    """Return the function that finds a job's landmarks, and the one that writes a comparison."""
    from knee_jax.datasets.builders import COMPARED

    if not name.endswith(f"/{COMPARED}"):
        return functools.partial(_localise, comparison=None), None

    from knee_jax.inference.landmark_comparison import Comparison
    from knee_jax.report import landmark_quality

    comparison = Comparison()

    def write(folder: pathlib.Path) -> None:
        landmark_quality.write(folder, comparison.table(), comparison.worst)

    return functools.partial(_localise, comparison=comparison), write


def _localise(job: Any, comparison: Any) -> Any:
    from knee_jax.inference import locate, study_landmarks

    return study_landmarks.localise(job, locate.shipped(), comparison)


def _prepare_folder() -> None:
    options = flags.FLAGS
    if not options.labels:
        raise UserError("name the table of labels, as --labels=labels.csv")
    if options.infer:
        _infer()
        return
    if not options.images:
        raise UserError("name the folder of the images, as --images=FOLDER")
    if not options.name:
        raise UserError("name the set, as --name=mine")

    from knee_jax.datasets.folder import check_name, path_of
    from knee_jax.datasets.prepare import prepare_folder, read_index
    from knee_jax.ingest.knee_files import Reading
    from knee_jax.ingest.label_table import ONLY_SPLIT
    from knee_jax.ingest.labelled_folder import LabelledFolder

    check_name(options.name)
    columns = dict(_column(word) for word in options.columns)
    landmarks = path(options.landmarks) if options.landmarks else None
    if landmarks and not landmarks.is_dir():
        raise UserError(f"--landmarks={landmarks}: no such folder")
    source = LabelledFolder(
        images=path(options.images),
        labels=path(options.labels),
        reading=Reading(
            pixels=options.size,
            spacing_mm=options.spacing,
            landmarks=landmarks,
            middle=options.roi == "middle",
        ),
        columns=columns,
        encoding=options.encoding,
        cohort=options.cohort,
    )
    root = path(options.data_dir)
    _tell_if_there(path_of(options.name, root))
    folder = prepare_folder(
        options.name, source, root, options.workers, file_timeout=options.file_timeout
    )
    _show(folder)
    split = " --config.data.split=ratio" * (ONLY_SPLIT in set(read_index(folder)["split"]))
    print(
        f"train on it:   knee-jax train --config=kl:best --config.data.dataset={options.name}"
        f"{split} --data_dir={options.data_dir} --workdir=runs/{options.name}"
    )


def _infer() -> None:
    """Show which columns look like which fields, and the command that takes them."""
    import shlex

    from knee_jax.foreign_tables import read_table
    from knee_jax.ingest import label_table

    options = flags.FLAGS
    table = read_table(path(options.labels), options.encoding)
    proposal = label_table.propose(table)
    print(f"{options.labels}: {len(table):,} rows, {len(table.columns)} columns\n")
    print(label_table.describe(proposal))
    columns = {field: column for field, column in proposal.columns.items() if field != column}
    columns |= dict.fromkeys(label_table.missing(proposal), "COLUMN")
    files = table[proposal.columns["file"]].tolist() if "file" in proposal.columns else []
    images = options.images or _folder_of(path(options.labels).parent, files)
    given = {name: options[name].value for name in ("images", "labels", "name", "encoding")}
    given |= {"images": images or "FOLDER", "name": options.name or "mine"}
    words = [f"--{name}={value}" for name, value in given.items() if value]
    # As absl reads a list: a column with a comma or quotation mark is quoted.
    pairs = [f"{field}={column}" for field, column in columns.items()]
    quoted = ['"' + p.replace('"', '""') + '"' if set(p) & set(',"') else p for p in pairs]
    words += [f"--columns={','.join(quoted)}"] if pairs else []
    words += [f"--data_dir={options.data_dir}"] if options["data_dir"].present else []
    still = [] if images else ["FOLDER by the folder of the images"]
    for field in label_table.missing(proposal):
        what = "the column of a label" if field == "kl" else f"the column of each image's {field}"
        or_file = ", or that of the file where every image is of another person"
        still.append(f"COLUMN after {field}= by {what}{or_file if field == 'subject' else ''}")
    print(f"\nif that is right{', once you have replaced ' if still else ''}{'; '.join(still)}:\n")
    print("   ", shlex.join(["knee-jax", "prepare", "folder", *words]))


def _folder_of(beside: pathlib.Path, files: list[str]) -> str:
    """Return the folder, that of a table or one in it, that holds the first of some files."""
    known = [file.strip() for file in files if file.strip()][:1]
    for folder in (beside, *sorted(each for each in beside.iterdir() if each.is_dir())):
        if known and (folder / known[0]).is_file():
            return str(folder)
    return ""


def _column(word: str) -> tuple[str, str]:
    field, sign, column = word.partition("=")
    if not sign:
        raise UserError(f"--columns={word}: is written FIELD=COLUMN, as kl=KLG")
    return field.strip(), column.strip()


def _tell_if_there(folder: pathlib.Path) -> None:
    if folder.exists():
        print(f"{folder} is prepared already; delete it to read the raw files again\n")


def _show(folder: pathlib.Path, beside: str = "") -> None:
    from knee_jax.datasets.prepare import report_table
    from knee_jax.ingest import contact_sheet
    from knee_jax.report import landmark_quality

    print(report_table(folder))
    for more in (beside, landmark_quality.words(folder)):
        if more:
            print(f"\n{more}\n")
    print(f"excluded:      {folder / 'exclusions.csv'}")
    print(f"look at some:  {folder / contact_sheet.FILE}")
    print(f"prepared set:  {folder}")
