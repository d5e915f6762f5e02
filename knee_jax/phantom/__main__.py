"""Writes a phantom study tree for people to look at.

python -m knee_jax.phantom --out=DIR [--study=oai|most] [--release=study|archive] [--mri]
    [--landmarks=keypoints|boxes|crops] [--clutter=rescans|other_films|single_films|contents]
"""

from pathlib import Path

from absl import flags

from knee_jax import cli
from knee_jax.errors import UserError
from knee_jax.phantom import clutter, placements
from knee_jax.phantom.mri import write_mri_study
from knee_jax.phantom.study import STUDIES, layout, write_study

_OUT = flags.DEFINE_string("out", None, "Folder of the tree, made if need be.", required=True)
_STUDY = flags.DEFINE_enum("study", "oai", list(STUDIES), "The study whose layout it has.")
_RELEASE = flags.DEFINE_string(
    "release", None, "Shape of the tables: the study's own or, of OAI, the archive's (NDA)."
)
_LANDMARKS = flags.DEFINE_multi_enum(
    "landmarks", [], list(placements.WRITERS), "What else tells where knees are; repeat for more."
)
_MRI = flags.DEFINE_bool("mri", False, "Also OAI's baseline MR series, 47 MB a knee.")
_CLUTTER = flags.DEFINE_multi_enum(
    "clutter", [], list(clutter.KINDS), "What else a real tree of OAI holds; repeat for more."
)
_SUBJECTS = flags.DEFINE_integer("subjects", 10, "Subjects, each with two knees.")
_VISITS = flags.DEFINE_multi_integer(
    "visit", None, "Month of a visit; repeat for more. Default: the study's first three."
)
_ROWS = flags.DEFINE_integer(
    "rows",
    2048,
    "Height of a film in pixels; below 448 they are too coarse to be prepared.",
    lower_bound=32,
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the cohort.", lower_bound=0)
_WORKERS = flags.DEFINE_integer("workers", 1, "Processes.", lower_bound=1)


def main(_: list[str]) -> None:
    """Writes the tree that the flags describe."""
    root = Path(_OUT.value)
    if root.exists() and any(root.iterdir()):
        raise UserError(f"--out={root} is not empty: name a folder of its own for the tree")
    if _STUDY.value != "oai" and (_MRI.value or _CLUTTER.value):
        raise UserError(f"--mri and --clutter: there are none of {_STUDY.value}, only of oai")
    if "single_films" in _CLUTTER.value and _LANDMARKS.value:
        raise UserError(
            "--clutter=single_films: only .pts files tell where knees are on films of one, leave "
            "--landmarks out"
        )
    knees = write_study(
        root,
        num_subjects=_SUBJECTS.value,
        visits=_VISITS.value,
        seed=_SEED.value,
        rows=_ROWS.value,
        workers=_WORKERS.value,
        study=_STUDY.value,
        release=_RELEASE.value,
    )
    if _MRI.value:
        write_mri_study(
            root,
            num_subjects=_SUBJECTS.value,
            seed=_SEED.value,
            release=_RELEASE.value,
            workers=_WORKERS.value,
        )
    for kind in _LANDMARKS.value:
        placements.WRITERS[kind](root, knees)
    clutter.add(root, [root / source for source in knees["source"].unique()], _CLUTTER.value)
    print(layout(_STUDY.value).found.format(root=root))


if __name__ == "__main__":
    cli.run(main)
