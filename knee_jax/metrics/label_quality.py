"""Knees whose label the predictions contradict most: candidates to be read again.

Confident learning (Northcutt et al. 2021, "Confident learning: estimating uncertainty in dataset
labels"), by its authors' library cleanlab. A knee that the model is sure of, and surer than of most
knees with that prediction, has a label issue if it is labelled otherwise. Knees are ordered by the
probability of their own label: of 100 labels of real knees that were changed on purpose this puts
more at the front than normalised margins or distances of grades (finding F-LABELS-01).
"""

import numpy as np
import pandas as pd

from knee_jax.errors import UserError
from knee_jax.metrics.predictions import IDENTITY
from knee_jax.targets.kinds import Classes

Array = np.ndarray

FEWEST = 2
"""Number of labelled knees that each class must have."""


def list_mislabelled(table: pd.DataFrame, target: Classes) -> pd.DataFrame:
    """List the labelled knees of a table, the least probable label first.

    Args:
        table: Predictions of knees that the model has not learnt from.
        target: Target whose labels are judged.

    Returns:
        Table with identity, label, prediction and probabilities of the target, `own_probability`
        (of the label), `contradiction` (of the prediction minus of the label) and `issue` (whether
        confident learning takes the label for wrong).

    Raises:
        UserError: A class has fewer than `FEWEST` labelled knees.
    """
    known = table[target.is_known(table[target.name])].reset_index(drop=True)
    labels, shares = known[target.name].to_numpy(np.int64), _shares(known, target)
    _check(labels, target)
    own = shares[np.arange(len(labels)), labels]
    identity = [name for name in (*IDENTITY, "cohort") if name in known]
    listed = known[[*identity, *target.columns()]].assign(
        own_probability=own, contradiction=shares.max(axis=1) - own, issue=issues(labels, shares)
    )
    order = np.argsort(own, kind="stable")
    return listed.iloc[order].reset_index(drop=True)


def issues(labels: Array, shares: Array) -> Array:
    """Return which labels confident learning takes for wrong, bool [n].

    Args:
        labels: Classes, int [n], each of which occurs.
        shares: Probabilities of the classes, float [n, C].
    """
    from cleanlab.filter import find_label_issues

    found = find_label_issues(labels, shares, filter_by="confident_learning", n_jobs=1)
    return np.asarray(found, bool)


def planted(table: pd.DataFrame, target: Classes, number: int, seeds: int = 20) -> pd.DataFrame:
    """Change labels on purpose, and count how many are found.

    Args:
        table: As in `list_mislabelled`.
        target: Target whose labels are changed.
        number: Number of labels that are changed at once, each to any other class, or, of ordered
            classes, to a neighbour.
        seeds: Number of times.

    Returns:
        Table with one row per kind of change and seed: `change` ('any' or 'neighbour'), `seed`,
        `first` and `first_double` (how many are among the first `number`, and twice as many, of the
        list), `issues` (how many labels in all are issues) and `issues_planted`.

    Raises:
        UserError: There are no more knees than are to be changed.
    """
    known = table[target.is_known(table[target.name])]
    labels, shares = known[target.name].to_numpy(np.int64), _shares(known, target)
    _check(labels, target)
    if number >= len(labels):
        raise UserError(f"{number} labels cannot be changed: {len(labels)} knees have one")
    rows = []
    for change in ("any", "neighbour"):
        for seed in range(seeds):
            changed, places = _change(labels, target.num_outputs, number, change, seed)
            own = shares[np.arange(len(labels)), changed]
            order = np.argsort(own, kind="stable")
            found = issues(changed, shares)
            rows.append(
                {
                    "change": change,
                    "seed": seed,
                    "first": len(set(order[:number]) & set(places)),
                    "first_double": len(set(order[: 2 * number]) & set(places)),
                    "issues": int(found.sum()),
                    "issues_planted": int(found[places].sum()),
                }
            )
    listed = pd.DataFrame(rows)
    listed.attrs["number"] = number
    return listed


def _change(
    labels: Array, classes: int, number: int, change: str, seed: int
) -> tuple[Array, Array]:
    """Return labels of which some are changed, and their places."""
    rng = np.random.default_rng(seed)
    places = rng.choice(len(labels), number, replace=False)
    changed = labels.copy()
    for place in places:
        label = labels[place]
        others = [c for c in range(classes) if c != label]
        if change == "neighbour":
            others = [c for c in others if abs(c - label) == 1]
        changed[place] = rng.choice(others)
    return changed, places


def _shares(known: pd.DataFrame, target: Classes) -> Array:
    shares = known[target.output_columns()].to_numpy(np.float64)
    return shares / shares.sum(axis=1, keepdims=True)


def _check(labels: Array, target: Classes) -> None:
    counts = np.bincount(labels, minlength=target.num_outputs)
    if (few := np.flatnonzero(counts < FEWEST)).size:
        raise UserError(
            f"only {counts[few[0]]} knees are labelled {target.class_label(int(few[0]))}; judging "
            f"labels takes {FEWEST} of each class"
        )
