"""Make a table of a paper again: `paper | ours [interval]`, row by row.

    knee-jax reproduce --table=kpn/3 --budget=demo

Each row is a run of `knee-jax train`, in OUT/BUDGET/SYSTEM/VARIANT. Finished runs are not repeated,
and interrupted ones are resumed. The table is saved beside them as text, CSV and page.
"""

from absl import flags

from knee_jax.cli import path


def define_flags() -> None:
    """Define the flags."""
    flags.DEFINE_string("table", None, "Table, as in `kpn/3`; `list` shows all.", required=True)
    flags.DEFINE_enum("budget", "demo", ["demo", "paper"], "Small runs for a CPU, or as published.")
    flags.DEFINE_string("out", "runs/reproduce", "Folder of the runs and the tables.")
    flags.DEFINE_string("data_dir", "data", "Folder of prepared sets; missing ones are made there.")
    flags.DEFINE_multi_string("rows", [], "Run this row only; may be repeated.")
    flags.DEFINE_integer("seed", None, "For config.seed; default: the config's own.")
    flags.DEFINE_multi_string(
        "change", [], "config.FIELD=VALUE for every run; may be repeated: a real data set, say."
    )
    flags.DEFINE_string("study", "", "Variant that reads a real study, for rows that have it: oai.")
    flags.DEFINE_bool("dry_run", False, "Only print what would be run.")


def main(_: list[str]) -> int:
    """Make the table, or list all tables."""
    from knee_jax import papers

    options = flags.FLAGS
    if options.table == "list":
        width = max(map(len, papers.names())) + 2
        for name in papers.names():
            paper = papers.read(name)
            print(f"{name:<{width}}{paper.title} ({paper.source})")
        return 0

    from knee_jax.papers.reproduce import reproduce

    return reproduce(
        table=options.table,
        budget=options.budget,
        out=path(options.out),
        data_dir=path(options.data_dir),
        rows=options.rows,
        seed=options.seed,
        changes=options.change,
        dry_run=options.dry_run,
        study=options.study,
    )
