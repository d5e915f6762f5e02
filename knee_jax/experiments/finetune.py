"""Fine-tuning: a finished model is trained on with other knees, and compared with itself before.

<workdir>/                          a run as `knee_jax.training.train` makes it, evaluated
<workdir>/initial.npz               weights that it began from
<workdir>/initial.npz.knees.csv     knees that these have learnt from, if they are known
<workdir>/comparison.txt, .csv      the run beside the model it began from, on its test knees
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from knee_jax import targets
from knee_jax.cohort import knees
from knee_jax.config import load
from knee_jax.config.load import RunConfig
from knee_jax.data.prepared import PreparedSet
from knee_jax.errors import UserError
from knee_jax.evaluation import on_set
from knee_jax.files import write_text
from knee_jax.inference.predictor import Predictor
from knee_jax.metrics import comparison
from knee_jax.metrics.comparison import Difference
from knee_jax.metrics.predictions import read_predictions
from knee_jax.models import weights
from knee_jax.report.differences import Compared, differences_text
from knee_jax.targets.kinds import Classes
from knee_jax.targets.places import Places

INITIAL = "initial.npz"

PARTS = (3, 1, 1)
"""Ratio of training, validation and test subjects."""

LEAST = 20
"""Labelled knees that can be learnt from, at least."""

SEEN = 12_000
"""Training knees that pass through the network, within the bounds of `EPOCHS`."""

EPOCHS = (4, 30)


def recipe(config: RunConfig, dataset: str, names: Sequence[str], number: int) -> RunConfig:
    """Return the config of a fine-tuning: few steps at a low rate, chosen by validation knees.

    The network, its input, augmentation and evaluation stay as they were.

    Args:
        config: Config that the model was trained by.
        dataset: Prepared set to train on.
        names: Targets to learn.
        number: Number of the set's labelled knees.

    Raises:
        UserError: There are too few knees, or the parts do not go together.
    """
    if number < LEAST:
        raise UserError(
            f"{dataset}: has {number} knees with a label of {', '.join(names)}; fine-tuning needs "
            f"{LEAST}, and says little about itself below some hundreds"
        )
    training = number * PARTS[0] // sum(PARTS)
    batch_size = 16 if training < 300 else 32
    epochs = int(np.clip(SEEN // training, *EPOCHS))
    steps = epochs * training / batch_size
    values = load.plain(config)
    if tuple(names) != config.targets:
        classes = all(isinstance(target, Classes) for target in targets.get_all(names))
        selection = "mean_accuracy" if classes else "loss"
        values["task"] = load.task("grading", selection=selection).to_dict()
        values["targets"] = tuple(names)
    if not {t.opposite or t.name for t in targets.get_all(names)} <= set(names):
        # A mirrored knee has the grade of the other side, which is not learnt.
        values["augmentation"] |= {"mirror": 0.0} if "mirror" in values["augmentation"] else {}
        values["evaluation"]["mirror"] = False
    settings = load.base().to_dict()
    settings["data"] |= {
        "dataset": dataset,
        "parts": PARTS,
        "published_test": "dealt",
        "leaks": "leave_out",
        "without_keypoints": config.data.without_keypoints,
    }
    settings["optimizer"] |= {
        "learning_rate": 3e-4,
        "weight_decay": 0.02,
        "schedule": "one_cycle",
        # The average reaches over the last tenth of the steps.
        "ema_decay": float(np.clip(1 - 10 / steps, 0.5, 0.995)),
    }
    values |= {name: settings[name] for name in ("data", "optimizer", "sweep", "steps_per_call")}
    values |= {"batch_size": batch_size, "epochs": epochs, "ensemble": {}, "paper_row": ""}
    values |= {"log_every": 20, "checkpoint_every": 100}
    return load.parse(values)


def targets_of(config: RunConfig, prepared: PreparedSet, wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the targets to learn: those that are wanted, or those of the model that are labelled.

    Raises:
        UserError: The set has no label of them.
    """
    names = tuple(wanted) or config.targets
    if any(isinstance(target, Places) for target in targets.get_all(names)):
        raise UserError(
            "the localiser is not fine-tuned: docs/how-to/find-landmarks.md says how it is trained"
        )
    labelled = tuple(name for name in names if number_of(prepared, [name]))
    absent = ", ".join(name for name in (wanted or names) if name not in labelled)
    if not labelled or (wanted and absent):
        raise UserError(
            f"{prepared.name}: no knee has a label of {absent}; name what is to be learnt, as "
            "--targets=kl"
        )
    return labelled


def number_of(prepared: PreparedSet, names: Sequence[str]) -> int:
    """Return how many knees of a set have a label of at least one target."""
    index = prepared.index
    known = [target.is_known(target.labels(index)) for target in targets.get_all(names)]
    return int(np.any(known, axis=0).sum())


def write_initial(
    workdir: Path,
    arrays: Mapping[str, np.ndarray],
    names: Sequence[str],
    learnt: pd.DataFrame | None,
) -> Path:
    """Write the weights to begin from, and beside them the knees that they have learnt from.

    Heads of targets that are not learnt are left out.

    Raises:
        UserError: The folder's run began from other weights.
    """
    path = workdir / INITIAL
    kept = {name: array for name, array in arrays.items() if _is_kept(name.split("/")[1], names)}
    if path.is_file():
        before = weights.read(path)
        same = before.keys() == kept.keys()
        if not same or not all(np.array_equal(before[name], kept[name]) for name in kept):
            raise UserError(
                f"{workdir} holds a run that began from other weights: choose another --workdir"
            )
        return path
    weights.write(path, kept)
    if learnt is not None:
        write_text(Path(f"{path}.{knees.FILE}"), knees.text_of(learnt.assign(part=knees.INITIAL)))
    return path


def _is_kept(module: str, names: Sequence[str]) -> bool:
    """Return whether a module is no head, or a head of a target that is learnt."""
    target = module.partition("_")[2]
    return not weights.is_head(module) or target not in targets.all_targets() or target in names


def compare(workdir: Path, before: Predictor, prepared: PreparedSet, num_resamples: int) -> str:
    """Compare a finished fine-tuning with the model before, on the run's test knees.

    Args:
        workdir: Folder of the run.
        before: Model that the run began from.
        prepared: Set that it was trained on.
        num_resamples: Bootstrap resamples of the intervals.

    Returns:
        Text of the comparison, whose last line says which is better; it is written to the folder.
    """
    after = read_predictions(workdir / "predictions" / "test.csv")
    rows = np.sort(prepared.find(after))
    own = dataclasses.replace(prepared, targets=tuple(t.name for t in before.targets))
    table = on_set.predict(before, own, rows)
    found = comparison.pair(table, after)
    differences = comparison.compare(found, num_resamples)
    text = differences_text(Compared("before", "after", found, differences))
    text += "\n\n" + verdict(differences)
    write_text(workdir / "comparison.txt", text + "\n")
    csv = pd.DataFrame(differences).to_csv(index=False, float_format="%.6g")
    write_text(workdir / "comparison.csv", csv)
    return text


def verdict(differences: Sequence[Difference]) -> str:
    """Say by the first target's leading metric whether fine-tuning helped."""
    order = ("quadratic_kappa", "roc_auc", "balanced_accuracy", "rmse")
    first = [each for each in differences if each.target == differences[0].target]
    named = {each.metric: each for each in first}
    leading = next((named[name] for name in order if name in named), first[0])
    better = leading.difference * (-1 if leading.metric in ("rmse", "mae") else 1) > 0
    shown = leading.low > 0 or leading.high < 0
    measured = (
        f"{leading.metric} of {leading.target} {leading.first:.3f} before and "
        f"{leading.second:.3f} after, difference {leading.difference:+.3f} "
        f"[{leading.low:+.3f}, {leading.high:+.3f}]"
    )
    if math.isnan(leading.low):
        return f"{leading.n:,} test knees are too few to compare by {leading.metric}."
    if not shown:
        return f"No difference is shown on {leading.n:,} test knees: {measured}."
    return f"Fine-tuning made the model {'better' if better else 'worse'}: {measured}."
