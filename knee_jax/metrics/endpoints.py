"""Scores over several targets: pooled dichotomies, and the mean over the OARSI grades."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from knee_jax import targets
from knee_jax.metrics import agreement
from knee_jax.metrics.bootstrap import subjects_of
from knee_jax.metrics.scoring import Scorer, predicted_classes, ranks
from knee_jax.targets.grades import OARSI_GRADES
from knee_jax.targets.kinds import Dichotomy

Array = np.ndarray

AVERAGED_METRICS = ("accuracy", "balanced_accuracy", "quadratic_kappa", "rmse")
"""Metrics of the average over the OARSI grades."""


class Samples(NamedTuple):
    """Samples of a dichotomy, one for each knee and target that has a label.

    Attributes:
        rows: Row of the table that each sample belongs to, int [m].
        scores: Summed probability of the positive classes, float64 [m], 0 to 1.
        positives: Whether the true class is among them, bool [m].
    """

    rows: Array
    scores: Array
    positives: Array


def oarsi_average(labelled: pd.DataFrame) -> Scorer:
    """Score the mean over the six OARSI grades, all of them on the same resample."""
    truth = labelled[list(OARSI_GRADES)].to_numpy(np.int64)
    # A knee with a missing grade falls into no cell of that grade's confusion matrix.
    indicators = []
    for target, read in zip(targets.get_all(OARSI_GRADES), truth.T, strict=True):
        known = target.is_known(read)
        knees = labelled[known]
        cells = np.zeros((len(labelled), target.num_outputs**2))
        cells[known] = agreement.pair_indicators(
            knees[target.name].to_numpy(),
            knees[f"{target.name}_pred"].to_numpy(),
            target.num_outputs,
        )
        indicators.append(cells)

    def statistics(weights: Array) -> dict[str, Array]:
        weights = weights.astype(np.float64)  # once, and not for each grade
        confusions = [agreement.confusion_matrices(weights, cells) for cells in indicators]
        return {
            name: np.mean([agreement.METRICS[name](confusion) for confusion in confusions], axis=0)
            for name in AVERAGED_METRICS
        }

    return Scorer(subjects_of(labelled), truth.max(axis=1), statistics, len(labelled))


def dichotomy_samples(table: pd.DataFrame, endpoint: Dichotomy) -> Samples:
    """Pool the samples of a dichotomy over its targets.

    Args:
        table: Predictions table that has the dichotomy's targets.
        endpoint: Dichotomy to pool samples of.

    Returns:
        One sample for each knee and target that has a label, target after target.
    """
    rows, scores, positives = [], [], []
    for target in targets.get_all(endpoint.targets):
        truth = table[target.name].to_numpy(np.int64)
        known = np.flatnonzero(target.is_known(truth))
        columns = target.output_columns()[endpoint.lowest :]
        rows.append(known)
        scores.append(table[columns].to_numpy(np.float64)[known].sum(1))
        positives.append(truth[known] >= endpoint.lowest)
    return Samples(np.concatenate(rows), np.concatenate(scores), np.concatenate(positives))


def dichotomy(endpoint: Dichotomy, labelled: pd.DataFrame) -> Scorer:
    """Score a dichotomy on rows of a predictions table where one of its targets has a label."""
    rows, scores, positives = dichotomy_samples(labelled, endpoint)
    # Missing, negative or positive, for each target, so that a knee's samples stay together.
    states = np.stack(
        [
            np.where(target.is_known(truth), 1 + (truth >= endpoint.lowest), 0)
            for target in targets.get_all(endpoint.targets)
            for truth in [labelled[target.name].to_numpy(np.int64)]
        ],
        axis=1,
    )
    ranked, predicted = ranks(scores, positives), None
    if endpoint.threshold is not None:
        predictions = (scores >= endpoint.threshold).astype(np.int64)
        both = np.stack([1 - scores, scores], axis=1)
        predicted = predicted_classes(
            positives.astype(np.int64), predictions, both, agreement.TWO_CLASS_METRICS
        )

    def statistics(weights: Array) -> dict[str, Array]:
        weights = weights[:, rows]
        if predicted is None:
            return ranked(weights)
        agreeing, probabilistic = predicted(weights.astype(np.float64))
        return agreeing | ranked(weights) | probabilistic

    strata = states @ 3 ** np.arange(len(endpoint.targets))
    return Scorer(subjects_of(labelled), strata, statistics, len(rows))
