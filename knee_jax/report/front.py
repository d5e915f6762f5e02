"""First screen of a report: what was trained, on whom, how it went, and what went wrong."""

import dataclasses
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd

from knee_jax import targets
from knee_jax.metrics.bootstrap import subjects_of
from knee_jax.metrics.summary import Summary
from knee_jax.report import tables
from knee_jax.targets.grades import OARSI
from knee_jax.targets.kinds import Classes, Continuous

FEWEST_SUBJECTS = 30
"""Number of subjects below which intervals are not to be relied on."""

_CHANCE = {"quadratic_kappa": 0.0, "kappa": 0.0, "roc_auc": 0.5}
"""Value of a metric by chance."""

_HEADLINES = 3


@dataclasses.dataclass(frozen=True)
class Headline:
    """Figure on the first screen."""

    target: str
    metric: str
    value: str
    interval: str


@dataclasses.dataclass(frozen=True)
class Front:
    """Words of the first screen.

    Attributes:
        lead: What was trained, and on whom, in a sentence or two.
        facts: Further facts: their names and texts.
        troubles: What went wrong, or must be known, one sentence each.
    """

    lead: str = ""
    facts: Sequence[tuple[str, str]] = ()
    troubles: Sequence[str] = ()


def headlines(summary: Summary) -> list[Headline]:
    """Return the figures that stand for a summary: at most three, of many targets if possible."""
    found = [
        (target, metric)
        for target, metric in _headline_metrics()
        if metric in summary.get(target, {})
    ]
    if not found:
        found = [(target, metric) for target in summary for metric in summary[target]]
    # One that is robust to rare classes comes before the plain accuracy.
    found.sort(key=lambda each: each[1] == "accuracy")
    first = list({target: (target, metric) for target, metric in reversed(found)}.values())[::-1]
    chosen = [*first, *(each for each in found if each not in first)][:_HEADLINES]
    return [
        Headline(
            tables.target_title(target),
            tables.METRIC_TITLES.get(metric, metric),
            tables.format_value(summary[target][metric]),
            tables.format_interval(summary[target][metric]),
        )
        for target, metric in sorted(chosen, key=found.index)
    ]


def facts_of(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the command, date, duration, commit and machine of a run, as far as recorded."""
    seconds = environment.get("training_seconds")
    commit = environment.get("git_commit")
    if commit and str(commit).endswith("-dirty"):
        commit = f"{str(commit).removesuffix('-dirty')}, and changes that are not in it"
    devices = [str(each) for each in environment.get("devices", [])]
    machine = [environment.get("cpu"), *dict.fromkeys(each for each in devices if each != "cpu")]
    found = {
        "Command": without_folders(str(environment.get("command") or "")),
        "Begun": environment.get("started"),
        "Training took": duration(seconds) if seconds else None,
        "Commit": commit,
        "knee_jax": environment.get("knee_jax"),
        "Machine": ", ".join(str(each) for each in machine if each),
    }
    return [(name, str(text)) for name, text in found.items() if text]


def without_folders(command: str) -> str:
    """Return a command whose absolute paths are their names alone.

    A report is mailed, and folders tell people and machines; `environment.json` keeps them.
    """
    words = []
    for word in shlex.split(command):
        flag, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
        if PurePath(value).is_absolute():
            value = f".../{PurePath(value).name}"
        words.append(flag + equals + value)
    return shlex.join(words)


def duration(seconds: float) -> str:
    """Return a duration in words, such as `4 min 10 s`."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def troubles(table: pd.DataFrame, summary: Summary, part: str) -> list[str]:
    """Say what a reader of the results must know of them.

    Args:
        table: Predictions table of the part.
        summary: Metrics of the part.
        part: Name of the part that was held out to the last.
    """
    found: list[str] = []
    by_chance: list[str] = []
    never: list[str] = []
    if part in ("validation", "out_of_fold"):
        found.append(
            "There are no test knees: the figures are of knees that also chose the checkpoint, and "
            "a little optimistic."
        )
    number = len(set(subjects_of(table)))
    if number < FEWEST_SUBJECTS:
        subjects = f"{number:,} subject{'s' if number != 1 else ''}"
        found.append(f"The figures stand on {subjects} only: do not rely on the intervals.")
    for name, estimates in summary.items():
        title = tables.target_title(name)
        for metric, chance in _CHANCE.items():
            low = estimates[metric]["low"] if metric in estimates else None
            if low is not None and low <= chance:
                by_chance.append(f"{title} ({tables.METRIC_TITLES[metric]}, {chance:g})")
        undefined = [m for m, each in estimates.items() if each["value"] is None]
        if undefined:
            words = ", ".join(tables.METRIC_TITLES.get(m, m) for m in undefined)
            found.append(f"{title}: undefined for these knees: {words}.")
        target = targets.all_targets().get(name)
        if isinstance(target, Continuous):
            spread = float(table.loc[target.is_known(table[name]), name].std(ddof=0))
            high = estimates["rmse"]["high"]
            if high is not None and high >= spread > 0:
                found.append(
                    f"{title}: the interval of RMSE includes {spread:.2f} {target.unit}, the error "
                    "of the labels' mean."
                )
        if isinstance(target, Classes):
            truth = table[name].to_numpy(np.float64)
            predicted = set(table.loc[target.is_known(truth), f"{name}_pred"])
            read = {value: int((truth == value).sum()) for value in range(target.num_outputs)}
            lacking = [value for value, count in read.items() if count and value not in predicted]
            if lacking:
                words = ", ".join(target.class_names[value] for value in lacking)
                never.append(f"{title} {words} ({sum(read[value] for value in lacking):,})")
    if by_chance:
        found.append(f"Intervals that include chance: {'; '.join(by_chance)}.")
    if never:
        found.append(f"Never predicted, though read (knees): {'; '.join(never)}.")
    return found


def troubles_of_training(history: pd.DataFrame, num_steps: int) -> list[str]:
    """Say where training ended early, or before the validation knees said so.

    Args:
        history: Scalars of the run, see `report.page.read_history`.
        num_steps: Number of steps that the config asks for.
    """
    if history.empty:
        return ["Nothing is recorded of the training (metrics.jsonl)."]
    found, last = [], int(history["step"].max())
    if last < num_steps:
        found.append(f"Training stopped at step {last:,} of {num_steps:,}.")
    scores = history[history["name"].str.startswith("validation/")].dropna()
    if len(scores) > 2 and scores["value"].idxmax() == scores.index[-1]:
        found.append("The validation knees were scored best at the end: more epochs may do better.")
    return found


def _headline_metrics() -> Iterator[tuple[str, str]]:
    """Yield the targets and metrics that head a report, as they declare them; endpoints last."""
    headed = {name: target.headlines for name, target in targets.all_targets().items()}
    headed = headed | {OARSI: ("quadratic_kappa",)}
    for name, endpoint in targets.dichotomies().items():
        headed.setdefault(name, endpoint.headlines)
    for name, metrics in headed.items():
        yield from ((name, metric) for metric in metrics)
