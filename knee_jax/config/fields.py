"""Config fields, declared with meaning and range where they are used, and checked in one place.

A part of a config is a dataclass whose configurable fields are made by `option`. `build` makes one
from plain values, or reports in one line what is wrong with them.
"""

import dataclasses
import difflib
import functools
import itertools
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from knee_jax.errors import UserError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Range:
    """Allowed numbers; for a tuple, of every element.

    Attributes:
        low: Smallest number.
        high: Largest number.
        above: Whether `low` itself is excluded.
        below: Whether `high` itself is excluded.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        low = value > self.low if self.above else value >= self.low
        high = value < self.high if self.below else value <= self.high
        return low and high

    def __str__(self) -> str:
        low = f"above {self.low:.12g}" if self.above else f"from {self.low:.12g}"
        high = f"{'below' if self.below else 'to'} {self.high:.12g}"
        if self.low == -math.inf:
            return "" if self.high == math.inf else high.replace("to", "up to")
        if self.high == math.inf:
            return low if self.above else f"of {self.low:.12g} or more"
        return f"{low} {high}"


@dataclasses.dataclass(frozen=True)
class Option:
    """Meaning and limits of a field, in addition to its type and default.

    Attributes:
        meaning: Meaning of the field, one sentence.
        range: Allowed numbers.
        choices: Allowed values; None allows any.
        increasing: Whether the numbers of a tuple must not decrease.
        optional: Whether an empty string or tuple switches the field off.
    """

    meaning: str
    range: Range | None = None
    choices: tuple[Any, ...] | None = None
    increasing: bool = False
    optional: bool = False


def option(
    default: Any,
    meaning: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    above: float | None = None,
    below: float | None = None,
    choices: Iterable[Any] | None = None,
    increasing: bool = False,
    optional: bool = False,
) -> Any:
    """Declare a field of a config; the arguments are those of `Option` and `Range`."""
    bounds = Range(
        low if above is None else above,
        high if below is None else below,
        above is not None,
        below is not None,
    )
    known = Option(
        meaning,
        None if bounds == Range() else bounds,
        None if choices is None else tuple(choices),
        increasing,
        optional,
    )
    return dataclasses.field(default=default, metadata={"option": known})


def options(kind: type) -> Iterator[tuple[dataclasses.Field[Any], Any, Option | None]]:
    """Yield the configurable fields of a dataclass with their types; parts have no option."""
    hints = _hints(kind)
    for field in dataclasses.fields(kind):
        if "option" in field.metadata or dataclasses.is_dataclass(hints.get(field.name)):
            yield field, hints[field.name], field.metadata.get("option")


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def defaults(kind: type) -> dict[str, Any]:
    """Return the default of every configurable field of a dataclass, with nested parts as dicts."""
    found: dict[str, Any] = {}
    for field, hint, known in options(kind):
        if known is None:
            found[field.name] = defaults(hint)
        else:
            found[field.name] = {} if is_mapping(hint) else field.default
    return found


def build(kind: type[T], values: Mapping[str, Any], path: str = "config", **fixed: Any) -> T:
    """Make a part of a config from plain values, checking each of them.

    Args:
        kind: Dataclass of the part.
        values: Value of each field; lists stand for tuples, as in JSON. Omitted fields take their
            defaults.
        path: Name of the part in messages.
        **fixed: Fields that are not configurable.

    Raises:
        UserError: A field is unknown, or a value has the wrong type or lies out of range.
    """
    return kind(**fixed, **checked(kind, values, path))


def checked(kind: type, values: Mapping[str, Any], path: str = "config") -> dict[str, Any]:
    """Return the checked values of a part, with defaults for omitted fields; see `build`."""
    known = {field.name: (hint, rule) for field, hint, rule in options(kind)}
    for name in values:
        if name not in known:
            raise UserError(f"{path} has no field {name!r}: {nearest(name, known)}")
    found: dict[str, Any] = {}
    for name, (hint, rule) in known.items():
        if rule is None:
            part = values.get(name, {})
            if not isinstance(part, Mapping):
                raise UserError(f"{path}.{name} = {part!r}: a part with fields is expected")
            found[name] = build(hint, part, f"{path}.{name}")
        elif name in values:
            found[name] = _value(f"{path}.{name}", values[name], hint, rule)
        elif is_mapping(hint):
            found[name] = {}
    return found


def is_mapping(hint: Any) -> bool:
    """Return whether a type is a mapping, such as the changes of an ensemble."""
    origin = typing.get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def nearest(name: object, known: Iterable[Any]) -> str:
    """Return a hint: the closest of some names, and all of them."""
    names = [str(each) for each in known]
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}choose from {', '.join(names)}" if names else "there is none"


def _value(path: str, value: Any, hint: Any, rule: Option) -> Any:
    """Return a value converted to the type of its field, or raise UserError."""
    found = _typed(value, hint)
    if found is _WRONG:
        raise UserError(f"{path} = {_shown(value)}: {expected(hint, rule)} is expected")
    if rule.optional and found in ("", ()):
        return found
    if found == () and _fixed_length(hint):
        raise UserError(f"{path} = (): {expected(hint, rule)} is expected")
    members = found if isinstance(found, tuple) else (found,)
    if rule.choices is not None and any(each not in rule.choices for each in members):
        wrong = next(each for each in members if each not in rule.choices)
        raise UserError(f"{path} = {_shown(value)}: {nearest(wrong, rule.choices)}")
    numbers = [each for each in members if isinstance(each, int | float)]
    # NaN lies in no range.
    if any(not math.isfinite(n) or (rule.range and n not in rule.range) for n in numbers):
        raise UserError(f"{path} = {_shown(value)}: {expected(hint, rule)} is expected")
    if rule.increasing and any(b < a for a, b in itertools.pairwise(numbers)):
        raise UserError(f"{path} = {_shown(value)}: the numbers must not decrease")
    return found


def _fixed_length(hint: Any) -> bool:
    """Return whether a type is a tuple of fixed length."""
    return typing.get_origin(hint) is tuple and Ellipsis not in typing.get_args(hint)


_WRONG = object()


def _typed(value: Any, hint: Any) -> Any:
    """Return the value converted to the type, or `_WRONG` if it has another type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        found = [each for each in (_typed(value, one) for one in arguments) if each is not _WRONG]
        return found[0] if found else _WRONG
    if origin is tuple:
        if not isinstance(value, Sequence) or isinstance(value, str):
            return _WRONG
        members = arguments
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            members = (arguments[0],) * len(value)
        elif not value:
            return ()
        if len(value) != len(members):
            return _WRONG
        each = tuple(_typed(one, of) for one, of in zip(value, members))
        return _WRONG if any(one is _WRONG for one in each) else each
    if is_mapping(hint):
        return dict(value) if isinstance(value, Mapping) else _WRONG
    if hint is bool:
        return value if isinstance(value, bool) else _WRONG
    if hint is int:
        return value if isinstance(value, int) and not isinstance(value, bool) else _WRONG
    if hint is float:
        good = isinstance(value, int | float) and not isinstance(value, bool)
        return value if good else _WRONG
    return value if hint is Any or isinstance(value, hint) else _WRONG


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def expected(hint: Any, rule: Option) -> str:
    """Describe in words the values that a field takes."""
    if rule.choices is not None:
        return f"one of {', '.join(map(str, rule.choices))}"
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    bounds = f" {rule.range}" if rule.range else ""
    if origin in (types.UnionType, typing.Union):
        kinds = [one for one in arguments if one is not type(None)]
        return " or ".join(["None", *(expected(one, rule) for one in kinds)])
    if origin is tuple:
        one = _NOUNS.get(arguments[0], "value")
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return f"a tuple of {one}s{bounds}"
        return f"a tuple of {len(arguments)} {one}s{bounds}"
    noun = _NOUNS.get(hint, "value")
    return f"a {noun}{bounds}"


_NOUNS = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "truth value (True or False)",
}
