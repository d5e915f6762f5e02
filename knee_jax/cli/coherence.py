"""List the knees of a table whose seven grades fit together least: candidates to be read again.

    knee-jax coherence --index=data/phantom_xray/demo/1.1.0/index.csv --out=suspects.csv

The table may be a prepared set's index, a predictions table or your own; no network is needed.
"""

from absl import flags

from knee_jax.cli import path
from knee_jax.errors import UserError


def define_flags() -> None:
    """Define the flags."""
    flags.DEFINE_string("index", None, "CSV table with the seven grades.", required=True)
    flags.DEFINE_string("out", None, "CSV table to write.", required=True)
    flags.DEFINE_string("encoding", None, "Encoding of the table; default: UTF-8, or by its mark.")
    flags.DEFINE_integer("seed", 0, "Random seed of the fits.", lower_bound=0)


def main(_: list[str]) -> None:
    """Write the list and print its first rows."""
    from knee_jax.foreign_tables import read_table
    from knee_jax.metrics.grade_coherence import list_suspects
    from knee_jax.targets.grades import GRADES

    source, out = path(flags.FLAGS.index), path(flags.FLAGS.out)
    if out.is_dir() or not out.parent.is_dir():
        raise UserError(f"--out={out}: name a file in an existing folder")
    table = read_table(source, flags.FLAGS.encoding)
    listing = list_suspects(table, flags.FLAGS.seed)
    listing.to_csv(out, index=False, float_format="%.6g")
    print(f"{len(listing):,} of {len(table):,} knees have all seven grades, and are in {out};")
    print("the others are left out. The least coherent:\n")
    shown = [name for name in ("subject", "side", "visit") if name in listing]
    if "subject" not in listing:
        shown = [name for name in table.columns if name not in GRADES][:3]
    shown += [*GRADES, "suspect", "surprise", "log_density", "incoherence"]
    print(listing[shown].head(10).round(2).to_string(index=False))
