"""Writes a phantom study tree for people to look at.

python -m knee_jax.phantom --out=DIR [--study=oai|most] [--release=study|archive]
    [--landmarks=keypoints|boxes|crops]
"""

from pathlib import Path

from absl import flags

from knee_jax import cli
from knee_jax.errors import UserError
from knee_jax.phantom import placements
from knee_jax.phantom.study import STUDIES, layout, write_study

_OUT = flags.DEFINE_string("out", None, "Folder of the tree, made if need be.", required=True)
_STUDY = flags.DEFINE_enum("study", "oai", list(STUDIES), "The study whose layout it has.")
_RELEASE = flags.DEFINE_string(
    "release", None, "Shape of the tables: the study's own or, of OAI, the archive's (NDA)."
)
_LANDMARKS = flags.DEFINE_multi_enum(
    "landmarks", [], list(placements.WRITERS), "What else tells where knees are; repeat for more."
)
_SUBJECTS = flags.DEFINE_integer("subjects", 10, "Subjects, each with two knees.")
_VISITS = flags.DEFINE_multi_integer(
    "visit", None, "Month of a visit; repeat for more. Default: the study's first three."
)
_ROWS = flags.DEFINE_integer("rows", 2048, "Height of a film in pixels.", lower_bound=32)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the cohort.", lower_bound=0)
_WORKERS = flags.DEFINE_integer("workers", 1, "Processes.", lower_bound=1)


def main(_: list[str]) -> None:
    """Writes the tree that the flags describe."""
    root = Path(_OUT.value)
    if root.exists() and any(root.iterdir()):
        raise UserError(f"--out={root} is not empty: name a folder of its own for the tree")
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
    for kind in _LANDMARKS.value:
        placements.WRITERS[kind](root, knees)
    print(layout(_STUDY.value).found.format(root=root))


if __name__ == "__main__":
    cli.run(main)
