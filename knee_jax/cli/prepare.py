"""Make a prepared set from a study's raw files, and report every knee that was left out.

    knee-jax prepare --dataset=oai_xray --manual_dir=OAI
    knee-jax prepare --dataset=phantom_xray/demo

The same command again goes on from where it was stopped.
"""

import pathlib

from absl import flags

from knee_jax.errors import UserError


def define_flags() -> None:
    """Define the flags."""
    flags.DEFINE_string("dataset", None, "Data set, as in `phantom_xray/demo`.", required=True)
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


def main(_: list[str]) -> None:
    """Prepare the data set and print its report."""
    import knee_jax.datasets as datasets
    from knee_jax.datasets.prepare import paper_table, prepare, read_index, report_table
    from knee_jax.ingest import contact_sheet
    from knee_jax.papers import knees as paper_knees

    options = flags.FLAGS
    if options.beam_options and not options.beam_runner:
        raise UserError("--beam_options are of a runner: name it, as --beam_runner=DirectRunner")
    root = pathlib.Path(options.data_dir).expanduser()
    path = pathlib.Path(datasets.builder(options.dataset, options.data_dir).data_path)
    dataset = path.parent.relative_to(root).as_posix()
    if path.exists():
        print(f"{path} is prepared already; delete it to read the raw files again\n")
    if options.expect == "paper":
        paper_knees.check_counted(dataset)
    folder = prepare(
        options.dataset,
        options.data_dir,
        options.manual_dir,
        options.workers,
        file_timeout=options.file_timeout,
        spacing_mm=options.spacing,
        beam_runner=options.beam_runner,
        beam_options=options.beam_options,
    )
    print(report_table(folder))
    if beside := paper_table(dataset, folder):
        print(f"\n{beside}\n")
    print(f"excluded:      {folder / 'exclusions.csv'}")
    print(f"look at some:  {folder / contact_sheet.FILE}")
    print(f"prepared set:  {folder}")
    if options.expect == "paper":
        paper_knees.check(dataset, read_index(folder))
