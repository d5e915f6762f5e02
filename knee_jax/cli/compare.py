"""Compare two models on the same knees, metric by metric, with paired intervals.

    knee-jax compare RUN RUN [--part=test] [--out=FILE.csv]
    knee-jax compare FIRST.csv SECOND.csv

Each is a run's folder, whose predictions of the part are taken, or a predictions table (CSV).
Differences are the second minus the first; intervals are 95 %, by a bootstrap of subjects in which
both are scored on the same resamples. Accuracy has McNemar's test, the area under the ROC curve
DeLong's.
"""

from pathlib import Path

from absl import flags

from knee_jax.errors import UserError

TAKES_WORDS = True


def define_flags() -> None:
    """Define the flags."""
    flags.DEFINE_string(
        "part", None, "Part of the knees, such as validation; default: test, if both have it."
    )
    flags.DEFINE_string("out", None, "Table to write (CSV); default: none.")
    flags.DEFINE_integer("resamples", 1000, "Bootstrap resamples.", lower_bound=1)


def main(words: list[str]) -> None:
    """Compare, print and write the table."""
    import pandas as pd

    from knee_jax.files import write_text
    from knee_jax.metrics import comparison
    from knee_jax.metrics.predictions import read_predictions
    from knee_jax.report.differences import differences_text

    options = flags.FLAGS
    if len(words) != 2:
        raise UserError("name two: knee-jax compare RUN RUN, or two predictions tables")
    places = [Path(word).expanduser() for word in words]
    part = options.part or common_part(places)
    first, second = (read_predictions(table_of(place, part)) for place in places)
    found = comparison.pair(first, second)
    differences = comparison.compare(found, options.resamples)
    print(differences_text(differences, found, words))
    if options.out:
        table = pd.DataFrame(differences)
        write_text(Path(options.out), table.to_csv(index=False, float_format="%.6g"))


def common_part(places: list[Path]) -> str:
    """Return the part that all runs among some places predicted: test if possible."""
    for part in ("test", "out_of_fold", "validation"):
        if all(not p.is_dir() or (p / "predictions" / f"{part}.csv").is_file() for p in places):
            return part
    raise UserError(f"{' and '.join(map(str, places))}: they predicted no part in common")


def table_of(place: Path, part: str) -> Path:
    """Return the predictions table of a run, or the file itself."""
    if not place.is_dir():
        return place
    table = place / "predictions" / f"{part}.csv"
    if not table.is_file():
        known = sorted(path.stem for path in (place / "predictions").glob("*.csv"))
        raise UserError(
            f"{place}: has no predictions of --part={part}; it has {', '.join(known) or 'none'}"
        )
    return table
