"""List the runs in a folder: when, which config, on which knees, and how well.

    knee-jax runs DIR [--sort=TITLE] [--page=FILE.html]

Each run stands in one row, with the known config that it differs least from and the fields that
differ, and its figures with 95 % intervals. Cross-validations and sweeps are found as well; folds
are not listed by themselves. The same table is written as a page, DIR/runs.html by default, in
which a click on a title sorts.
"""

from pathlib import Path

from absl import flags

from knee_jax.cli import config_argument
from knee_jax.errors import UserError

TAKES_WORDS = True


def define_flags() -> None:
    """Define the flags."""
    flags.DEFINE_string(
        "sort", "", "Column to sort by, such as begun or 'roc auc'; metrics from the highest on."
    )
    flags.DEFINE_string("page", None, "Page to write; default: DIR/runs.html; empty: none.")


def main(words: list[str]) -> None:
    """Find the runs, print their table and write the page."""
    from knee_jax.report import runs

    options = flags.FLAGS
    if len(words) != 1:
        raise UserError("name one folder: knee-jax runs DIR")
    folder = Path(words[0]).expanduser().resolve()
    places = list(runs.find(folder))
    if not places:
        raise UserError(f"{folder}: holds no runs (no config.json is in it, or below)")
    found = [runs.read(each, str(each.relative_to(folder))) for each in places]
    bases = known_configs()
    print(runs.runs_table(found, bases, options.sort, most=3).text())
    page = folder / "runs.html" if options.page is None else Path(options.page).expanduser()
    if options.page != "":
        runs.write_index(page, folder, runs.runs_table(found, bases, options.sort))
        print(f"\npage: {page}")


def known_configs() -> dict[str, dict]:
    """Return the flat fields of every config of the package, and of each of its variants."""
    from knee_jax.config import load

    found = {}
    for name in [*config_argument.names(), *config_argument.variants()]:
        config, _, variant = name.partition(":")
        made = config_argument.module(config).get_config(variant)
        found[name] = load.flatten(load.plain(load.parse(made)))
    return found
