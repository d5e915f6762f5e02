"""Report of a run: the selection of its contents for the page."""

import math
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd

from knee_jax import papers, targets
from knee_jax.config.load import RunConfig
from knee_jax.config.schema import Evaluation
from knee_jax.errors import UserError
from knee_jax.evaluation.explain import Explanation
from knee_jax.files import write_text
from knee_jax.metrics import bootstrap, grade_coherence, subgroups
from knee_jax.metrics.added_value import added_value
from knee_jax.metrics.summary import Summary
from knee_jax.report.checklist import checklists_section
from knee_jax.report.coherence import loss_section, suspects_section
from knee_jax.report.comparison import comparison_section
from knee_jax.report.confidence import confidence_section
from knee_jax.report.examples import Example, choose_examples, show
from knee_jax.report.explanation import (
    features_section,
    heat_section,
    misleads,
    slices_section,
)
from knee_jax.report.folds import folds_section
from knee_jax.report.front import Front, troubles_of_training
from knee_jax.report.operating import decision_drawings, operating_table
from knee_jax.report.page import read_history, write_report
from knee_jax.report.participants import TITLES, participants_section
from knee_jax.report.sections import Section, cohorts_section, selection_section
from knee_jax.report.subgroups import added_value_section, subgroups_section
from knee_jax.report.tables import target_title, terminal_table, tidy_metrics
from knee_jax.targets.grades import GRADES, OARSI_GRADES
from knee_jax.targets.kinds import Classes, Dichotomy, Nominal
from knee_jax.tasks.grading import Grading
from knee_jax.training.run import Run
from knee_jax.workdir.folder import commit_of


def write_page(
    run: Run,
    tables: Mapping[str, pd.DataFrame],
    metrics: dict[str, Summary],
    workdir: Path,
    networks: Mapping[str, dict[str, Summary]] | None = None,
    explanation: Explanation | None = None,
    formats: Sequence[str] = (),
) -> None:
    """Write the report, and print the metrics of the knees that were held out to the last.

    Args:
        run: Run, or one network of an ensemble.
        tables: Predictions table of each part.
        metrics: Metrics of each part.
        workdir: Folder that they were written to.
        networks: Metrics of each network of an ensemble, by name.
        explanation: Explanation of the network on knees of `shown_part`; None for an ensemble.
        formats: Formats of figures that are written beside the page.
    """
    config, settings = run.config, run.config.evaluation
    networks = networks or {}
    shown = shown_part(tables)
    sections = []
    points = operating_table(tables, shown, metrics[shown], settings.num_resamples, settings.scheme)
    if points:
        curves = decision_drawings(tables[shown], metrics[shown], settings.num_resamples)
        sections.append(Section("Points of decision", tables=(points,), drawings=curves))
    if any(isinstance(target, Classes) for target in run.targets):
        sections.append(confidence_section(tables[shown]))
    if explanation is not None:
        looked = slices_section if config.input.volume else heat_section
        sections.append(looked(tables[shown], explanation))
        sections.append(features_section(tables[shown], explanation))
    if isinstance(run.targets[0], Nominal) and (endpoint := dichotomy_of(config.targets[0])):
        sections.append(subgroups_of(tables[shown], endpoint, settings, workdir))
        if added := added_value(tables[shown], endpoint, settings.num_resamples):
            sections.append(added_value_section(added, endpoint))
    if len(networks) > 1:
        held_out = {name: each["out_of_fold"] for name, each in networks.items()}
        held_out["ensemble"] = metrics["out_of_fold"]
        csv = tidy_metrics(held_out).to_csv(index=False, float_format="%.6g")
        write_text(workdir / "model_selection.csv", csv)
        sections.append(selection_section(held_out))
    if "out_of_fold" in tables and (folds := folds_section(tables["out_of_fold"])):
        sections.append(folds)
    results = {(config.paper_row, ""): metrics}
    results |= {(config.paper_row, name): each for name, each in networks.items()}
    mode = "cv" if "out_of_fold" in tables else "train"
    if reproduced := [name for name in papers.names() if papers.has(name, config.paper_row, mode)]:
        sections.append(comparison_section(reproduced, results, remarks_on(config)))
    if config.data.test_dataset:
        trained = np.union1d(*(run.subsets[name].rows for name in ("train", "validation")))
        index = run.subsets["train"].prepared.index.iloc[trained]
        cohorts = {config.data.dataset: index, config.data.test_dataset: tables["test"]}
        sections.append(cohorts_section(cohorts))
    if isinstance(run.task, Grading) and run.task.mixture is not None:
        sections += coherence_sections(run, run.task.temperature, workdir)
    parts = parts_of(run, folded=mode == "cv")
    sets = {each.prepared.name: each.prepared for each in run.subsets.values()}
    flows = {
        name: pd.read_csv(StringIO((each.path / "flow.csv").read_text()), keep_default_na=False)
        for name, each in sets.items()
        if (each.path / "flow.csv").exists()
    }
    remarks = troubles_of(run, workdir, mode)
    if explanation is not None and misleads(explanation.heat_maps):
        remarks.append(
            "The heat maps failed their test by deletion: they show nothing that counts."
        )
    page = write_report(
        workdir,
        examples(run, tables[shown], shown),
        title=title_of(config, networks),
        intervals=bootstrap.describe(settings.num_resamples, scheme=settings.scheme),
        opening=[participants_section(parts, {} if mode == "cv" else run.flow, flows, run.targets)],
        extra_sections=sections,
        closing=[checklists_section(config, commit_of(workdir))],
        shown=Front(lead_of(config, networks, parts), (), remarks),
        notes=run.notes,
        formats=formats,
    )
    print(f"\n{shown.replace('_', ' ')} knees, 95 % intervals by {settings.scheme}:\n")
    print(terminal_table(metrics[shown]))
    if shown in ("validation", "out_of_fold"):
        print("\nThese knees also chose the checkpoint, so the numbers are a little optimistic.")
    print(f"\nreport: {page}")


def parts_of(run: Run, *, folded: bool) -> dict[str, pd.DataFrame]:
    """Return the rows of the index of each part of a run, with what is known of their subjects.

    Args:
        run: Run.
        folded: Whether training and validation knees take turns, and are one part.
    """
    found: dict[str, pd.DataFrame] = {}
    for name, subset in run.subsets.items():
        rows = subset.prepared.index.iloc[subset.rows]
        people = subset.prepared.path / "subjects.csv"
        if people.exists():
            known = pd.read_csv(StringIO(people.read_text()), dtype={"subject": str})
            columns = [c for c in ("age", "sex", "bmi") if c in known and c not in rows]
            rows = rows.merge(known[["subject", *columns]], "left", "subject")
        if folded and name in ("train", "validation"):
            name = "folds"
            rows = pd.concat([*([found[name]] if name in found else []), rows])
        found[name] = rows
    return {name: found[name] for name in TITLES if name in found}


def lead_of(config: RunConfig, networks: Iterable[str], parts: Mapping[str, pd.DataFrame]) -> str:
    """Say in a sentence what was trained, and on whom."""
    trained = parts.get("folds", parts.get("train", pd.DataFrame(columns=["subject"])))
    names = list(networks)
    readers = " and ".join(names) or config.model.name
    predict, were = ("predict", "were") if len(names) > 1 else ("predicts", "was")
    named = [name for name in config.targets if name not in OARSI_GRADES]
    words = [target_title(name) for name in named]
    if number := len(config.targets) - len(named):
        words.append(f"{number} OARSI grade{'s' if number > 1 else ''}")
    predicted = " and ".join([*([", ".join(words[:-1])] if words[1:] else []), words[-1]])
    unlabelled = f", and {len(parts['unlabelled']):,} unlabelled" if "unlabelled" in parts else ""
    return (
        f"{readers}, which {predict} {predicted}, {were} trained on {len(trained):,} knee images "
        f"of {trained['subject'].nunique():,} subjects of {config.data.dataset}{unlabelled}."
    )


def troubles_of(run: Run, workdir: Path, mode: str) -> list[str]:
    """Say what went wrong before the evaluation, or makes its figures another thing."""
    found = list(remarks_on(run.config))
    left_out = {
        TITLES[part]: {why: n for why, n in counts.items() if why not in ("used", "read_globally")}
        for part, counts in run.flow.items()
    }
    for part, reasons in left_out.items() if mode != "cv" else ():
        if reasons:
            words = ", ".join(f"{n:,} {why.replace('_', ' ')}" for why, n in reasons.items())
            found.append(f"{part} knees left out: {words}.")
    if mode == "train":
        steps = math.ceil(run.config.epochs * run.steps_per_epoch)
        path = workdir / "metrics.jsonl"
        history = read_history(path) if path.exists() else pd.DataFrame(columns=["step"])
        found += troubles_of_training(history, steps)
    return found


def shown_part(tables: Mapping[str, pd.DataFrame]) -> str:
    """Return the part whose knees a report shows individually: those held out to the last."""
    return "test" if "test" in tables else next(iter(tables))


def title_of(config: RunConfig, networks: Iterable[str]) -> str:
    """Return the title of a run's report."""
    readers = " and ".join(networks) or config.model.name
    tested = f", tested on {config.data.test_dataset}" if config.data.test_dataset else ""
    return f"{config.data.dataset} read by {readers}{tested}"


def remarks_on(config: RunConfig) -> tuple[str, ...]:
    """Return remarks on why a run's numbers cannot be compared with its paper's, if any."""
    sets = (config.data.dataset, config.data.test_dataset)
    remarks = []
    if any(name.startswith("phantom") for name in sets):
        remarks.append(
            "These knees were drawn by a program: the numbers are NOT comparable with a paper's."
        )
    if config.paper_row and config.model.options.get("width", 64) < 64:
        remarks.append("The network is not the published one, or narrower.")
    return tuple(remarks)


def coherence_sections(run: Run, temperature: float, workdir: Path) -> list[Section]:
    """Show the least coherent labels of the cohort trained on; also write `suspects.csv`."""
    prepared = run.subsets["train"].prepared
    try:
        listing = grade_coherence.list_suspects(prepared.index)
    except UserError as few:
        return [Section("Least coherent labels", (f"Not listed: {few}.",))]
    write_text(workdir / "suspects.csv", listing.to_csv(index=False, float_format="%.6g"))
    shown = show(prepared, listing.head(8), GRADES)
    return [suspects_section(listing, shown), loss_section(temperature)]


def subgroups_of(
    table: pd.DataFrame, endpoint: Dichotomy, settings: Evaluation, workdir: Path
) -> Section:
    """Score a dichotomy in subgroups of knees; also write `subgroups.csv`."""
    scored = subgroups.score(table, endpoint, settings.num_resamples, scheme=settings.scheme)
    csv = subgroups.tidy(scored).to_csv(index=False, float_format="%.6g")
    write_text(workdir / "subgroups.csv", csv)
    return subgroups_section(scored, endpoint)


def dichotomy_of(target: str) -> Dichotomy | None:
    """Return the dichotomy that is derived from one target alone, if there is one."""
    found = (each for each in targets.dichotomies().values() if each.targets == (target,))
    return next(found, None)


def examples(run: Run, table: pd.DataFrame, name: str) -> list[Example]:
    """Return knees for the report, graded right and wrong, with their pixels and landmarks."""
    names = run.config.targets
    chosen = table.iloc[choose_examples(table, names[0], num_each=8)]
    prepared = run.subsets[name if name == "test" else "train"].prepared
    return show(prepared, chosen, names)
