"""Find the knees in any files, and the 74 landmarks of each, without landmark files.

    knee-jax locate FILE|FOLDER|ARCHIVE... --out=DIR [--model=NAME|RUN|FILE]

DIR receives landmarks.csv (one row per knee or refused file; landmarks in pixels of the region of
interest, with the error to be expected of each), and two sheets to look at: contact_sheet.png of
knees from all over the files, and least_certain.png of those that the localiser is least certain
of. For research only, not a medical device.
"""

import os
from pathlib import Path

from absl import flags

from knee_jax.errors import UserError

TAKES_WORDS = True


def define_flags() -> None:
    """Define the flags."""
    flags.DEFINE_string("out", None, "Folder to write to.", required=True)
    flags.DEFINE_string("model", "landmarks", "Localiser: a model, run's folder or exported file.")
    flags.DEFINE_enum("side", None, ["L", "R"], "Side of every knee; default: from the file.")
    flags.DEFINE_integer("size", 350, "Side of the regions of interest, pixels.", lower_bound=32)
    flags.DEFINE_integer(
        "workers", min(4, os.cpu_count() or 1), "Processes that read files.", lower_bound=1
    )


def main(words: list[str]) -> None:
    """Find the knees, write them, and print how many were found."""
    from knee_jax.inference import landmark_table, locate
    from knee_jax.ingest.knee_files import Reading
    from knee_jax.ingest.sources import find, unique

    options = flags.FLAGS
    if not words:
        raise UserError("no file is named: knee-jax locate FILE|FOLDER... --out=DIR")
    out = Path(options.out).expanduser()
    found = unique(find([Path(word).expanduser() for word in words]))
    sources = [each for each in found if not each.path.is_relative_to(out)]
    if not sources:
        raise UserError(f"{', '.join(words)}: no files are in there")
    reading = Reading(pixels=options.size, side=options.side or "", localise=True)
    workers = min(options.workers, len(sources))
    knees = landmark_table.find(sources, reading, locate.load(options.model), workers)
    table = landmark_table.write(out, knees, len(sources))
    print(landmark_table.account(table))
    print(f"{out / landmark_table.TABLE}\n{out / landmark_table.SHEET}")
    if (table["status"] == "refused").all():
        raise UserError(f"no knee was found; the reasons are in {out / landmark_table.TABLE}")
