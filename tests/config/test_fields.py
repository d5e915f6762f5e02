"""Fields of a config: what is accepted, and how what is not is named."""

import dataclasses
import math

import pytest

from knee_jax.config import fields
from knee_jax.config.fields import Range, option
from knee_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = option(0.5, "A share.", low=0, below=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    number: int = option(1, "A count.", low=1)
    name: str = option("a", "A choice.", choices=("apple", "a"))
    pair: tuple[float, float] = option((1.0, 2.0), "A range.", above=0, increasing=True)
    many: tuple[int, ...] = option((), "Some.", low=1)
    maybe: float | None = option(None, "May be missing.", low=0)
    shape: tuple[int, int, int] = option((), "May be empty.", low=1, optional=True)
    switch: bool = option(False, "On or off.")
    inner: Inner = dataclasses.field(default_factory=Inner)
    hidden: int = 3


def test_plain_values_become_a_part():
    made = fields.build(
        Outer,
        {"number": 3, "pair": [1, 1], "many": [2, 1], "maybe": 0, "inner": {"rate": 0}},
        hidden=4,
    )
    assert made == Outer(number=3, pair=(1, 1), many=(2, 1), maybe=0, inner=Inner(rate=0), hidden=4)
    assert fields.build(Outer, {}) == Outer()
    assert fields.build(Outer, {"shape": [1, 2, 3]}).shape == (1, 2, 3)
    assert fields.build(Outer, {"shape": []}).shape == ()
    assert fields.defaults(Outer)["inner"] == {"rate": 0.5}
    assert "hidden" not in fields.defaults(Outer)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"number": 0}, "p.number = 0: a whole number of 1 or more is expected"),
        ({"number": 1.5}, "p.number = 1.5: a whole number"),
        ({"number": True}, "p.number = True: a whole number"),
        ({"number": "3"}, "p.number = '3': a whole number"),
        ({"number": None}, "p.number = None"),
        ({"name": "appel"}, "p.name = 'appel': did you mean 'apple'\\? choose from apple, a"),
        ({"name": 3}, "p.name = 3: one of apple, a is expected"),
        ({"pair": (2.0, 1.0)}, "p.pair = \\(2.0, 1.0\\): the numbers must not decrease"),
        ({"pair": (0.0, 1.0)}, "p.pair = .*a tuple of 2 numbers above 0"),
        ({"pair": (1.0,)}, "p.pair = .*a tuple of 2 numbers"),
        ({"pair": 1.0}, "p.pair = 1.0: a tuple of 2 numbers"),
        ({"pair": (1.0, math.nan)}, "p.pair = "),
        ({"pair": (1.0, math.inf)}, "p.pair = "),
        ({"many": (1, 0)}, "p.many = .*a tuple of whole numbers of 1 or more"),
        ({"many": "12"}, "p.many = '12'"),
        ({"maybe": -1.0}, "p.maybe = -1.0: None or a number of 0 or more"),
        ({"shape": (1, 2)}, "p.shape = \\(1, 2\\): a tuple of 3 whole numbers"),
        ({"switch": 1}, "p.switch = 1: a truth value"),
        ({"inner": {"rate": 1.0}}, "p.inner.rate = 1.0: a number from 0 below 1"),
        ({"inner": 3}, "p.inner = 3: a part with fields"),
        ({"inner": {"rat": 1}}, "p.inner has no field 'rat': did you mean 'rate'\\?"),
        ({"hidden": 3}, "p has no field 'hidden'"),
    ],
)
def test_what_is_wrong_is_named_with_the_range_and_the_nearest_name(values, message):
    with pytest.raises(UserError, match=f"^{message}"):
        fields.build(Outer, values, "p")


def test_ranges_have_words():
    assert str(Range()) == ""
    assert str(Range(0)) == "of 0 or more"
    assert str(Range(0, above=True)) == "above 0"
    assert str(Range(0, 1)) == "from 0 to 1"
    assert str(Range(0, 1, below=True)) == "from 0 below 1"
    assert str(Range(0, 1, above=True)) == "above 0 to 1"
    assert str(Range(high=1)) == "up to 1"
    assert 0 in Range(0)
    assert 0 not in Range(0, above=True)
    assert 1 not in Range(0, 1, below=True)
