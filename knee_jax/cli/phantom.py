"""Write a study tree of phantom knees, laid out as OAI's or MOST's, to look at.

    knee-jax phantom --out=phantom_study --subjects=4
    knee-jax phantom --out=MOST --study=most --subjects=20 --rows=512

`knee-jax prepare` reads such a tree as it reads the study's own.
"""

from absl import flags

from knee_jax.cli import path
from knee_jax.errors import UserError


def define_flags() -> None:
    """Define the flags."""
    from knee_jax.phantom import clutter, placements
    from knee_jax.phantom.study import STUDIES

    flags.DEFINE_string("out", None, "Folder of the tree, created if missing.", required=True)
    flags.DEFINE_enum("study", "oai", list(STUDIES), "Study whose layout the tree has.")
    flags.DEFINE_string(
        "release", None, "Form of the tables: the study's own or, of OAI, the archive's (NDA)."
    )
    flags.DEFINE_multi_enum(
        "landmarks",
        [],
        list(placements.WRITERS),
        "Further sources of the knees' positions; repeat for more.",
    )
    flags.DEFINE_bool("mri", False, "Also write OAI's baseline MR series, 47 MB per knee.")
    flags.DEFINE_multi_enum(
        "clutter", [], list(clutter.KINDS), "Other contents of a real tree of OAI; repeat for more."
    )
    flags.DEFINE_integer("subjects", 10, "Number of subjects, each with two knees.")
    flags.DEFINE_multi_integer(
        "visit", None, "Month of a visit; repeat for more. Default: the study's first three."
    )
    flags.DEFINE_integer(
        "rows",
        2048,
        "Height of a film in pixels; below 448 they are too coarse to be prepared.",
        lower_bound=32,
    )
    flags.DEFINE_integer("seed", 0, "Random seed of the cohort.", lower_bound=0)
    flags.DEFINE_integer("workers", 1, "Number of processes.", lower_bound=1)


def main(_: list[str]) -> None:
    """Write the tree."""
    from knee_jax.phantom import clutter, placements
    from knee_jax.phantom.mri import write_mri_study
    from knee_jax.phantom.study import layout, write_study

    options = flags.FLAGS
    root = path(options.out)
    if root.exists() and any(root.iterdir()):
        raise UserError(f"--out={root} is not empty: name a folder of its own for the tree")
    if options.study != "oai" and (options.mri or options.clutter):
        raise UserError(f"--mri and --clutter: there are none of {options.study}, only of oai")
    if "single_films" in options.clutter and options.landmarks:
        raise UserError(
            "--clutter=single_films: only .pts files locate knees on films of one knee: leave "
            "--landmarks out"
        )
    knees = write_study(
        root,
        num_subjects=options.subjects,
        visits=options.visit,
        seed=options.seed,
        rows=options.rows,
        workers=options.workers,
        study=options.study,
        release=options.release,
    )
    if options.mri:
        write_mri_study(
            root,
            num_subjects=options.subjects,
            seed=options.seed,
            release=options.release,
            workers=options.workers,
        )
    for kind in options.landmarks:
        placements.WRITERS[kind](root, knees)
    clutter.add(root, [root / source for source in knees["source"].unique()], options.clutter)
    print(layout(options.study).places.format(root=root))
