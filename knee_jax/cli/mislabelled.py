"""List the knees whose label a model contradicts most: candidates to be read again.

    knee-jax mislabelled RUN --out=DIR [--part=out_of_fold] [--target=kl]
    knee-jax mislabelled predictions.csv --out=DIR

The model must not have learnt from the knees: a cross-validation's out-of-fold knees are all of a
set. DIR receives mislabelled.csv, the least probable label first, and sheet.html with the pictures
of the first of them, where the run's prepared set is at hand. --plant=100 also changes that many
labels on purpose, 20 times, and says how many of them are found.
"""

from pathlib import Path

from absl import flags

from knee_jax.cli import path
from knee_jax.errors import UserError

TAKES_WORDS = True


def define_flags() -> None:
    """Define the flags."""
    flags.DEFINE_string("out", None, "Folder to write to.", required=True)
    flags.DEFINE_string("part", None, "Part of a run; default: out_of_fold, validation or test.")
    flags.DEFINE_string("target", None, "Target to judge; default: the first with classes.")
    flags.DEFINE_string("data_dir", "data", "Folder of prepared sets, for pictures.")
    flags.DEFINE_integer("shown", 48, "Number of knees on the sheet.", lower_bound=1)
    flags.DEFINE_integer("plant", 0, "Number of labels to change on purpose.", lower_bound=0)


def main(words: list[str]) -> None:
    """Judge, write and print the first of the list."""
    from knee_jax.files import write_text
    from knee_jax.metrics import label_quality
    from knee_jax.metrics.predictions import read_predictions
    from knee_jax.report import mislabelled

    options = flags.FLAGS
    if len(words) != 1:
        raise UserError("name one run or predictions table: knee-jax mislabelled RUN --out=DIR")
    source, out = path(words[0]), path(options.out)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out}: is a file; name a folder")
    if not source.exists():
        raise UserError(f"{source}: no such run or predictions table")
    part = held_out_part(source, options.part)
    table = read_predictions(source / "predictions" / f"{part}.csv" if part else source)
    target = mislabelled.target_in(table, options.target)
    listed = label_quality.list_mislabelled(table, target)
    out.mkdir(parents=True, exist_ok=True)
    file = out / "mislabelled.csv"
    write_text(file, listed.to_csv(index=False, float_format="%.6g"))
    found = label_quality.planted(table, target, options.plant) if options.plant else None
    pictures = mislabelled.pictures_of(source, path(options.data_dir), part, listed, options.shown)
    page = mislabelled.write_sheet(out / "sheet.html", listed, target, pictures, found)
    print(mislabelled.summary(listed, target))
    if found is not None:
        print(mislabelled.planted_table(found).text())
    print(f"\n{file}\n{page}")


def held_out_part(source: Path, wanted: str | None) -> str:
    """Return the wanted part of a run, or one that it has not learnt from; '' of a table."""
    if not source.is_dir():
        return ""
    known = {path.stem for path in (source / "predictions").glob("*.csv")}
    if wanted and wanted not in known:
        names = ", ".join(sorted(known)) or "none"
        raise UserError(f"{source}: has no predictions of --part={wanted}; it has {names}")
    for part in (wanted, "out_of_fold", "validation", "test"):
        if part and part in known:
            return part
    raise UserError(f"{source}: holds no predictions; evaluate the run first")
