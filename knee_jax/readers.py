"""Command: readers beside a model that has graded the same knees (Wang et al., section IV F).

    python -m knee_jax.readers --predictions=RUN/predictions/test.csv --readers=FILE --out=FOLDER

The file has a row a knee: `subject`, `side`, `visit` where a knee was predicted at several, and a
column of KL grades for each reader. Of them `kl0_vs_kl2` knows 0 and 2. `<reader>_confidence` may
say how probable, 0 to 1, the reader holds the grade to be.
"""

from pathlib import Path

from absl import flags

from knee_jax import cli
from knee_jax.errors import UserError
from knee_jax.metrics import bootstrap
from knee_jax.metrics.predictions import read_predictions
from knee_jax.metrics.readers import compare, read_study
from knee_jax.report.readers import write_readers


def main(_: list[str]) -> None:
    """Compares what the flags name, writes it and prints it."""
    options, out = flags.FLAGS, Path(flags.FLAGS.out)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out}: is a file; name a folder")
    study = read_study(options.readers, read_predictions(options.predictions))
    print(write_readers(out, study, compare(study), bootstrap.describe()))
    print(f"\nin {out}: readers.txt, readers.csv, readers.html")


def run() -> None:
    """The command; only here, since other commands have flags of their own."""
    flags.DEFINE_string("predictions", None, "Predictions table (CSV) of a run.", required=True)
    flags.DEFINE_string("readers", None, "CSV table with the readers' grades.", required=True)
    flags.DEFINE_string("out", None, "Folder to write to.", required=True)
    cli.run(main)


if __name__ == "__main__":
    run()
