"""Appendix of a report: the items of TRIPOD+AI and CLAIM that a run can answer, and the others."""

from collections.abc import Mapping
from pathlib import Path

from knee_jax.config.load import RunConfig
from knee_jax.report.sections import Section
from knee_jax.report.tables import Table, target_title

AUTHORS = "for the authors"

_TRIPOD = (
    ("1", "Title", ""),
    ("2", "Abstract", ""),
    ("3", "Background: context, target population, health inequalities", ""),
    ("4", "Objectives", ""),
    ("5a", "Sources of data", "data"),
    ("5b", "Dates of the data", ""),
    ("6a", "Setting", ""),
    ("6b", "Eligibility", "eligibility"),
    ("6c", "Treatments", ""),
    ("7", "Data preparation", "preparation"),
    ("8", "Outcome: definition, assessment, blinding", "outcome"),
    ("9", "Predictors", "predictors"),
    ("10", "Sample size", "size"),
    ("11", "Missing data", "missing"),
    ("12a", "Use of the data: partition", "partition"),
    ("12b", "Handling of predictors", "preparation"),
    ("12c", "Type of model, building, tuning, internal validation", "model"),
    ("12d", "Heterogeneity between clusters", ""),
    ("12e", "Measures and plots of performance", "measures"),
    ("12f", "Updating of the model", ""),
    ("12g", "Calculation of predictions", "predictions"),
    ("13", "Class imbalance", "imbalance"),
    ("14", "Fairness", "fairness"),
    ("15", "Output of the model", "output"),
    ("16", "Training versus evaluation", "evaluation"),
    ("17", "Ethical approval", ""),
    ("18a-d", "Funding, interests, protocol, registration", ""),
    ("18e", "Data sharing", ""),
    ("18f", "Code sharing", "code"),
    ("19", "Patient and public involvement", ""),
    ("20a", "Flow of participants", "flow"),
    ("20b", "Characteristics of participants", "flow"),
    ("20c", "Development against evaluation data", "flow"),
    ("21", "Numbers in each analysis", "size"),
    ("22", "Specification of the model", "specification"),
    ("23a", "Performance with intervals", "performance"),
    ("23b", "Heterogeneity of performance", "fairness"),
    ("24", "Results of updating", ""),
    ("25-27", "Interpretation, limitations, usability", ""),
)
"""Items of TRIPOD+AI (Collins et al. 2024), short, each with the name of its answer."""

_CLAIM = (
    ("1-6", "Title, abstract, background, objectives, design, goal", ""),
    ("7", "Data sources", "data"),
    ("8", "Eligibility", "eligibility"),
    ("9", "Preprocessing", "preparation"),
    ("10", "Data subsets", "size"),
    ("11", "Data elements", "outcome"),
    ("12", "De-identification", ""),
    ("13", "Missing data", "missing"),
    ("14-18", "Reference standard: definition, rationale, annotation, variability", "outcome"),
    ("19", "Intended sample size", ""),
    ("20", "Partition", "partition"),
    ("21", "Level at which parts are disjoint", "disjoint"),
    ("22", "Model", "model"),
    ("23", "Software", "software"),
    ("24", "Initial parameters", "initial"),
    ("25", "Training", "training"),
    ("26", "Selection of the final model", "selection"),
    ("27", "Ensembling", "ensemble"),
    ("28", "Metrics", "measures"),
    ("29", "Uncertainty", "performance"),
    ("30", "Robustness", "fairness"),
    ("31", "Explainability", "explain"),
    ("32", "External validation", "evaluation"),
    ("33", "Flow of participants", "flow"),
    ("34", "Demographics by part", "flow"),
    ("35-36", "Performance, with its precision", "performance"),
    ("37", "Failure analysis", "failures"),
    ("38-40", "Limitations, implications, registration", ""),
    ("41", "Protocol, code", "code"),
    ("42", "Funding", ""),
)
"""Items of CLAIM (Mongan et al. 2020), in the same way."""


def checklists_section(config: RunConfig, commit: str | None) -> Section:
    """Answer the items of TRIPOD+AI and CLAIM that a run can answer.

    Args:
        config: Config of the run.
        commit: Commit of the program, if known.
    """
    known = answers(config, commit)
    tables = [
        Table(name, ("Item", "What it asks", "Answer"), _rows(items, known), words=True)
        for name, items in (("TRIPOD+AI (2024)", _TRIPOD), ("CLAIM (2020)", _CLAIM))
    ]
    note = (
        "Items that the run can answer are answered, or point to the section of this page; the "
        "others are for the authors. The words of the items are shortened."
    )
    return Section("Reporting checklists", (note,), tables)


def answers(config: RunConfig, commit: str | None) -> dict[str, str]:
    """Return the answers that a run knows, by their names."""
    data, optimizer, evaluation = config.data, config.optimizer, config.evaluation
    augmentation = {
        "affine": "random affine changes in training",
        "random_crop": "noise, rotation and random crops in training",
        "volume_crop": "random crops, rotation and gamma in training",
    }
    size = config.input.volume or f"{config.input.size} x {config.input.size}"
    by_subject = data.split != "image_ratio"
    named = ", ".join(target_title(name) for name in config.targets)
    tested = data.test_dataset and f"; the test knees are those of {data.test_dataset}"
    phantom = data.dataset.startswith("phantom")
    return {
        "data": f"{data.dataset}{tested or ''}"
        + ("; knees drawn by a program, of no person" if phantom else ""),
        "eligibility": "Knees and subjects: flow, with the reason of every exclusion",
        "preparation": f"one knee per input, shown as a right knee, {size} px, intensities "
        f"normalised ({config.input.statistics}); {augmentation[config.augmentation.name]}",
        "outcome": f"{named}; definition and readers: {AUTHORS}",
        "predictors": "the pixels of the image alone",
        "size": "Knees and subjects: numbers of each part",
        "missing": f"knees without a label are not scored; partly labelled ones: "
        f"{data.partially_labelled}; without landmarks: {data.without_keypoints}",
        "partition": f"split '{data.split}', seed {data.seed}",
        "disjoint": "subject" if by_subject else "image: subjects are in several parts",
        "model": f"{config.model.name} ({_options(config.model.options)})",
        "software": "Environment: every version",
        "initial": f"weights from {Path(config.init_from).name}" if config.init_from else "random",
        "training": f"{optimizer.name}, learning rate {optimizer.learning_rate:g}, batches of "
        f"{config.batch_size}, {config.epochs} epochs, seed {config.seed}; all in Configuration",
        "selection": "the checkpoint that the validation knees scored best",
        "ensemble": ", ".join(config.ensemble) if config.ensemble else "none",
        "measures": "Results: metrics, confusion matrices, curves; Confidence: calibration",
        "predictions": "the class of highest probability; values in their unit",
        "imbalance": f"sampling of training knees: {data.sampling}; balanced metrics are given",
        "fairness": "Subgroups, where the set tells of its subjects; else " + AUTHORS,
        "output": "probabilities of the classes, or a value; points of decision are named",
        "evaluation": f"another cohort, {data.test_dataset}" if data.test_dataset else "none",
        "code": f"knee_jax (Apache 2.0), commit {commit}" if commit else "knee_jax (Apache 2.0)",
        "flow": "Knees and subjects",
        "specification": "config.json and checkpoints of the run; `knee-jax export` makes one file",
        "performance": f"Results: 95 % intervals of {evaluation.num_resamples:,} bootstrap "
        f"resamples by {evaluation.scheme}",
        "explain": "Where the network looked",
        "failures": "Worst mistakes",
    }


def _rows(
    items: tuple[tuple[str, str, str], ...], known: Mapping[str, str]
) -> tuple[tuple[str, ...], ...]:
    return tuple((number, words, known.get(name, AUTHORS)) for number, words, name in items)


def _options(options: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items()) or "as published"
