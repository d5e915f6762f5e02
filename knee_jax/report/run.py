"""Report of a run: the selection of its contents for the page."""

from collections.abc import Iterable, Mapping
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
from knee_jax.metrics.summary import Summary
from knee_jax.report.coherence import loss_section, suspects_section
from knee_jax.report.comparison import comparison_section
from knee_jax.report.confidence import confidence_section
from knee_jax.report.examples import Example, choose_examples, show
from knee_jax.report.explanation import features_section, heat_section, slices_section
from knee_jax.report.page import write_report
from knee_jax.report.sections import Section, cohorts_section, selection_section
from knee_jax.report.subgroups import subgroups_section
from knee_jax.report.tables import terminal_table, tidy_metrics
from knee_jax.targets.grades import GRADES
from knee_jax.targets.kinds import Dichotomy, Nominal
from knee_jax.tasks.grading import Grading
from knee_jax.training.run import Run


def write_page(
    run: Run,
    tables: Mapping[str, pd.DataFrame],
    metrics: dict[str, Summary],
    workdir: Path,
    networks: Mapping[str, dict[str, Summary]] | None = None,
    explanation: Explanation | None = None,
) -> None:
    """Write the report, and print the metrics of the knees that were held out to the last.

    Args:
        run: Run, or one network of an ensemble.
        tables: Predictions table of each part.
        metrics: Metrics of each part.
        workdir: Folder that they were written to.
        networks: Metrics of each network of an ensemble, by name.
        explanation: Explanation of the network on knees of `shown_part`; None for an ensemble.
    """
    config, settings = run.config, run.config.evaluation
    networks = networks or {}
    shown = shown_part(tables)
    sections = []
    if len(networks) > 1:
        held_out = {name: each["out_of_fold"] for name, each in networks.items()}
        held_out["ensemble"] = metrics["out_of_fold"]
        csv = tidy_metrics(held_out).to_csv(index=False, float_format="%.6g")
        write_text(workdir / "model_selection.csv", csv)
        sections.append(selection_section(held_out))
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
    sections.append(confidence_section(tables[shown]))
    if isinstance(run.targets[0], Nominal) and (endpoint := dichotomy_of(config.targets[0])):
        sections.append(subgroups_of(tables[shown], endpoint, settings, workdir))
    if explanation is not None:
        sections.append(features_section(tables[shown], explanation))
        looked = slices_section if config.input.volume else heat_section
        sections.append(looked(tables[shown], explanation))
    page = write_report(
        workdir,
        examples(run, tables[shown], shown),
        title=title_of(config, networks),
        intervals=bootstrap.describe(settings.num_resamples, scheme=settings.scheme),
        extra_sections=sections,
        notes=run.notes,
    )
    print(f"\n{shown.replace('_', ' ')} knees, 95 % intervals by {settings.scheme}:\n")
    print(terminal_table(metrics[shown]))
    if shown in ("validation", "out_of_fold"):
        print("\nThese knees also chose the checkpoint, so the numbers are a little optimistic.")
    print(f"\nreport: {page}")


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
        remarks.append("These knees were drawn by a program: the numbers are NOT comparable.")
    if config.model.options.get("width", 64) < 64:
        remarks.append("The network is narrower than the published one.")
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
