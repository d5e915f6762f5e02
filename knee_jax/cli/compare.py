"""Compare models on the same knees, metric by metric, with paired intervals.

    knee-jax compare RUN RUN... [--part=test] [--page=FILE.html] [--out=FILE.csv]
    knee-jax compare FIRST.csv SECOND.csv

Each is a run's folder, whose predictions of the part are taken, or a predictions table (CSV); the
first is compared with every other. Differences are the other minus the first; intervals are 95 %,
by a bootstrap of subjects in which both are scored on the same resamples. Accuracy has McNemar's
test, the area under the ROC curve DeLong's. The page also has both runs' first screens, the fields
of their configs that differ, and the knees that changed.
"""

from pathlib import Path

from absl import flags

from knee_jax.errors import UserError

TAKES_WORDS = True


def define_flags() -> None:
    """Define the flags."""
    flags.DEFINE_string(
        "part", None, "Part of the knees, such as validation; default: test, if all have it."
    )
    flags.DEFINE_string("page", "comparison.html", "Page to write; empty: none.")
    flags.DEFINE_string("out", None, "Table to write (CSV); default: none.")
    flags.DEFINE_integer("resamples", 1000, "Bootstrap resamples.", lower_bound=1)


def main(words: list[str]) -> None:
    """Compare, print and write page and table."""
    import pandas as pd

    from knee_jax.files import write_text
    from knee_jax.metrics import comparison
    from knee_jax.metrics.predictions import read_predictions
    from knee_jax.report import runs
    from knee_jax.report.differences import Compared, differences_text, write_differences

    options = flags.FLAGS
    if len(words) < 2:
        raise UserError("name two or more: knee-jax compare RUN RUN, or predictions tables")
    places = [Path(word).expanduser() for word in words]
    names = names_of(words)
    part = options.part or common_part(places)
    first, *others = (read_predictions(table_of(place, part)) for place in places)
    found = []
    for name, other in zip(names[1:], others, strict=True):
        both = comparison.pair(first, other)
        differences = comparison.compare(both, options.resamples)
        found.append(Compared(names[0], name, both, differences))
        print(differences_text(found[-1]) + "\n")
    if options.out:
        table = pd.concat(
            pd.DataFrame(each.differences).assign(model=each.second) for each in found
        )
        write_text(Path(options.out).expanduser(), table.to_csv(index=False, float_format="%.6g"))
    if options.page:
        page = Path(options.page).expanduser()
        known = [runs.read(p, n) for p, n in zip(places, names, strict=True) if p.is_dir()]
        write_differences(page, found, known, part)
        print(f"page: {page}")


def names_of(words: list[str]) -> list[str]:
    """Return short names of the models: the last parts of their paths, as far as these differ."""
    parts = [Path(word).expanduser().resolve().parts for word in words]
    for number in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-number:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return words


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
