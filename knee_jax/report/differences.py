"""Text of a paired comparison of two models."""

import math
from collections.abc import Sequence

from knee_jax.metrics.comparison import Difference, Pair
from knee_jax.report.tables import METRIC_TITLES, Table, target_title


def differences_text(differences: Sequence[Difference], found: Pair, names: Sequence[str]) -> str:
    """Return tables of the differences, one per target, and what they stand on.

    Args:
        differences: Result of `comparison.compare`.
        found: Knees that were compared.
        names: Names of the two models.
    """
    parts = [f"{names[1]} minus {names[0]}, on {len(found.first)} knees that both predicted"]
    for count, name in ((found.only_first, names[0]), (found.only_second, names[1])):
        if count:
            parts[0] += f"; {count} more by {name} alone"
    for target in dict.fromkeys(each.target for each in differences):
        rows = tuple(_row(each) for each in differences if each.target == target)
        header = ("", "first", "second", "difference", "95 % interval", "test")
        parts.append(Table(target_title(target), header, rows, ()).text())
    parts.append(
        "Intervals: bootstrap by subject, both on the same resamples. McNemar's and DeLong's tests "
        "take knees for independent."
    )
    return "\n\n".join(parts)


def _row(each: Difference) -> tuple[str, ...]:
    test = "" if not each.test or math.isnan(each.p) else f"{each.test} p = {each.p:.3g}"
    return (
        METRIC_TITLES.get(each.metric, each.metric),
        f"{each.first:.3f}",
        f"{each.second:.3f}",
        f"{each.difference:+.3f}",
        f"[{each.low:+.3f}, {each.high:+.3f}]",
        test,
    )
