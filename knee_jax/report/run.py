"""The report of a run: what of it the page shows."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import ml_collections
import numpy as np
import pandas as pd

from knee_jax import coherence, papers
from knee_jax.data.prepared import PreparedSet
from knee_jax.errors import UserError
from knee_jax.experiment import Experiment
from knee_jax.explain import Explanation
from knee_jax.files import write_text
from knee_jax.grades import GRADES, OWN
from knee_jax.metrics import bootstrap, subgroups
from knee_jax.metrics.summary import TASKS, Summary
from knee_jax.report.coherence import loss_section, suspects_section
from knee_jax.report.comparison import comparison_section
from knee_jax.report.confidence import confidence_section
from knee_jax.report.examples import Example, choose_examples
from knee_jax.report.explanation import features_section, heat_section, slices_section
from knee_jax.report.page import write_report
from knee_jax.report.sections import Section, cohorts_section, selection_section
from knee_jax.report.subgroups import subgroups_section
from knee_jax.report.tables import terminal_table, tidy_metrics


def write_page(
    experiment: Experiment,
    tables: Mapping[str, pd.DataFrame],
    metrics: dict[str, Summary],
    workdir: Path,
    networks: Mapping[str, dict[str, Summary]] | None = None,
    explanation: Explanation | None = None,
) -> None:
    """Writes the report, and prints the metrics of the knees that were held out to the last.

    Args:
        experiment: the run's, or a member's of an ensemble.
        tables: part → predictions table.
        metrics: of each.
        workdir: where they have been written.
        networks: name → metrics of each network of an ensemble.
        explanation: of the network, while it read the knees of `shown_part`; an ensemble has none.
    """
    config, settings = experiment.config, experiment.config.evaluation
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
        trained = np.union1d(*(experiment.parts[name].rows for name in ("train", "validation")))
        index = experiment.parts["train"].prepared.index.iloc[trained]
        cohorts = {config.data.dataset: index, config.data.test_dataset: tables["test"]}
        sections.append(cohorts_section(cohorts))
    if experiment.task.mixture is not None:
        sections += coherence_sections(experiment, workdir)
    sections.append(confidence_section(tables[shown]))
    if config.grades[0] in OWN:
        sections.append(subgroups_of(tables[shown], config, workdir))
    if explanation is not None:
        sections.append(features_section(tables[shown], explanation))
        looked = slices_section if config.input.get("volume") else heat_section
        sections.append(looked(tables[shown], explanation))
    page = write_report(
        workdir,
        examples(experiment, tables[shown], shown),
        title=title_of(config, networks),
        intervals=bootstrap.describe(settings.num_resamples, scheme=settings.scheme),
        extra_sections=sections,
    )
    print(f"\n{shown.replace('_', ' ')} knees, 95 % intervals by {settings.scheme}:\n")
    print(terminal_table(metrics[shown]))
    if shown in ("validation", "out_of_fold"):
        print("\nThese knees also chose the checkpoint, so the numbers are a little optimistic.")
    print(f"\nreport: {page}")


def shown_part(tables: Mapping[str, pd.DataFrame]) -> str:
    """The part whose knees a report shows one by one: those held out to the last."""
    return "test" if "test" in tables else next(iter(tables))


def title_of(config: ml_collections.ConfigDict, networks: Iterable[str]) -> str:
    """What the run is, for the head of its report."""
    readers = " and ".join(networks) or config.model.name
    tested = f", tested on {config.data.test_dataset}" if config.data.test_dataset else ""
    return f"{config.data.dataset} read by {readers}{tested}"


def remarks_on(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """What keeps a run's numbers from being compared with its paper's, if anything does."""
    sets = (config.data.dataset, config.data.test_dataset)
    remarks = []
    if any(name.startswith("phantom") for name in sets):
        remarks.append("These knees were drawn by a program: the numbers are NOT comparable.")
    if config.model.get("width", 64) < 64:
        remarks.append("The network is narrower than the published one.")
    return tuple(remarks)


def coherence_sections(experiment: Experiment, workdir: Path) -> list[Section]:
    """The least coherent labels of the cohort that the run learnt from; also `suspects.csv`."""
    prepared = experiment.parts["train"].prepared
    try:
        listing = coherence.list_suspects(prepared.index)
    except UserError as few:
        return [Section("Least coherent labels", (f"Not listed: {few}.",))]
    write_text(workdir / "suspects.csv", listing.to_csv(index=False, float_format="%.6g"))
    shown = show(prepared, listing.head(8), GRADES)
    temperature = experiment.config.coherence.temperature
    return [suspects_section(listing, shown), loss_section(temperature)]


def subgroups_of(table: pd.DataFrame, config: ml_collections.ConfigDict, workdir: Path) -> Section:
    """The two-class task of a run's first target in subgroups of knees; also `subgroups.csv`."""
    target, settings = config.grades[0], config.evaluation
    task = next(name for name, task in TASKS.items() if task.grades == (target,))
    scored = subgroups.score(table, task, settings.num_resamples, scheme=settings.scheme)
    csv = subgroups.tidy(scored).to_csv(index=False, float_format="%.6g")
    write_text(workdir / "subgroups.csv", csv)
    return subgroups_section(scored, task)


def examples(experiment: Experiment, table: pd.DataFrame, name: str) -> list[Example]:
    """Knees for the report, graded right and graded wrong, with their pixels and landmarks."""
    grades = experiment.task.grades
    chosen = table.iloc[choose_examples(table, grades[0], num_each=8)]
    prepared = experiment.parts[name if name == "test" else "train"].prepared
    return show(prepared, chosen, grades)


def show(prepared: PreparedSet, rows: pd.DataFrame, grades: Sequence[str]) -> list[Example]:
    """The knees of some rows of a table, as a report shows them.

    Args:
        prepared: the set that the knees are of.
        rows: with the columns of an index or of a predictions table.
        grades: the ones to show; predicted ones where the table has them.
    """
    knees = prepared.load(prepared.find(rows))
    volumes = knees.get("volume")
    has_landmarks = knees.get("keypoints_valid", np.zeros(len(rows), bool))
    # Of a volume the slice in the middle.
    images = knees["image"] if volumes is None else volumes[..., volumes.shape[-1] // 2]
    return [
        Example(
            image=images[i],
            truth={g: int(row[g]) for g in grades},
            prediction={g: int(row[f"{g}_pred"]) for g in grades if f"{g}_pred" in row},
            caption=f"{row['subject']} {row['side']}, month {row['visit']}",
            keypoints=knees["keypoints"][i] if has_landmarks[i] else None,
            modality="film" if volumes is None else "volume",
        )
        for i, (_, row) in enumerate(rows.iterrows())
    ]
