"""Reproduction of a paper's table: `paper | ours [interval]`, row by row.

Every row is a run of `knee-jax train` in its own process and folder, `OUT/BUDGET/SYSTEM/VARIANT`. A
run that has its `metrics.json` is not repeated, an interrupted one is resumed, and rows of several
tables that are the same run share it. The table is saved beside them as text, CSV and page.
"""

import importlib
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knee_jax import papers
from knee_jax.errors import UserError
from knee_jax.files import write_text
from knee_jax.metrics import bootstrap
from knee_jax.papers import PaperTable
from knee_jax.report.comparison import compare, write_comparison

BUDGETS = {
    "demo": "the variant demo of every config: a small network, trained shortly, for a CPU",
    "paper": "every config as published",
}

_RECORD = "reproduce.json"
_LOG = "log.txt"
_PROMPT = "$ "
_INIT = "init_from="
_HEARTBEAT_S = 60.0


@dataclass(frozen=True)
class Run:
    """One run of `knee-jax train`.

    Attributes:
        config: Config as the paper's table names it, such as `kpn.py:no_kpn`.
        rows: Rows that the run makes.
        folder: Folder of the run, its `--workdir`.
        settings: Settings that determine its results: file and variants, then flags.
    """

    config: str
    rows: tuple[str, ...]
    folder: Path
    settings: tuple[str, ...]

    def command(self, data_dir: Path) -> list[str]:
        """Return the command line."""
        config, *others = self.settings
        return [
            *(sys.executable, "-m", "knee_jax", "train"),
            f"--config={_by_name(config)}",
            *others,
            f"--workdir={self.folder}",
            f"--data_dir={data_dir}",
        ]

    def is_done(self) -> bool:
        """Return whether the metrics of the run exist.

        Raises:
            UserError: The folder holds a run of other settings.
        """
        if not (self.folder / "metrics.json").exists():
            return False
        record = self.folder / _RECORD
        there = _read_json(record)["settings"] if record.exists() else list(self.settings)
        if there != list(self.settings):
            raise UserError(
                f"{self.folder} holds a run of {' '.join(there)}, not of "
                f"{' '.join(self.settings)}: choose another --out"
            )
        return True


def make_runs(
    paper: PaperTable,
    budget: str,
    out: Path,
    seed: int | None = None,
    changes: Sequence[str] = (),
    study: str = "",
) -> list[Run]:
    """Return the runs that make a table, in the order of its rows.

    Args:
        paper: Table.
        budget: Key of `BUDGETS`.
        out: Folder of all runs.
        seed: Value of `config.seed`; the config's own if None.
        changes: Overrides for every run, such as `config.data.dataset=oai_xray`; initial weights
            are not applied to rows from scratch.
        study: Variant that reads a real study, such as `oai`, for the configs that have it.

    Raises:
        UserError: The budget is unknown, no config has the study, or a change is not an override of
            a config field.
    """
    if budget not in BUDGETS:
        raise UserError(f"--budget={budget}: choose {' or '.join(BUDGETS)}")
    overrides = [_override(change) for change in changes]
    if seed is not None:
        overrides.append(f"--config.seed={seed}")
    system = paper.name.partition("/")[0]
    runs = []
    for config, cells in paper.cells.query("config != ''").groupby("config", sort=False):
        file, _, variant = str(config).partition(":")
        variants = [variant] if variant else []
        if study and _takes(file, [*variants, study]):
            variants.append(study)
        if budget == "demo":
            variants.append("demo")
        own = [each for each in overrides if not (_is_from_scratch(str(config)) and _INIT in each)]
        runs.append(
            Run(
                config=str(config),
                rows=tuple(dict.fromkeys(cells["row"])),
                folder=out
                / budget
                / system
                / ((variant or "default") + ("" if seed is None else f"_seed_{seed}")),
                settings=(
                    ":".join([file, ",".join(variants)]).removesuffix(":"),
                    f"--mode={cells['mode'].iloc[0]}",
                    *own,
                ),
            )
        )
    if study and not any(study in run.settings[0].split(":")[-1].split(",") for run in runs):
        raise UserError(f"--study={study}: no config of {paper.name} has such a variant")
    return runs


def _takes(file: str, variants: Sequence[str]) -> bool:
    """Return whether a config has these variants together."""
    module = importlib.import_module(f"knee_jax.configs.{file.removesuffix('.py')}")
    try:
        module.get_config(",".join(variants))
    except UserError:
        return False
    return True


def reproduce(
    table: str,
    budget: str,
    out: Path,
    data_dir: Path,
    rows: Sequence[str] = (),
    seed: int | None = None,
    changes: Sequence[str] = (),
    dry_run: bool = False,
    study: str = "",
) -> int:
    """Reproduce a table of a paper, and print it.

    Args:
        table: Name of the table, such as `kpn/3`.
        budget: Key of `BUDGETS`.
        out: Folder of all runs; the table is saved as
            `OUT/BUDGET/SYSTEM/table_NAME.{txt,csv,html}`.
        data_dir: Folder of prepared sets.
        rows: Rows to run; others are shown if they have been run before. All if empty.
        seed: Value of `config.seed`; see `make_runs`.
        changes: Overrides for every run; see `make_runs`.
        dry_run: Whether only to print what would be run.
        study: Variant that reads a real study; see `make_runs`.

    Returns:
        1 if a run has failed, otherwise 0.

    Raises:
        UserError: There is no such table or row, or a folder holds a run of other settings.
    """
    paper = papers.read(table)
    runs = make_runs(paper, budget, out, seed, changes, study)
    known = [row for run in runs for row in run.rows]
    if unknown := [row for row in rows if row not in known]:
        raise UserError(
            f"--rows: {table} has no row {', '.join(map(repr, unknown))} that can be run: choose "
            f"from {'; '.join(known)}"
        )
    done = {run.config for run in runs if run.is_done()}
    wanted = [run for run in runs if not rows or set(rows) & set(run.rows)]
    if dry_run:
        for run in wanted:
            state = "done" if run.config in done else "to run"
            print(f"{state}: {', '.join(run.rows)}\n    {shlex.join(run.command(data_dir))}")
        return 0
    failures = _run_all(wanted, done, data_dir)
    results: dict[tuple[str, str], Mapping[str, Any] | None] = {}
    for run in runs:
        for model in set(paper.cells.loc[paper.cells["config"] == run.config, "model"]):
            file = run.folder / model / "metrics.json"
            if run.config in failures:
                results[run.config, model] = None
            elif run.is_done():
                results[run.config, model] = _read_json(file) if file.exists() else {}
    remarks = _provenance([run for run in runs if (run.folder / "metrics.json").exists()], budget)
    remarks += [f"Changed in every run: {', '.join(changes)}."] if changes else []
    if any(_INIT in change for change in changes) and any(
        _is_from_scratch(run.config) for run in runs
    ):
        remarks.append("Rows from scratch begin with random weights all the same.")
    remarks += [f"Failed: {failure}" for failure in failures.values()]
    system, _, name = table.partition("/")
    path = out / budget / system / f"table_{name}"
    print("\n" + write_comparison(path, paper, compare(paper, results), remarks))
    print(f"\nsaved: {path}.txt, .csv, .html")
    return 1 if failures else 0


def _run_all(runs: Sequence[Run], done: set[str], data_dir: Path) -> dict[str, str]:
    """Run what is not done; return the failures, {config: reason}."""
    failures = {}
    durations: list[float] = []
    left = sum(run.config not in done for run in runs)
    for number, run in enumerate(runs, start=1):
        heading = f"[{number}/{len(runs)}] {', '.join(run.rows)}"
        if run.config in done:
            print(f"{heading}: done before, in {run.folder}", flush=True)
            continue
        log = run.folder / _LOG
        print(f"{heading}: {run.settings[0]}, log: {log}", flush=True)
        run.folder.mkdir(parents=True, exist_ok=True)
        write_text(run.folder / _RECORD, json.dumps({"settings": run.settings}, indent=2) + "\n")
        start = time.monotonic()
        status = _execute(run.command(data_dir), log)
        durations.append(time.monotonic() - start)
        left -= 1
        if status == 0 and not run.is_done():
            status, reason = 1, "it left no metrics.json"
        else:
            reason = _last_line(log)
        if status:
            failures[run.config] = f"{', '.join(run.rows)} (status {status}): {reason}; log: {log}"
        word = "failed" if status else "finished"
        remaining = _clock(left * sum(durations) / len(durations))
        ahead = f"; {left} more, about {remaining}" if left else ""
        print(f"    {word} after {_clock(durations[-1])}{ahead}", flush=True)
    return failures


def _execute(command: Sequence[str], log: Path) -> int:
    """Run a command to its end, append all its output to a log, and show its progress."""
    start = time.monotonic()
    on_terminal = sys.stdout.isatty()
    with log.open("ab") as stream:
        stream.write(f"{_PROMPT}{shlex.join(command)}\n".encode())
        stream.flush()
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
        try:
            while True:
                try:
                    return process.wait(timeout=1.0 if on_terminal else _HEARTBEAT_S)
                except subprocess.TimeoutExpired:
                    line = f"    {_clock(time.monotonic() - start)}  {_last_line(log)}"
                    if on_terminal:
                        # Return to the start of the line, and erase what was there.
                        print(f"\r\x1b[K{line[:100]}", end="\r", flush=True)
                    else:
                        print(line, flush=True)
        finally:
            if on_terminal:
                print("\r\x1b[K", end="", flush=True)
            if process.poll() is None:
                process.terminate()
                process.wait()


def _provenance(runs: Sequence[Run], budget: str) -> list[str]:
    """Return sentences on the runs, sets and intervals behind our numbers."""
    described = [config for run in runs if (config := _config_of(run.folder))]
    if not described:
        return ["Ours: no run has been finished yet."]
    sets = {
        config["data"][name]
        for config in described
        for name in ("dataset", "test_dataset")
        if config["data"].get(name)
    }
    remarks = [f"Ours: budget {budget} ({BUDGETS[budget]}), on {', '.join(sorted(sets))}."]
    of = " of demo networks" if budget == "demo" else ""
    on = (
        " on knees that a program has drawn"
        if any(name.startswith("phantom") for name in sets)
        else ""
    )
    if of or on:
        remarks.append(
            f"Numbers{of}{on} are NOT comparable with the paper's; they show that every row runs, "
            "and may be compared with each other."
        )
    settings = {
        (config["evaluation"]["num_resamples"], config["evaluation"].get("scheme", "subject"))
        for config in described
    }
    return remarks + [bootstrap.describe(num, scheme=scheme) for num, scheme in sorted(settings)]


def _by_name(config: str) -> str:
    """Return the value of `--config` that works both in a checkout and elsewhere."""
    return config.replace(".py", "", 1)


def _config_of(folder: Path) -> dict[str, Any] | None:
    """Return the config of a run; for a cross-validation, that of its first fold."""
    files = [folder / "config.json", *sorted(folder.glob("*/fold_*/config.json"))]
    return next((_read_json(file) for file in files if file.exists()), None)


def _is_from_scratch(config: str) -> bool:
    return any(name.endswith("scratch") for name in config.partition(":")[2].split(","))


def _override(change: str) -> str:
    field, equals, _ = change.lstrip("-").partition("=")
    if not field.startswith("config.") or not equals:
        raise UserError(f"--change={change}: write it as --change=config.FIELD=VALUE")
    return f"--{change.lstrip('-')}"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: is not JSON ({error}); delete it and run again") from None


def _last_line(log: Path) -> str:
    """Return the last line printed by the last command in a log, or its error if any."""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - 4096))
        text = stream.read().decode(errors="replace")
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n") if line.strip()]
    starts = [i for i, line in enumerate(lines, start=1) if line.startswith(_PROMPT)]
    lines = lines[starts[-1] :] if starts else lines
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or ["(nothing printed)"])[-1]


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
