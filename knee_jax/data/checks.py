"""Whether what a config says of an augmentation has a meaning."""

import math
from typing import Any

from knee_jax.errors import UserError

Range = tuple[float, float]
"""Lowest and highest value of a uniform draw."""


def check_number(
    field: str, value: Any, low: float, high: float = math.inf, unit: str = ""
) -> None:
    """Raises UserError unless a field of `config.augmentation` is a number from low to high."""
    if not _is_number(value) or not low <= value <= high:
        wanted = f"{low} or more" if high == math.inf else f"from {low} to {high}"
        raise UserError(
            f"config.augmentation.{field} = {value!r}: a number {wanted}{unit and ', ' + unit}"
        )


def check_positive_range(field: str, value: Any) -> None:
    """Raises UserError unless a field of `config.augmentation` is (low, high), 0 < low <= high."""
    pair = isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value))
    if not pair or not 0 < value[0] <= value[1]:
        raise UserError(
            f"config.augmentation.{field} = {value!r}: (low, high) with 0 < low <= high"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
