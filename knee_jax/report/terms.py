"""Words of a report and their meaning: those that a page uses, and no others."""

from collections.abc import Collection, Iterable

from knee_jax.report.tables import METRIC_TITLES, target_title
from knee_jax.targets.grades import GRADES

_METRICS = {
    ("accuracy",): "share of knees that are predicted as they were read",
    ("sensitivity", "specificity"): "share of the positive, and of the negative knees that are "
    "predicted right",
    (
        "ppv",
        "npv",
    ): "positive and negative predictive value: share of the knees predicted positive, "
    "and negative, that are so, at the prevalence of these knees",
    ("balanced_accuracy",): "mean over the true classes of the share predicted right",
    ("quadratic_kappa", "linear_kappa"): "agreement beyond chance (Cohen 1968), disagreement "
    "weighted by the squared, or the plain distance between grades",
    ("kappa",): "agreement beyond chance (Cohen 1960), all disagreements alike",
    ("f1",): "harmonic mean of sensitivity and positive predictive value",
    ("f1_macro", "f1_weighted"): "mean of the F1 scores of the classes, each class equal, or "
    "weighted by how often it was read; F1 is the harmonic mean of sensitivity and positive "
    "predictive value",
    ("mse", "rmse"): "mean squared difference between prediction and label, and its root",
    ("rmse_expected",): "the same of the mean of the predicted distribution",
    ("mae",): "mean distance of prediction and label",
    ("within_one",): "share of knees whose predicted grade is at most one from the one read",
    ("roc_auc",): "probability that a positive knee scores above a negative one; the score is the "
    "summed probability of the positive classes",
    ("average_precision",): "area under the precision-recall curve, summed step by step; by chance "
    "it is the prevalence (dotted lines)",
    ("brier",): "mean squared distance of the probabilities from what was read: summed over the "
    "classes (Brier 1950), 0 to 2; of two classes 0 to 1",
    ("bias", "limit_low", "limit_high"): "mean of prediction minus label, and the range of 1.96 "
    "standard deviations of the differences about it (Bland & Altman 1986), in the unit of the "
    "value",
    ("ece",): "mean distance, over 15 bins, between the probability of the predicted class and how "
    "often it was right (Guo et al. 2017). It is not below 0, so that chance raises it, and its "
    "interval more",
}

_OTHERS = {
    "oarsi": ("OARSI average", "mean over the six OARSI grades"),
    "osteophytes": (
        "Osteophytes, pooled",
        "those of femur and tibia of a side: a knee is two samples, and resamples keep them "
        "together",
    ),
}


def terms(scored: Collection[str], metrics: Collection[str]) -> list[tuple[str, str]]:
    """Return the words that need an explanation, and their meaning.

    Args:
        scored: Targets and endpoints of the page.
        metrics: Metrics of the page.
    """
    found = []
    for names, meaning in _METRICS.items():
        if used := [METRIC_TITLES[name] for name in names if name in metrics]:
            found.append((", ".join(used), meaning))
    found += [
        words for name, words in _OTHERS.items() if any(each.startswith(name) for each in scored)
    ]
    return found + list(_grades(scored))


def _grades(scored: Collection[str]) -> Iterable[tuple[str, str]]:
    for grade in GRADES:
        if grade in scored:
            yield grade.upper(), target_title(grade)
