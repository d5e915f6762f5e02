"""Score finished runs on any prepared set; or predictions of other software.

    knee-jax evaluate RUN... --data=SET|FOLDER
    knee-jax evaluate --predictions=FILE.csv --data=SET --out=DIR

SET is a prepared set in --data_dir, FOLDER one anywhere. A run needs neither its training set nor
its config: its folder is enough; an exported file does as well. Knees that the run has learnt from,
by subject or by pixels, are left out, and counted in the first lines; with --training_knees they
are scored too, and the results are marked. RUN/evaluations/SET, or --out, receives predictions,
metrics with 95 % intervals, and a report that puts them beside those of the run's own test knees.
Several runs are compared in a table on the knees that none of them has learnt from, beside the mean
of their probabilities if they predict the same.

FILE has one row per knee: subject, side, visit where there are several, and kl_p0 to kl_p4 (or the
columns of other targets). Its labels are those of the set; without --data, its own column kl. For
research only, not a medical device.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from knee_jax.cli import path
from knee_jax.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from knee_jax.config.schema import Evaluation
    from knee_jax.data.prepared import PreparedSet
    from knee_jax.metrics.summary import Summary

TAKES_WORDS = True

IDENTITY = ["subject", "side", "visit"]


def define_flags() -> None:
    """Define the flags."""
    flags.DEFINE_string("data", None, "Prepared set: its name in --data_dir, or its folder.")
    flags.DEFINE_string("data_dir", "data", "Folder of prepared sets.")
    flags.DEFINE_list("predictions", [], "Tables of predictions of other software (CSV).")
    flags.DEFINE_string("encoding", None, "Encoding of these tables; default: UTF-8.")
    flags.DEFINE_bool("training_knees", False, "Score knees that a run has learnt from, too.")
    flags.DEFINE_string("out", None, "Folder to write to; default: RUN/evaluations/SET.")


@dataclasses.dataclass(frozen=True)
class Scored:
    """One run, or one table of predictions, on the knees to be scored.

    Attributes:
        name: Name for display.
        table: Predictions table.
        settings: Resampling of the intervals.
        notes: What a reader must know first.
        facts: What was scored.
        own: Metrics of the run's own test knees.
        known: Number of knees that the run has learnt from.
        folder: Folder that the results go to where none is named.
    """

    name: str
    table: "pd.DataFrame"
    settings: "Evaluation"
    notes: Sequence[str]
    facts: Mapping[str, Any]
    own: "Summary | None" = None
    known: int = 0
    folder: Path | None = None


def main(words: list[str]) -> None:
    """Score, write and print."""
    options = flags.FLAGS
    if not words and not options.predictions:
        raise UserError("name a run: knee-jax evaluate RUN --data=SET, or --predictions=FILE.csv")
    if options.training_knees and not words:
        raise UserError(
            "--training_knees: whom predictions were learnt from is unknown; name a run"
        )
    if words and not options.data:
        raise UserError("name what the run is scored on: --data=SET")
    files = [path(name) for name in options.predictions]
    places = [path(word) for word in words]
    names = _names([*words, *options.predictions])
    out = path(options.out) if options.out else None
    if out is None and (files or not all(place.is_dir() for place in places)):
        raise UserError("name a folder for the results, as --out=FOLDER")
    if out and out.exists() and not out.is_dir():
        raise UserError(f"--out={out}: is a file; name a folder")

    from knee_jax.cli.process import cache_programs
    from knee_jax.evaluation import on_set
    from knee_jax.report.tables import terminal_table

    cache_programs()
    prepared = _open(options.data, path(options.data_dir)) if options.data else None
    scored = [_score_run(word, name, prepared) for word, name in zip(words, names) if prepared] + [
        _score_file(file, name, prepared, options.encoding)
        for file, name in zip(files, names[len(words) :], strict=True)
    ]
    for each in scored:
        place = out / each.name if out and len(scored) > 1 else out or each.folder
        assert place is not None
        title = f"{each.name} on {prepared.name}" if prepared else each.name
        title += ", training knees among them" if each.known else ""
        summary = on_set.write(
            place,
            each.table,
            title=title,
            settings=each.settings,
            notes=each.notes,
            facts=each.facts,
            own=each.own,
            prepared=prepared,
        )
        people = each.table["subject"].nunique()
        print(f"\n{title}: {len(each.table):,} knees of {people:,} subjects")
        for note in each.notes:
            print(f"note: {note}")
        print(f"\n95 % intervals by {each.settings.scheme}:\n\n{terminal_table(summary)}")
        if each.own:
            print(f"\nbeside its own test knees:\n\n{terminal_table(each.own)}")
        print(f"\nreport: {place / 'report' / 'index.html'}")
    if len(scored) > 1:
        _compare(scored, out)
    print("\nFor research only, not a medical device.")


def _open(data: str, data_dir: Path) -> "PreparedSet":
    """Open a prepared set by its name, or by its folder."""
    import knee_jax.datasets as datasets
    from knee_jax.data.prepared import open_set
    from knee_jax.datasets.prepare import prepare

    folder = path(data)
    known = data.partition("/")[0] in datasets.names()
    named = re.fullmatch(r"\w+(/\w+)?", data) and (known or (data_dir / data).is_dir())
    if named or not folder.is_dir():
        return open_set(prepare(data, data_dir))
    if not (folder / "index.csv").is_file():
        raise UserError(
            f"--data={data}: holds no prepared set (index.csv is missing); of images and labels "
            "`knee-jax prepare folder` makes one, whose name is then --data"
        )
    return open_set(folder)


def _score_run(word: str, name: str, prepared: "PreparedSet") -> Scored:
    """Predict the knees of a set that a run, or another model, does not know."""
    import knee_jax
    from knee_jax.cli.learnt import learnt_by
    from knee_jax.cohort import held_out
    from knee_jax.config import load
    from knee_jax.config.schema import Evaluation
    from knee_jax.data import augment
    from knee_jax.data.preprocessing import Preprocessing
    from knee_jax.evaluation import on_set
    from knee_jax.inference import models

    folder = models.find(word)
    predictor = models.load(word)
    config = load.saved(folder / "config.json") if folder.is_dir() else None
    if config:
        size = Preprocessing(config.augmentation, config.input).size
        shape, spacing = prepared.image_shape, prepared.spacing_mm
        augment.check_fit(config.augmentation, size, prepared.pixels, shape, spacing)
    prepared = dataclasses.replace(prepared, targets=tuple(t.name for t in predictor.targets))
    chosen = held_out.choose(
        prepared,
        predictor.targets,
        learnt_by(word),
        with_landmarks=predictor.needs_landmarks
        and (config is None or config.data.without_keypoints == "drop"),
        wholly_read=config is not None and config.data.partially_labelled == "drop",
        training_knees=flags.FLAGS.training_knees,
    )
    notes = list(chosen.notes)
    if predictor.reads == "image" and predictor.side not in (0, prepared.image_shape[0]):
        notes.append(
            f"Images of {prepared.image_shape[0]} px were resized to the {predictor.side} px that "
            "the network was trained on."
        )
    own = _own_metrics(folder)
    if folder.is_dir() and own is None:
        notes.append("The run has no metrics of its own test knees to stand beside.")
    return Scored(
        name=name,
        table=on_set.predict(predictor, prepared, chosen.rows),
        settings=config.evaluation if config else Evaluation(),
        notes=notes,
        facts={
            "model": dict(predictor.facts),
            "dataset": prepared.name,
            "prepared": prepared.fingerprint,
            "scored": len(chosen.rows),
            "left_out": chosen.left_out,
            "training_knees": chosen.known,
            "knee_jax": knee_jax.__version__,
        },
        own=own,
        known=chosen.known,
        # Never in the place of what new knees say.
        folder=folder
        / "evaluations"
        / (prepared.name.replace("/", "_") + ("_training_knees" if chosen.known else "")),
    )


def _score_file(
    file: Path, name: str, prepared: "PreparedSet | None", encoding: str | None
) -> Scored:
    """Read a table of predictions, and join it with the labels of a set, if one is named."""
    import knee_jax
    from knee_jax.config.schema import Evaluation
    from knee_jax.evaluation import foreign
    from knee_jax.metrics.predictions import read_predictions

    notes: Sequence[str] = ()
    if prepared:
        table, notes = foreign.read(file, prepared, encoding)
    else:
        table = read_predictions(file, encoding)
    unknown = (
        "It is not known whom the predictions were learnt from: none of these knees may be among "
        "them."
    )
    facts = {
        "predictions": file.name,
        "dataset": prepared.name if prepared else "",
        "prepared": prepared.fingerprint if prepared else "",
        "scored": len(table),
        "knee_jax": knee_jax.__version__,
    }
    return Scored(name, table, Evaluation(), [unknown, *notes], facts)


def _own_metrics(folder: Path) -> "Summary | None":
    """Return the metrics of a run's own test knees, if there are any."""
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        return metrics.get("test") or None
    except (OSError, ValueError, AttributeError):
        return None


def _names(words: Sequence[str]) -> list[str]:
    """Return names of runs and files for display and folders, as short as tells them apart.

    Raises:
        UserError: One is named twice.
    """
    places = [path(word).resolve() for word in words]
    parts = [(p if p.is_dir() else p.with_suffix("")).parts for p in places]
    if len(set(parts)) < len(parts):
        twice = next(word for word, own in zip(words, parts) if parts.count(own) > 1)
        raise UserError(f"{twice}: is named twice, or beside another of that name; name it once")
    for length in range(1, max(map(len, parts)) + 1):
        names = ["_".join(own[-length:]) for own in parts]
        if len(set(names)) == len(names):
            break
    return names


def _compare(scored: Sequence[Scored], out: Path | None) -> None:
    """Compare runs and tables, and their mean, on the knees that all of them were scored on."""
    from knee_jax.files import write_text
    from knee_jax.metrics import ensemble
    from knee_jax.metrics.predictions import targets_in
    from knee_jax.metrics.summary import summarise
    from knee_jax.report.tables import beside, tidy_metrics

    keys = [each.table[IDENTITY].astype(str).agg(" ".join, axis=1) for each in scored]
    common = set(keys[0]).intersection(*keys[1:])
    if not common:
        print("\nThey share no knee that none of them has learnt from, and cannot be compared.")
        return
    settings = scored[0].settings
    tables = {
        each.name: each.table[key.isin(common)].reset_index(drop=True)
        for each, key in zip(scored, keys, strict=True)
    }
    if len({tuple(targets_in(table)) for table in tables.values()}) == 1:
        # The files of other software need not name the cohort.
        alike = [table.drop(columns="cohort", errors="ignore") for table in tables.values()]
        tables["mean of all"] = ensemble.average(alike)
    summaries = {
        name: summarise(table, settings.num_resamples, scheme=settings.scheme)
        for name, table in tables.items()
    }
    table = beside(summaries)
    text = table.text()
    if known := [each.name for each in scored if each.known]:
        text = f"Training knees are among those of {', '.join(known)}.\n\n{text}"
    print(f"\nOn the {len(common):,} knees that all were scored on:\n\n{text}")
    if out:
        write_text(out / "comparison.txt", text + "\n")
        csv = tidy_metrics(summaries).to_csv(index=False, float_format="%.6g")
        write_text(out / "comparison.csv", csv)
        print(f"\nin {out}: comparison.txt, comparison.csv")
