"""Compare human readers with a model on the same knees (Wang et al., section IV F).

    knee-jax readers --predictions=RUN/predictions/test.csv --readers=FILE --out=FOLDER

The file has one row per knee: `subject`, `side`, `visit` where a knee was predicted at several, and
a column of KL grades for each reader. Where the model predicts `kl0_vs_kl2`, only grades 0 and 2
count. `<reader>_confidence` may hold the probability, 0 to 1, that the reader gives the grade.
"""

from absl import flags

from knee_jax.cli import path
from knee_jax.errors import UserError


def define_flags() -> None:
    """Define the flags."""
    flags.DEFINE_string("predictions", None, "Predictions table (CSV) of a run.", required=True)
    flags.DEFINE_string("readers", None, "CSV table with the readers' grades.", required=True)
    flags.DEFINE_string(
        "encoding", None, "Encoding of both tables; default: UTF-8, or by a table's mark."
    )
    flags.DEFINE_string("out", None, "Folder to write to.", required=True)


def main(_: list[str]) -> None:
    """Compare, write and print the comparison."""
    from knee_jax.metrics import bootstrap
    from knee_jax.metrics.predictions import read_predictions
    from knee_jax.metrics.readers import compare, read_study
    from knee_jax.report.readers import write_readers

    options, out = flags.FLAGS, path(flags.FLAGS.out)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out}: is a file; name a folder")
    predictions = read_predictions(path(options.predictions), options.encoding)
    study = read_study(path(options.readers), predictions, options.encoding)
    print(write_readers(out, study, compare(study), bootstrap.describe()))
    print(f"\nin {out}: readers.txt, readers.csv, readers.html")
