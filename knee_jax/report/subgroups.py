"""Report sections on a progression: in subgroups of knees, and beside the grade that was read."""

from collections.abc import Sequence

from knee_jax.metrics.added_value import FOLDS, AddedValue, Value
from knee_jax.metrics.subgroups import METRICS, Subgroup
from knee_jax.report.sections import Section
from knee_jax.report.tables import METRIC_TITLES, Table, format_interval, format_value
from knee_jax.targets.kinds import Dichotomy

ATTRIBUTES = {
    "kl_baseline": "KL at baseline",
    "sex": "Sex",
    "age": "Age, years",
    "bmi": "BMI, kg/m²",
    "site": "Site",
}


def subgroups_section(subgroups: Sequence[Subgroup], endpoint: Dichotomy) -> Section:
    """Show a table with one row per subgroup.

    Args:
        subgroups: Result of `metrics.subgroups.score`.
        endpoint: Dichotomy that they were scored by.
    """
    title = "Subgroups"
    if not subgroups:
        return Section(title, ("Not shown: the table tells nothing of its knees to divide by.",))
    rows = []
    for each in subgroups:
        share = f"{each.positive} ({100 * each.positive / each.n:.0f}%)"
        cells = ("one class only",) * len(METRICS)
        if each.scores is not None:
            scores = [each.scores[metric] for metric in METRICS]
            cells = tuple(f"{format_value(s)}\n{format_interval(s)}" for s in scores)
        rows.append((f"{ATTRIBUTES[each.attribute]}: {each.name}", str(each.n), share, *cells))
    header = ("Subgroup", "n", "Positive", *(METRIC_TITLES[metric] for metric in METRICS))
    note = (
        "Knees by what is known of them at the visit of their image. Average precision is to be "
        "compared with the share of positive knees, which it would be by chance; between subgroups "
        "that differ in it, ROC AUC is the fairer one. A subgroup all of whose knees are of one "
        "class has neither. Resamples are drawn within the subgroup; so many comparisons find "
        "differences by chance alone."
    )
    return Section(title, (note,), (Table(endpoint.title, header, tuple(rows)),))


def added_value_section(added: AddedValue, endpoint: Dichotomy) -> Section:
    """Show what the network tells beyond the KL grade that was read on the same film.

    Args:
        added: Result of `metrics.added_value.added_value`.
        endpoint: Dichotomy that is predicted.
    """
    header = ("", *(METRIC_TITLES[metric] for metric in METRICS))
    tables = [
        Table(title, header, _rows_by_score(values, sign))
        for title, values, sign in (
            (endpoint.title, added.values, ""),
            ("Differences", added.differences, "+"),
        )
    ]
    note = (
        f"{added.n:,} knees whose KL grade was read, of which {added.positive:,} are positive. The "
        "KL grade alone, and grade and network together, are logistic regressions; each knee is "
        f"scored by one that was fitted to the knees of other subjects ({FOLDS} folds). Intervals "
        "are of a bootstrap by subject; a difference whose interval leaves out zero is unlikely to "
        "be chance."
    )
    return Section("What the network adds to the KL grade", (note,), tables)


def _rows_by_score(values: Sequence[Value], sign: str) -> tuple[tuple[str, ...], ...]:
    rows: dict[str, dict[str, str]] = {}
    for each in values:
        cell = f"{each.value:{sign}.3f}\n[{each.low:{sign}.3f}, {each.high:{sign}.3f}]"
        rows.setdefault(each.score, {})[each.metric] = cell
    return tuple((score, *(cells[metric] for metric in METRICS)) for score, cells in rows.items())
